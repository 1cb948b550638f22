"""The pool's reserve: space that new volumes and snapshots never take."""

from __future__ import annotations

import os

from twinvault_core.errors import NoSpaceError
from twinvault_core.sizing import format_bytes

from .layout import PoolDirectory


def require_space(pool: PoolDirectory, what: str) -> None:
    """NoSpaceError when the pool's free bytes are at or below its reserve."""
    usage = os.statvfs(pool.root)
    size, free = usage.f_blocks * usage.f_frsize, usage.f_bavail * usage.f_frsize
    reserve = size * pool.reserve_percent // 100
    if free <= reserve:
        raise NoSpaceError(
            f"pool {pool.name} has {format_bytes(free)} free of {format_bytes(size)} and keeps"
            f" {format_bytes(reserve)} in reserve: no room for {what}."
            " Delete snapshots or volumes, or add a pool"
        )


def is_full(pool: PoolDirectory) -> bool:
    """Whether the pool has practically nothing left: what fails there now failed for that."""
    usage = os.statvfs(pool.root)
    return usage.f_bavail * usage.f_frsize < 8 * 1024**2
