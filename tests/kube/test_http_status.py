"""Metrics and probes over HTTP, and visitors that behave badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from twinvault_kube.http_status import Health, StatusServer


@pytest.fixture
async def server() -> AsyncIterator[StatusServer]:
    made = StatusServer(
        "127.0.0.1",
        0,
        metrics=lambda: b"metric 1\n",
        healthy=lambda: Health(True, "alive"),
        ready=lambda: Health(False, "pools are being looked at"),
    )
    await made.start()
    yield made
    await made.close()


async def ask(server: StatusServer, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("request_line", "first", "body"),
    [
        (b"GET /metrics HTTP/1.1", b"HTTP/1.1 200 OK", b"metric 1\n"),
        (b"GET /healthz?verbose HTTP/1.1", b"HTTP/1.1 200 OK", b"alive\n"),
        (b"GET /readyz HTTP/1.1", b"HTTP/1.1 503 Service Unavailable", b"pools are being lo"),
        (b"HEAD /metrics HTTP/1.1", b"HTTP/1.1 200 OK", b""),
        (b"GET /../../etc/passwd HTTP/1.1", b"HTTP/1.1 404 Not Found", b"there are"),
        (b"POST /metrics HTTP/1.1", b"HTTP/1.1 405 Method Not Allowed", b"GET only"),
        (b"nonsense", b"HTTP/1.1 405 Method Not Allowed", b"GET only"),
    ],
)
async def test_each_path_has_its_answer(
    server: StatusServer, request_line: bytes, first: bytes, body: bytes
) -> None:
    answer = await ask(server, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(first)
    assert rest.startswith(body)


async def test_an_endless_head_is_hung_up_on(server: StatusServer) -> None:
    assert await ask(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000) == b""
    assert b"200 OK" in await ask(server, b"GET /metrics HTTP/1.1\r\n\r\n")
