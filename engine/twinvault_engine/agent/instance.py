"""One agent a node: whoever holds the lock file may act on its disks."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError

LOCK_FILE = "agent.lock"
WAIT_SECONDS = 60.0
"""How long the next agent waits for the one before it to end its work."""


@contextlib.asynccontextmanager
async def only_agent(data_dir: Path, *, wait_seconds: float = WAIT_SECONDS) -> AsyncIterator[None]:
    """Inside the block this process is the only agent of the node.

    The kernel frees the lock when the process ends, however it ends. The file stays: unlinking it
    would let two agents lock two files of one name. FailedPreconditionError after
    ``wait_seconds``.
    """
    data_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    path = data_dir / LOCK_FILE
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        await _lock(fd, path, wait_seconds)
        yield
    finally:
        os.close(fd)


async def _lock(fd: int, path: Path, wait_seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() >= deadline:
                raise FailedPreconditionError(
                    f"another agent of this node holds {path} since {wait_seconds:g} s;"
                    " stop it first"
                ) from None
            await asyncio.sleep(0.1)
        else:
            return
