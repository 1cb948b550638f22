"""XFS, below the pools and inside volumes: mkfs.xfs, xfs_growfs, and its superblock."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from . import runner

MKFS_TIMEOUT_SECONDS = 300.0
GROW_TIMEOUT_SECONDS = 120.0
LABEL_BYTES = 12
_MAGIC = b"XFSB"
_FREE_EOFBLOCKS = 0x8080583A
_EOFBLOCKS = struct.Struct("=IIIIIIQ96x")
_EOF_SYNC = 1


@dataclass(frozen=True)
class Superblock:
    """``in_progress``: mkfs has not finished."""

    size_bytes: int
    uuid: str
    label: str
    in_progress: bool


def parse_superblock(head: bytes) -> Superblock | None:
    """From the first 512 bytes or more of a device; None when it is no XFS."""
    if len(head) < 512 or head[:4] != _MAGIC:
        return None
    block_bytes, blocks = struct.unpack_from(">IQ", head, 4)
    return Superblock(
        size_bytes=block_bytes * blocks,
        uuid=str(UUID(bytes=head[32:48])),
        label=head[108:120].rstrip(b"\0").decode("ascii", "replace"),
        in_progress=head[126] != 0,
    )


def make_pool(device: str, *, label: str, uuid: str, force: bool) -> None:
    """Format a pool's device: reflinks, 4096-byte sectors as the loop devices above have.

    Without ``force`` mkfs.xfs itself refuses a device with any signature that it knows. The
    device is blank, so nothing is discarded first.
    """
    argv = ["mkfs.xfs", "-q", "-K", "-L", label, "-m", f"crc=1,reflink=1,uuid={uuid}"]
    argv += ["-s", "size=4096"]
    runner.run([*argv, *(["-f"] if force else []), device], timeout_seconds=MKFS_TIMEOUT_SECONDS)


def make_volume(device: str) -> None:
    """Format a volume whose content its journal says may go; the device reads as zeros."""
    runner.run(
        ["mkfs.xfs", "-q", "-K", "-f", "-s", "size=4096", device],
        timeout_seconds=MKFS_TIMEOUT_SECONDS,
    )


def free_preallocations(path: Path) -> None:
    """Give back what XFS holds ahead of copy-on-write; as it does by itself after half an hour.

    With an extent size hint of 1 MiB each first write after a snapshot takes 1 MiB of which only
    the written blocks are needed (measured: 52 MiB needed, 256 MiB taken).
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _FREE_EOFBLOCKS, _EOFBLOCKS.pack(1, _EOF_SYNC, 0, 0, 0, 0, 0))
    finally:
        os.close(fd)


def grow(mount_path: str) -> None:
    """Grow the mounted filesystem to its device; nothing to do when it fills it."""
    runner.run(["xfs_growfs", "-d", mount_path], timeout_seconds=GROW_TIMEOUT_SECONDS)
