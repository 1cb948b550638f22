"""/metrics, /healthz and /readyz: a small HTTP server in the operator's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REQUEST_TIMEOUT_SECONDS = 5.0
MAX_HEAD_BYTES = 16 * 1024

Check = Callable[[], str]
"""Empty when all is well, else what is wrong."""


class ProbeServer:
    """``before_scrape`` fills gauges that are only worth computing when somebody asks."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        healthy: Check,
        ready: Check,
        before_scrape: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._checks = {"/healthz": healthy, "/readyz": ready}
        self._before_scrape = before_scrape
        self._server: asyncio.Server | None = None

    async def start(self, port: int, host: str | None = None) -> int:
        """Listen; the port that it is (0 asks for any)."""
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=MAX_HEAD_BYTES, reuse_address=True
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head.split(b" ", 2)))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went away or sent garbage gets no answer
        finally:
            writer.close()

    def _answer(self, words: list[bytes]) -> bytes:
        path = words[1].decode("latin-1").partition("?")[0] if len(words) > 1 else ""
        if words[0] not in (b"GET", b"HEAD"):
            return _format(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n")
        if path == "/metrics":
            self._before_scrape()
            return _format(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_LATEST)
        check = self._checks.get(path)
        if check is None:
            return _format(HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n")
        problem = check()
        if problem:
            return _format(HTTPStatus.SERVICE_UNAVAILABLE, problem.encode() + b"\n")
        return _format(HTTPStatus.OK, b"ok\n")


def _format(status: HTTPStatus, body: bytes, content_type: str = "text/plain") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
