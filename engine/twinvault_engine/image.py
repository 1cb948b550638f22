"""Image files: made blank or as a reflink copy of another, grown, measured."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import NoSpaceError, TwinvaultError

from . import durable, extents, loop, reflink
from .attachment import choose_device
from .freeze import Freezer
from .mountinfo import mounts_of_device
from .reflink import ExtentHints
from .steps import step

HINTS = ExtentHints(extent_bytes=1024**2, cow_extent_bytes=0)
"""Measured on an image filled by random 4 KiB writes, extents a GiB: 262,000 without a hint,
16,400 with 64 KiB, 1,000 with 1 MiB; a snapshot stalls writes for each of them. XFS takes the
larger of both hints for copy-on-write, so a smaller one for that would change nothing; what it
takes too much comes back (xfs.free_preallocations).
"""
_BLOCK_BYTES = 512
_KEEP_SIZE = 1
_PUNCH_HOLE = 2
_BLKZEROOUT = 0x127F
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Usage:
    size_bytes: int
    allocated_bytes: int
    extents: int


def make_blank(path: Path, size_bytes: int) -> None:
    """A new sparse image; replaces an unfinished one."""
    _make(path, lambda fd: os.ftruncate(fd, size_bytes), 0o600)


def make_copy(
    source: Path,
    path: Path,
    size_bytes: int,
    *,
    mode: int = 0o600,
    instant: AbstractContextManager[None] | None = None,
) -> None:
    """A new image with the content of ``source``, grown to ``size_bytes``; replaces an unfinished
    one. ``instant`` is entered around the copy itself, nothing else: the freeze.
    """

    def fill(fd: int) -> None:
        with instant or nullcontext():
            step("reflink")
            reflink.clone_file(source, fd)
        step("size of the copy")
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)

    _make(path, fill, mode)


def _make(path: Path, fill: Callable[[int], None], mode: int) -> None:
    step(f"create {path.name}")
    with suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        reflink.set_extent_hints(fd, HINTS)
        step(f"fill {path.name}")
        fill(fd)
        step(f"fsync {path.name}")
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError(
                f"the pool is full; {path} cannot be made. Delete snapshots"
            ) from error
        raise
    finally:
        os.close(fd)
    durable.fsync_directory(path.parent)


def freeze_users(image: Path, freezer: Freezer, name: str) -> AbstractContextManager[None]:
    """What to hold while ``image`` is copied: its filesystem frozen if it is mounted.

    A raw block device has nothing to freeze; what its page cache holds is written first. The copy
    itself is of one instant in any case.
    """
    device = choose_device(image)
    if device is None:
        return nullcontext()
    mounts = [m for m in mounts_of_device(device.major_minor) if not m.read_only]
    if mounts:
        return freezer.frozen(mounts[0], name)
    durable.fsync_file(Path(device.path))
    return nullcontext()


def grow(path: Path, size_bytes: int) -> None:
    """Grow the image, and the device over it; never shrinks. The new part reads as zeros."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_size < size_bytes:
            step("grow image")
            os.ftruncate(fd, size_bytes)
            os.fsync(fd)
    finally:
        os.close(fd)
    refresh_device(path)


def refresh_device(path: Path) -> None:
    """Let the loop device over the image see the image's size."""
    device = loop.find_device(path)
    if device is not None and device.size_bytes < path.stat().st_size:
        step("grow device")
        loop.refresh_capacity(device)


def zero_device(path: str) -> None:
    """Make a whole block device read as zeros, the image below it a hole again if it can."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", 0, size))
        os.fsync(fd)
    except OSError as error:
        raise TwinvaultError(f"{path} cannot be emptied: {error.strerror}; try again") from error
    finally:
        os.close(fd)


def punch(path: Path) -> None:
    """Make the whole image a hole, at the size it has."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(size)):
            raise TwinvaultError(
                f"{path} cannot be emptied: {os.strerror(ctypes.get_errno())}; try again"
            )
        os.fsync(fd)
    finally:
        os.close(fd)


def is_blank(path: Path) -> bool:
    """Whether no byte of the image was ever written: it reads as zeros from end to end."""
    return is_blank_from(path, 0)


def is_blank_from(path: Path, offset: int) -> bool:
    """As ``is_blank``, for what comes from ``offset`` on."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.lseek(fd, offset, os.SEEK_DATA)
        return False
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise
    finally:
        os.close(fd)


def observe_usage(path: Path) -> Usage:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        count = reflink.count_extents(fd)
    finally:
        os.close(fd)
    if count is None:
        count = extents.count_mapped(path)
    return Usage(status.st_size, status.st_blocks * _BLOCK_BYTES, count)
