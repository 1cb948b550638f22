"""The agent's unix socket: one JSON object a line each way, for processes of uid 0 only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import (
    MAX_LINE_BYTES,
    Request,
    format_error,
    format_result,
    parse_request,
)
from twinvault_core.errors import (
    DeadlineError,
    FailedPreconditionError,
    InvalidError,
    TwinvaultError,
    UnavailableError,
)

from .status import describe_internal

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 110.0
"""Deadline of one request; below kubelet's two minutes, so that the answer is still heard."""
IDLE_SECONDS = 300.0
"""A client that says nothing for so long is hung up on."""
HANG_UP_SECONDS = 1.0
MAX_CLIENTS = 128
_CREDENTIALS = struct.Struct("3i")

Handle = Callable[[Request], Awaitable[dict[str, Any]]]


class SocketServer:
    """Listens at ``path`` with mode 0600. Requests of one connection are answered in order."""

    def __init__(
        self,
        path: Path,
        handle: Handle,
        *,
        request_seconds: float = REQUEST_SECONDS,
        allowed_uid: int = 0,
    ) -> None:
        self._path, self._handle = path, handle
        self._request_seconds, self._allowed_uid = request_seconds, allowed_uid
        self._clients: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Task[dict[str, Any]]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Only for the agent that holds the node's lock: a socket that is there is taken
        for a left-over. FailedPreconditionError when something else is there.
        """
        listener = _bind(self._path)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=MAX_LINE_BYTES
        )

    async def close(self, grace_seconds: float = 10.0) -> None:
        """Take no more requests, let those in work end, remove the socket file."""
        if self._server is None:
            return
        self._server.close()
        if self._requests:
            await asyncio.wait(self._requests, timeout=grace_seconds)
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            refusal = self._refusal(writer)
            if refusal is None:
                await self._serve(reader, writer)
            else:
                await _hang_up(reader, writer, refusal)
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            logger.debug("a client of the socket is gone")
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    def _refusal(self, writer: asyncio.StreamWriter) -> TwinvaultError | None:
        """Why this client is not served; None when it is."""
        peer = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if uid != self._allowed_uid:
            logger.warning("refused a client of the socket: pid %d, uid %d", pid, uid)
            return FailedPreconditionError(f"uid {uid} may not use the agent's socket")
        if len(self._clients) > MAX_CLIENTS:
            return UnavailableError(f"the agent has more than {MAX_CLIENTS} clients; try again")
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    line = await reader.readline()
            except ValueError:
                # Longer than the limit: where the next line starts cannot be known any more.
                error = InvalidError(f"a request is longer than {MAX_LINE_BYTES} bytes")
                await _hang_up(reader, writer, error)
                return
            if not line.endswith(b"\n"):
                return
            writer.write(await self._answer(line))
            await writer.drain()

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = parse_request(line)
            return format_result(await self._within_deadline(request))
        except TwinvaultError as error:
            return format_error(error)
        except Exception as error:
            logger.exception("a request failed")
            return format_error(TwinvaultError(describe_internal(error)))

    async def _within_deadline(self, request: Request) -> dict[str, Any]:
        """The work goes on when the client or the deadline is gone; its repeat finds it done.

        1. A thread in the engine cannot be stopped, and it holds the volume's lock.
        2. Were its coroutine cancelled, the lock would be free while the thread still works.
        """
        task = asyncio.ensure_future(self._handle(request))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        done, _ = await asyncio.wait({task}, timeout=self._request_seconds)
        if not done:
            task.add_done_callback(_log_late)
            raise DeadlineError(
                f"{request.operation} is not finished after {self._request_seconds:g} s;"
                " it goes on, ask again"
            )
        return task.result()


async def _hang_up(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, error: TwinvaultError
) -> None:
    """Answer ``error`` and close. What the client still sends is read: were it left unread, the
    kernel would reset the connection and the client might never see the answer.
    """
    writer.write(format_error(error))
    await writer.drain()
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HANG_UP_SECONDS):
            while await reader.read(MAX_LINE_BYTES):
                continue


def _log_late(task: asyncio.Task[dict[str, Any]]) -> None:
    """Nobody waits for it any more; its outcome is worth a line."""
    failure = None if task.cancelled() else task.exception()
    logger.info("a request ended after its deadline: %s", failure or "done")


def _bind(path: Path) -> socket.socket:
    """A listening socket at ``path``; what an earlier life left there is replaced.

    The socket is made under a name of its own with its final mode and then renamed, so that
    nobody ever finds one that is not ready or that others may open.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
        raise FailedPreconditionError(f"{path} is not a socket; move it away")
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(MAX_CLIENTS)
        temporary.rename(path)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
