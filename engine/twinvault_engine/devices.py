"""The block devices of the node, and the proof that one of them is blank.

Blank means: whole, writable, not mounted, not held, no partitions, no signature that libblkid
knows, and nothing but zeros in its first 4 MiB and last 1 MiB. Anything else is reported by name
and left alone.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError, NotFoundError
from twinvault_core.model import DeviceSelector, DeviceState

from . import runner, xfs
from .facts import DeviceFacts
from .mountinfo import observe_mounts

MIN_POOL_BYTES = 512 * 1024**2
HEAD_BYTES = 4 * 1024**2
TAIL_BYTES = 1024**2
_SYS = Path("/sys")
# DRBD's are our own volumes: one that nobody wrote to yet looks like a blank disk, and one whose
# I/O is frozen never answers who reads it.
_NOT_DISKS = ("loop", "ram", "zram", "sr", "fd", "nbd", "rbd", "drbd")
_PROBE_TIMEOUT_SECONDS = 30.0
_SECTOR_BYTES = 512


@dataclass(frozen=True)
class BlockDevice:
    """A device as sysfs knows it. ``instance`` tells this device from a later one of its name."""

    path: str
    major_minor: str
    sysfs: Path
    size_bytes: int
    model: str
    rotational: bool
    read_only: bool
    instance: str


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def resolve_device(path: str) -> BlockDevice:
    """The block device at ``path`` (symlinks followed); NotFoundError when there is none."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise NotFoundError(f"{path} is not there: {error.strerror}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise NotFoundError(f"{path} is not a block device")
    major_minor = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    sysfs = (_SYS / "dev/block" / major_minor).resolve()
    if not sysfs.is_dir():
        raise NotFoundError(f"{path} ({major_minor}) has no device behind it")
    disk = sysfs.parent if (sysfs / "partition").exists() else sysfs
    return BlockDevice(
        path=path,
        major_minor=major_minor,
        sysfs=sysfs,
        size_bytes=int(_read(sysfs / "size") or 0) * _SECTOR_BYTES,
        model=" ".join(f"{_read(disk / 'device/vendor')} {_read(disk / 'device/model')}".split()),
        rotational=_read(disk / "queue/rotational") == "1",
        read_only=_read(sysfs / "ro") == "1",
        instance=_read(disk / "diskseq"),
    )


def list_whole_devices() -> tuple[BlockDevice, ...]:
    """Every disk of the node that has a size; no loop, RAM, optical, replicated or network block
    devices.
    """
    found = []
    for entry in sorted((_SYS / "block").iterdir()):
        if entry.name.rstrip("0123456789") in _NOT_DISKS:
            continue
        try:
            device = resolve_device(f"/dev/{entry.name.replace('!', '/')}")
        except NotFoundError:
            continue
        if device.size_bytes:
            found.append(device)
    return tuple(found)


def matches_selector(device: BlockDevice, selector: DeviceSelector) -> bool:
    """Whether every property that the selector gives matches."""
    smallest, largest = selector.min_size_bytes, selector.max_size_bytes
    return (
        (smallest is None or device.size_bytes >= smallest)
        and (largest is None or device.size_bytes <= largest)
        and (selector.rotational is None or device.rotational == selector.rotational)
        and (selector.model_pattern is None or fnmatchcase(device.model, selector.model_pattern))
    )


def read_pool_superblock(device: BlockDevice) -> xfs.Superblock | None:
    """The XFS superblock on the device, if it has one."""
    try:
        fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return xfs.parse_superblock(os.pread(fd, 512, 0))
    except OSError:
        return None
    finally:
        os.close(fd)


def observe_device(device: BlockDevice, pools: Mapping[str, str]) -> DeviceFacts:
    """State of one device. ``pools``: filesystem UUID -> name of the pools that are ours."""
    state, detail = _judge(device, pools)
    return DeviceFacts(
        path=device.path,
        size_bytes=device.size_bytes,
        model=device.model,
        rotational=device.rotational,
        state=state,
        detail=detail,
    )


