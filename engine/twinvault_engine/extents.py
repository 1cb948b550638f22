"""Where a file's blocks are (FIEMAP), and which blocks differ between two snapshots.

FIEMAP_FLAG_SYNC always: without it a dirty copy-on-write block still shows its old address.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from itertools import pairwise
from pathlib import Path

from twinvault_core.errors import TwinvaultError

_FS_IOC_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_FLAG_SYNC = 1
_PAGE_EXTENTS = 4096
_WHOLE = (1 << 64) - 1


class Flag(IntFlag):
    """What FIEMAP says of an extent."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELALLOC = 0x4
    ENCODED = 0x8
    DATA_ENCRYPTED = 0x80
    NOT_ALIGNED = 0x100
    DATA_INLINE = 0x200
    DATA_TAIL = 0x400
    UNWRITTEN = 0x800
    MERGED = 0x1000
    SHARED = 0x2000


_UNTOLD = Flag.UNKNOWN | Flag.DELALLOC | Flag.DATA_INLINE | Flag.DATA_TAIL | Flag.NOT_ALIGNED


@dataclass(frozen=True, slots=True)
class Extent:
    """``length`` bytes of a file at ``logical``, stored at ``physical``; all in bytes."""

    logical: int
    physical: int
    length: int
    flags: Flag

    @property
    def end(self) -> int:
        return self.logical + self.length


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` bytes from ``offset``."""

    offset: int
    length: int


def read_extents(path: Path) -> list[Extent]:
    """The file's whole map, in order, after syncing it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return list(_page_extents(fd, str(path)))
    finally:
        os.close(fd)


def _page_extents(fd: int, name: str) -> Iterator[Extent]:
    start = 0
    while True:
        page = _read_page(fd, start, name)
        yield from page
        if not page or Flag.LAST in page[-1].flags:
            return
        start = page[-1].end


def _read_page(fd: int, start: int, name: str) -> list[Extent]:
    buffer = bytearray(_HEADER.size + _PAGE_EXTENTS * _EXTENT.size)
    _HEADER.pack_into(buffer, 0, start, _WHOLE - start, _FLAG_SYNC, 0, _PAGE_EXTENTS, 0)
    try:
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer, True)
    except OSError as error:
        raise TwinvaultError(f"the block map of {name} cannot be read: {error.strerror}") from error
    mapped = _HEADER.unpack_from(buffer, 0)[3]
    page = []
    for index in range(mapped):
        logical, physical, length, flags = _EXTENT.unpack_from(
            buffer, _HEADER.size + index * _EXTENT.size
        )
        page.append(Extent(logical, physical, length, Flag(flags)))
    return page


def count_mapped(path: Path) -> int:
    """How many extents the file has, without copying the map."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        raw = fcntl.ioctl(fd, _FS_IOC_FIEMAP, _HEADER.pack(0, _WHOLE, 0, 0, 0, 0))
    finally:
        os.close(fd)
    return int(_HEADER.unpack(raw)[3])


def _stored(extents: Iterable[Extent]) -> list[Extent]:
    """Extents that hold data: unwritten ones read as zeros, as holes do."""
    return [extent for extent in extents if Flag.UNWRITTEN not in extent.flags]


def _same_place(old: Extent, new: Extent) -> bool:
    """Whether both extents, where they overlap, are stored in the same place for certain."""
    if (old.flags | new.flags) & _UNTOLD:
        return False
    if (old.flags | new.flags) & Flag.ENCODED:
        # A compressed extent has one address for all of its bytes, also for a part of it.
        return (old.physical, old.flags & Flag.ENCODED) == (
            new.physical,
            new.flags & Flag.ENCODED,
        )
    return old.physical - old.logical == new.physical - new.logical


def plan_changed_ranges(
    old: Sequence[Extent], new: Sequence[Extent], size_bytes: int
) -> list[Range]:
    """Ranges below ``size_bytes`` whose content may differ between two snapshots of one volume.

    Both files must still exist, or freed blocks may have been used again. What is in neither map
    is a hole in both. Never misses a change; bytes that FIEMAP cannot place count as changed.
    """
    before, after = _stored(old), _stored(new)
    edges = sorted(
        {0, size_bytes}
        | {
            edge
            for extent in (*before, *after)
            for edge in (extent.logical, extent.end)
            if edge < size_bytes
        }
    )
    changed: list[Range] = []
    i = j = 0
    for start, end in pairwise(edges):
        while i < len(before) and before[i].end <= start:
            i += 1
        while j < len(after) and after[j].end <= start:
            j += 1
        here_old = before[i] if i < len(before) and before[i].logical <= start else None
        here_new = after[j] if j < len(after) and after[j].logical <= start else None
        if here_old is None and here_new is None:
            continue
        if here_old and here_new and _same_place(here_old, here_new):
            continue
        _append(changed, start, end)
    return changed


def _append(ranges: list[Range], start: int, end: int) -> None:
    if ranges and ranges[-1].offset + ranges[-1].length == start:
        ranges[-1] = Range(ranges[-1].offset, end - ranges[-1].offset)
    else:
        ranges.append(Range(start, end - start))
