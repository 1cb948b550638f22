"""/healthz, /readyz and /metrics over plain HTTP: three answers do not need a web framework."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest

from twinvault_core.errors import TwinvaultError

logger = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None]]
"""Returns when all is well; raises TwinvaultError with words when not."""

REQUEST_SECONDS = 10.0
MAX_REQUEST_BYTES = 8192
_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class CallMetrics:
    """Duration of calls by method and gRPC code."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._seconds = Histogram(
            "twinvault_csi_call_seconds",
            "Duration of CSI calls.",
            ("method", "code"),
            buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )

    def observe(self, method: str, code: str, seconds: float) -> None:
        self._seconds.labels(method, code).observe(seconds)


class HealthServer:
    """Answers until closed. ``is_alive`` decides on /healthz, ``is_ready`` on /readyz."""

    def __init__(self, metrics: CallMetrics, is_alive: Check, is_ready: Check) -> None:
        self._metrics = metrics
        self._checks = {"/healthz": is_alive, "/readyz": is_ready}
        self._server: asyncio.Server | None = None

    async def start(self, port: int, host: str | None = None) -> int:
        """The port that is listened on; ``port`` 0 takes a free one."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_REQUEST_BYTES)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = await self._answer(head.split(b"\r\n", 1)[0].decode("latin-1"))
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            logger.debug("a health request was not finished")
        finally:
            writer.close()

    async def _answer(self, request_line: str) -> tuple[str, str, bytes]:
        method, _, rest = request_line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return "405 Method Not Allowed", _TEXT, b"only GET\n"
        if path == "/metrics":
            return "200 OK", _METRICS, generate_latest(self._metrics.registry)
        check = self._checks.get(path)
        if check is None:
            return "404 Not Found", _TEXT, b"there are /healthz, /readyz and /metrics\n"
        try:
            await check()
        except TwinvaultError as error:
            return "503 Service Unavailable", _TEXT, f"{error.message}\n".encode()
        return "200 OK", _TEXT, b"ok\n"
