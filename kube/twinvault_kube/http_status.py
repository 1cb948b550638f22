"""/metrics, /healthz and /readyz of a process, on its own event loop; a scrape costs no thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 5.0
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 32


class Health(NamedTuple):
    """``text`` says what is wrong, or what was looked at."""

    good: bool
    text: str


Probe = Callable[[], Health | Awaitable[Health]]
"""One that asks another process is awaited, within the request's deadline."""

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_TEXT = "text/plain; charset=utf-8"
_METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class StatusServer:
    """A small HTTP/1.1 server: GET only, one request a connection.

    That it answers shows that the event loop is alive. ``port`` 0 lets the kernel choose one.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        metrics: Callable[[], bytes],
        healthy: Probe,
        ready: Probe,
    ) -> None:
        self._address, self._port = address, port
        self._metrics, self._probes = metrics, {"/healthz": healthy, "/readyz": ready}
        self._server: asyncio.Server | None = None
        self._connections = 0

    @property
    def port(self) -> int:
        """The port that is listened on; only after ``start``."""
        if self._server is None:
            raise RuntimeError("not started")
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. OSError when the port is taken."""
        self._server = await asyncio.start_server(
            self._accept, self._address, self._port, limit=MAX_HEAD_BYTES
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(REQUEST_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head))
                    await writer.drain()
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            logger.debug("an HTTP client is gone")
        except asyncio.LimitOverrunError:
            logger.info("an HTTP request's head is longer than %d bytes", MAX_HEAD_BYTES)
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or words[0] not in ("GET", "HEAD"):
            return _format(405, _TEXT, b"GET only\n")
        path = words[1].split("?", 1)[0]
        if path == "/metrics":
            code, kind, body = 200, _METRICS_TEXT, self._metrics()
        elif path in self._probes:
            found = self._probes[path]()
            health = found if isinstance(found, Health) else await found
            code, kind = (200 if health.good else 503), _TEXT
            body = health.text.encode() + b"\n"
        else:
            code, kind, body = 404, _TEXT, b"there are /metrics, /healthz and /readyz\n"
        answer = _format(code, kind, body)
        return answer if words[0] == "GET" else answer[: len(answer) - len(body)]


def _format(code: int, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
