"""A little space set aside in each pool, so that a completely full one can still delete.

A deletion begins with a journal entry, and that needs a block. Only deletions may spend it; the
next ``ensure_pool`` that finds room sets it aside again.
"""

from __future__ import annotations

import os
from contextlib import suppress

from .layout import PoolDirectory

_FILE = "ballast"
_BYTES = 1024**2


def set_aside(pool: PoolDirectory) -> None:
    """Make the ballast if it is not there; on a full pool there is none, and no error."""
    fd = os.open(pool.root / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < _BYTES:
            with suppress(OSError):
                os.posix_fallocate(fd, 0, _BYTES)
    finally:
        os.close(fd)


def spend(pool: PoolDirectory) -> None:
    """Free the ballast. Truncated and not unlinked: XFS frees the blocks at once then."""
    with suppress(FileNotFoundError):
        os.truncate(pool.root / _FILE, 0)
