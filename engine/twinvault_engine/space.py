"""The pool's reserve: space that new volumes and snapshots never take."""

from __future__ import annotations

import os
import time

from twinvault_core.errors import NoSpaceError
from twinvault_core.sizing import format_bytes

from . import xfs
from .layout import PoolDirectory

_FREEING_SECONDS = 1.0


def require_space(pool: PoolDirectory, what: str) -> None:
    """NoSpaceError when the pool's free bytes are at or below its reserve."""
    deadline = time.monotonic() + _FREEING_SECONDS
    asked = False
    while True:
        usage = os.statvfs(pool.root)
        size, free = usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize
        reserve = size * pool.reserve_percent // 100
        if free > reserve:
            return
        if not asked:
            asked = True
            xfs.free_preallocations(pool.root)
            continue
        # XFS frees what was deleted in the background, and statfs asks it to make haste.
        if time.monotonic() > deadline:
            raise NoSpaceError(
                f"pool {pool.name} has {format_bytes(free)} free of {format_bytes(size)} and keeps"
                f" {format_bytes(reserve)} in reserve: no room for {what}."
                " Delete snapshots or volumes, or add a pool"
            )
        time.sleep(0.05)


def is_full(pool: PoolDirectory) -> bool:
    """Whether the pool has practically nothing left: what fails there now failed for that."""
    usage = os.statvfs(pool.root)
    return usage.f_bavail * usage.f_frsize < 8 * 1024**2
