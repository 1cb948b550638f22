"""Answers the kernel's questions: the helper on the host connects, asks one line, hears a number.

The helper takes 4, 6 and 7 for ``fence-peer``, 0 for the others, and anything else for "unsure":
I/O stays frozen, or the resync does not start, and the agent takes it up later by itself. So every
failure here ends in 1, within the helper's patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.5
"""Below the four seconds after which the helper gives up."""
MAX_LINE_BYTES = 1024
_BACKLOG = 256
_MAX_SOCKET_PATH = 107


class Answer(IntEnum):
    """Exit codes of the helper. There is no 5: it would let I/O go on without a record."""

    GO_AHEAD = 0
    """Of every handler but fence-peer."""
    UNSURE = 1
    PEER_OUTDATED = 4
    PEER_IS_PRIMARY = 6
    PEER_FENCED = 7


@dataclass(frozen=True)
class Question:
    """What the kernel asks. ``what``: the resource's name, or ``minor-N`` for handlers of one
    device. ``peer_address`` is empty when it was not told.
    """

    handler: str
    what: str
    peer_address: str = ""

    @property
    def minor(self) -> int | None:
        number = self.what.removeprefix("minor-")
        return int(number) if number != self.what and number.isdecimal() else None


Decide = Callable[[Question], Awaitable[int]]


def parse_question(line: bytes) -> Question | None:
    """``HANDLER WHAT FAMILY ADDRESS``; None for anything else."""
    words = line.decode("ascii", "replace").split()
    if len(words) != 4 or not line.endswith(b"\n"):
        return None
    handler, what, _, address = words
    return Question(handler, what, "" if address == "-" else address)


class FenceServer:
    """Listens at ``path``; ``decide`` is asked for every question and may take its time, but not
    longer than ``answer_seconds``. What it still does then goes on: an answer that comes too late
    must be finished by whoever decides, the kernel does not ask again.
    """

    def __init__(
        self, path: Path, decide: Decide, *, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._path, self._decide, self._answer_seconds = path, decide, answer_seconds
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._questions: set[asyncio.Task[int]] = set()

    async def start(self) -> None:
        """Listen; a socket of an earlier life is replaced."""
        if len(str(self._path)) > _MAX_SOCKET_PATH:
            raise FailedPreconditionError(
                f"{self._path} is too long for a socket; use a shorter data directory"
            )
        temporary = self._path.with_name(".fence.new")
        temporary.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.bind(str(temporary))
            temporary.chmod(0o600)
            listener.listen(_BACKLOG)
            temporary.rename(self._path)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=MAX_LINE_BYTES
        )

    async def stop(self) -> None:
        """Stop listening: from now on the helper answers 1 by itself."""
        if self._server is not None:
            self._server.close()
        for task in [*self._clients, *self._questions]:
            task.cancel()
        await asyncio.gather(*self._clients, *self._questions, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            async with asyncio.timeout(self._answer_seconds):
                line = await reader.readline()
            writer.write(b"%d\n" % await self._answer(line))
            await writer.drain()
        except (ConnectionError, TimeoutError, ValueError):
            logger.warning("a fence helper went away before it was answered")
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, line: bytes) -> int:
        question = parse_question(line)
        if question is None:
            logger.warning("the fence helper asked what is no question: %r", line[:200])
            return Answer.UNSURE
        begun = time.monotonic()
        task = asyncio.ensure_future(self._decide(question))
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)
        done, _ = await asyncio.wait({task}, timeout=self._answer_seconds)
        code = _code_of(question, task) if done else Answer.UNSURE
        logger.log(
            logging.INFO if done else logging.WARNING,
            "%s of %s: answered %d after %.3f s",
            *(question.handler, question.what, code, time.monotonic() - begun),
        )
        return code


def _code_of(question: Question, task: asyncio.Task[int]) -> int:
    """The decision, checked once more; 1 when it failed or is none that may be given."""
    failure = None if task.cancelled() else task.exception()
    if task.cancelled() or failure is not None:
        logger.error("%s of %s failed", question.handler, question.what, exc_info=failure)
        return Answer.UNSURE
    allowed = {Answer.PEER_OUTDATED, Answer.PEER_IS_PRIMARY, Answer.PEER_FENCED}
    if question.handler != "fence-peer":
        allowed = {Answer.GO_AHEAD}
    code = task.result()
    return code if code in allowed else Answer.UNSURE
