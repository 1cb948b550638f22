"""The socket: only root's processes, only whole requests, and work that outlives its asker."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from twinvault_core.agent_api import (
    MAX_LINE_BYTES,
    NodeInfo,
    Request,
    Stats,
    format_request,
    parse_answer,
)
from twinvault_core.errors import (
    DeadlineError,
    ErrorCode,
    FailedPreconditionError,
    InUseError,
    TwinvaultError,
)
from twinvault_engine.agent.instance import only_agent
from twinvault_engine.agent.socket_server import SocketServer

Handle = Callable[[Request], Awaitable[dict[str, Any]]]
UID = os.getuid()


async def answer_node(request: Request) -> dict[str, Any]:
    if isinstance(request, Stats):
        raise InUseError("busy elsewhere")
    return {"node": "east-1"}


@contextlib.asynccontextmanager
async def serving(path: Path, handle: Handle = answer_node, **options: Any) -> AsyncIterator[None]:
    server = SocketServer(path, handle, **{"allowed_uid": UID, **options})
    await server.start()
    try:
        yield
    finally:
        await server.close(grace_seconds=1)


async def ask(path: Path, raw: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(raw)
        return await asyncio.wait_for(reader.readline(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_request_is_answered_and_an_error_keeps_its_code(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    async with serving(path):
        assert parse_answer(await ask(path, format_request(NodeInfo()))) == {"node": "east-1"}
        with pytest.raises(TwinvaultError, match="busy elsewhere") as caught:
            parse_answer(await ask(path, format_request(Stats("v", "/x"))))
        assert caught.value.code is ErrorCode.IN_USE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_one_connection_may_ask_many_times(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with serving(path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        for _ in range(3):
            writer.write(format_request(NodeInfo()))
            assert b"east-1" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_another_users_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with serving(path, allowed_uid=UID + 1):
        with pytest.raises(TwinvaultError, match="may not use"):
            parse_answer(await ask(path, format_request(NodeInfo())))


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b'{"operation": "format_c"}\n',
        b'{"operation": "stage", "arguments": {"volume_id": 7}}\n',
        b'{"operation": "stage", "arguments": {"volume_id": "v"}}\n',
        b'{"operation": "node_info", "arguments": {"x": 1}}\n',
        b'{"operation": "stats", "arguments": {"volume_id": "v", "path": ["/x"]}}\n',
        b"\xff\xfe\n",
    ],
)
async def test_what_is_no_request_is_invalid(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "agent.sock"
    async with serving(path):
        answer = json.loads(await ask(path, line))
    assert answer["error"]["code"] == "Invalid"


async def test_an_endless_request_is_refused_and_the_next_client_served(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    async with serving(path):
        answer = json.loads(await ask(path, b"x" * (MAX_LINE_BYTES * 2)))
        assert answer["error"]["code"] == "Invalid"
        assert b"east-1" in await ask(path, format_request(NodeInfo()))


async def test_a_failure_that_nobody_foresaw_is_an_internal_error(tmp_path: Path) -> None:
    async def fail(request: Request) -> dict[str, Any]:
        raise KeyError("oops")

    path = tmp_path / "agent.sock"
    async with serving(path, fail):
        answer = json.loads(await ask(path, format_request(NodeInfo())))
    assert answer["error"]["code"] == "Internal"
    assert "oops" in answer["error"]["message"]


async def test_work_goes_on_after_its_deadline(tmp_path: Path) -> None:
    finished = asyncio.Event()

    async def slow(request: Request) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        finished.set()
        return {}

    path = tmp_path / "agent.sock"
    async with serving(path, slow, request_seconds=0.01):
        with pytest.raises(TwinvaultError, match="it goes on") as caught:
            parse_answer(await ask(path, format_request(NodeInfo())))
        assert caught.value.code is DeadlineError.code
        await asyncio.wait_for(finished.wait(), 5)


async def test_work_goes_on_when_its_asker_is_gone(tmp_path: Path) -> None:
    started, finished = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> dict[str, Any]:
        started.set()
        await asyncio.sleep(0.05)
        finished.set()
        return {}

    path = tmp_path / "agent.sock"
    async with serving(path, slow):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(format_request(NodeInfo()))
        await started.wait()
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(finished.wait(), 5)


async def test_clients_at_once_are_served_at_once(tmp_path: Path) -> None:
    together = asyncio.Barrier(20)

    async def meet(request: Request) -> dict[str, Any]:
        async with together:
            return {}

    path = tmp_path / "agent.sock"
    async with serving(path, meet):
        answers = await asyncio.gather(*(ask(path, format_request(NodeInfo())) for _ in range(20)))
    assert set(answers) == {b'{"result": {}}\n'}


async def test_a_socket_of_an_earlier_life_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with serving(path):
        assert b"east-1" in await ask(path, format_request(NodeInfo()))


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(FailedPreconditionError, match="not a socket"):
        await SocketServer(path, answer_node).start()
    assert path.read_text() == "precious"


async def test_a_second_agent_waits_and_then_gives_up(tmp_path: Path) -> None:
    async with only_agent(tmp_path):
        with pytest.raises(FailedPreconditionError, match="another agent"):
            async with only_agent(tmp_path, wait_seconds=0.01):
                pass
    async with only_agent(tmp_path, wait_seconds=0):
        pass