def _judge(device: BlockDevice, pools: Mapping[str, str]) -> tuple[DeviceState, str]:
    superblock = read_pool_superblock(device)
    if superblock is not None and superblock.uuid in pools:
        return DeviceState.POOL, f"pool {pools[superblock.uuid]}"
    mounted = [m.path for m in observe_mounts() if m.major_minor == device.major_minor]
    if mounted:
        return DeviceState.MOUNTED, f"mounted at {', '.join(mounted[:3])}"
    partitions = sorted(p.parent.name for p in device.sysfs.glob("*/partition"))
    if partitions:
        return DeviceState.PARTITIONED, f"partitions {', '.join(partitions[:4])}"
    holder = _find_holder(device)
    if holder:
        return DeviceState.HELD, holder
    found = find_content(device)
    if found:
        return DeviceState.SIGNATURE, found
    if device.read_only:
        return DeviceState.READ_ONLY, "the device refuses writes"
    if device.size_bytes < MIN_POOL_BYTES:
        return DeviceState.TOO_SMALL, f"a pool needs {MIN_POOL_BYTES} bytes"
    return DeviceState.BLANK, ""


def _find_holder(device: BlockDevice) -> str:
    holders = sorted(p.name for p in (device.sysfs / "holders").glob("*"))
    if holders:
        return f"held by {', '.join(holders[:4])}"
    try:
        os.close(os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "held by the kernel: swap, a RAID, or a mount in another namespace"
        return f"cannot be opened: {error.strerror}"
    return ""


def find_content(device: BlockDevice) -> str:
    """Words for what is on the device, '' only when it is provably blank."""
    said = runner.run(
        ["wipefs", "--json", "--no-act", device.path], timeout_seconds=_PROBE_TIMEOUT_SECONDS
    )
    names = parse_signatures(said.stdout)
    if names:
        return f"signature {', '.join(names)}"
    offset = _find_nonzero(device)
    if offset is not None:
        return f"data of an unknown kind (first byte that is not zero: {offset})"
    return ""


def parse_signatures(text: str) -> list[str]:
    """Names of the signatures in the output of ``wipefs --json``, without repetitions."""
    if not text.strip():
        return []
    found = json.loads(text).get("signatures") or []
    return list(dict.fromkeys(str(entry.get("type")) for entry in found))


def _find_nonzero(device: BlockDevice) -> int | None:
    """Offset of a byte that is not zero in the head or tail, None when all are zeros."""
    fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        tail = max(HEAD_BYTES, device.size_bytes - TAIL_BYTES)
        for start, end in ((0, min(HEAD_BYTES, device.size_bytes)), (tail, device.size_bytes)):
            for offset in range(start, end, TAIL_BYTES):
                data = os.pread(fd, min(TAIL_BYTES, end - offset), offset)
                if data.count(0) != len(data):
                    return offset + len(data) - len(data.lstrip(b"\0"))
    finally:
        os.close(fd)
    return None


def require_blank(device: BlockDevice) -> None:
    """Prove once more, right before a format, that the device is blank and nobody has it.

    FailedPreconditionError with the name of what was found. The device is opened exclusively
    while it is looked at; mkfs opens it exclusively again and looks for signatures itself.
    """
    try:
        fd = os.open(device.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPreconditionError(f"{device.path} is in use: {error.strerror}") from error
    try:
        state, detail = _judge_open(device)
    finally:
        os.close(fd)
    if state is not DeviceState.BLANK:
        raise FailedPreconditionError(
            f"{device.path} is not blank: {state.value}, {detail}. {how_to_blank(device.path)}"
        )


def _judge_open(device: BlockDevice) -> tuple[DeviceState, str]:
    """As ``_judge``, for a device that we hold open exclusively ourselves."""
    now = resolve_device(device.path)
    if (now.major_minor, now.instance) != (device.major_minor, device.instance):
        return DeviceState.HELD, "the device behind this path has changed"
    if list(now.sysfs.glob("*/partition")):
        return DeviceState.PARTITIONED, "partitions"
    if list((now.sysfs / "holders").glob("*")):
        return DeviceState.HELD, "holders"
    found = find_content(now)
    if found:
        return DeviceState.SIGNATURE, found
    if now.read_only:
        return DeviceState.READ_ONLY, "the device refuses writes"
    return DeviceState.BLANK, ""


def how_to_blank(path: str) -> str:
    """What a person does who is sure that the data on ``path`` is not needed."""
    return (
        f"If nothing on it is needed, on the node: 'wipefs --all {path}' and then"
        f" 'blkdiscard --zeroout --length 4MiB {path}'; otherwise choose another device"
    )
