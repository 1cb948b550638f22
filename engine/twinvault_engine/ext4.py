"""ext4 inside a volume: mkfs.ext4, e2fsck, resize2fs, and its superblock."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from twinvault_core.errors import DataAtRiskError, FailedPreconditionError

from . import runner

MKFS_TIMEOUT_SECONDS = 120.0
CHECK_TIMEOUT_SECONDS = 900.0
GROW_TIMEOUT_SECONDS = 300.0
_SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xEF53
_STATE_ERRORS = 0x2
_INCOMPAT_64BIT = 0x80
_ERRORS_CORRECTED = frozenset({0, 1})


@dataclass(frozen=True)
class Superblock:
    """What of the superblock matters here; ``has_errors``: the kernel met corruption."""

    size_bytes: int
    has_errors: bool


def parse_superblock(head: bytes) -> Superblock | None:
    """From the first 4096 bytes of a device; None when it is no ext filesystem."""
    block = head[_SUPERBLOCK_OFFSET : _SUPERBLOCK_OFFSET + 1024]
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
        return None
    count = struct.unpack_from("<I", block, 0x4)[0]
    if struct.unpack_from("<I", block, 0x60)[0] & _INCOMPAT_64BIT:
        count |= struct.unpack_from("<I", block, 0x150)[0] << 32
    block_bytes = 1024 << struct.unpack_from("<I", block, 0x18)[0]
    state = struct.unpack_from("<H", block, 0x3A)[0]
    return Superblock(count * block_bytes, bool(state & _STATE_ERRORS))


def make(device: str) -> None:
    """Format a device that reads as zeros all over.

    Because it does, inode tables and journal count as zeroed already: nothing to write for them,
    now or by the kernel later, and the sparse image stays sparse.
    """
    runner.run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", _MKFS_EXTENDED, device],
        timeout_seconds=MKFS_TIMEOUT_SECONDS,
    )


_MKFS_EXTENDED = "nodiscard,lazy_itable_init=1,lazy_journal_init=1,assume_storage_prezeroed=1"


def check(device: str) -> None:
    """Repair what e2fsck repairs safely by itself; DataAtRiskError when a person must decide."""
    try:
        runner.run(
            ["e2fsck", "-p", device],
            timeout_seconds=CHECK_TIMEOUT_SECONDS,
            accept=_ERRORS_CORRECTED,
        )
    except runner.CommandError as error:
        if error.failure is runner.Failure.TIMEOUT or error.returncode is None:
            raise
        raise DataAtRiskError(
            f"the ext4 filesystem on {device} is damaged and e2fsck -p does not repair it by"
            " itself. Take a snapshot of the volume, then run 'e2fsck -f' on the device"
            f" ({error.message})"
        ) from error


def grow(device: str) -> None:
    """Grow the mounted filesystem to its device; nothing to do when it fills it."""
    try:
        runner.run(["resize2fs", device], timeout_seconds=GROW_TIMEOUT_SECONDS)
    except runner.CommandError as error:
        if "Permission denied to resize" not in error.message:
            raise
        raise FailedPreconditionError(
            f"the kernel does not let ext4 on {device} grow while mounted: either the agent lacks"
            " CAP_SYS_RESOURCE, or the filesystem is marked damaged (restage it: it is checked)"
        ) from error
