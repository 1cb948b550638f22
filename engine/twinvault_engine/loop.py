"""Loop devices over images: direct I/O and 4096-byte sectors, or not at all.

The kernel's ioctls are used as they are: starting losetup costs 3 to 24 ms on a small node, an
ioctl microseconds, and LOOP_CONFIGURE sets file, flags and sector size in one step, so that no
crash leaves a half-configured device. A 512-byte-sector loop over a disk with larger sectors
falls back to buffered I/O without saying so; what the kernel really did is read back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twinvault_core.errors import (
    BusyError,
    DeadlineError,
    FailedPreconditionError,
    InUseError,
    TwinvaultError,
)

from .steps import step

SECTOR_BYTES = 4096
_SYS_BLOCK = Path("/sys/block")
_CONTROL = Path("/dev/loop-control")
_WAIT_SECONDS = 5.0
# Of a device that the kernel is still making: no name in /dev, or a name without a device.
_NOT_YET = (errno.ENOENT, errno.ENXIO)
_ATTEMPTS = 64

_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_BLKROSET = 0x125D
_BLKFLSBUF = 0x1261
_BLKGETSIZE64 = 0x80081272

_FLAG_DIRECT_IO = 16
_INFO = struct.Struct("=QQQQQIIII64s64s32s2Q")
_CONFIG = struct.Struct(f"=II{_INFO.size}s8Q")


class BlockDevice(Protocol):
    """Any block device: what is below may be a loop device or a replicated one."""

    @property
    def path(self) -> str: ...


@dataclass(frozen=True)
class LoopDevice:
    """One bound loop device; ``backing_device`` and ``inode`` identify the file below it."""

    path: str
    number: int
    backing_device: int
    inode: int
    backing_file: str
    deleted: bool
    direct_io: bool
    sector_bytes: int
    size_bytes: int

    @property
    def sound(self) -> bool:
        return self.direct_io and self.sector_bytes == SECTOR_BYTES

    @property
    def major_minor(self) -> str:
        return f"7:{self.number}"


def list_devices() -> tuple[LoopDevice, ...]:
    """All bound loop devices of the host."""
    found = []
    for entry in _SYS_BLOCK.glob("loop*"):
        if (entry / "loop").is_dir():
            device = _observe(int(entry.name.removeprefix("loop")))
            if device is not None:
                found.append(device)
    return tuple(sorted(found, key=lambda device: device.number))


def find_device(image: Path) -> LoopDevice | None:
    """The device bound to ``image`` (by inode), or None. BusyError when two are."""
    try:
        status = image.stat()
    except FileNotFoundError:
        return None
    found = [
        device
        for device in list_devices()
        if (device.backing_device, device.inode) == (status.st_dev, status.st_ino)
    ]
    if len(found) > 1:
        paths = ", ".join(device.path for device in found)
        raise BusyError(f"{image} is attached more than once ({paths}); detach all but one of them")
    return found[0] if found else None


def attach(image: Path) -> LoopDevice:
    """Bind ``image`` to a free loop device, or find it bound; verified.

    FailedPreconditionError when the kernel does not give direct I/O with 4096-byte sectors; the
    device is detached again then, unless it was bound before.
    """
    present = find_device(image)
    if present is not None:
        _require_sound(present, image)
        return present
    image_fd = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        step("configure loop")
        number = _configure_free_device(image_fd, image)
    finally:
        os.close(image_fd)
    step("verify loop")
    device = _observe(number)
    if device is None:
        raise TwinvaultError(f"/dev/loop{number} vanished while {image} was being attached")
    try:
        _require_sound(device, image)
    except FailedPreconditionError:
        detach(device)
        raise
    return device


def _require_sound(device: LoopDevice, image: Path) -> None:
    if device.sound:
        return
    raise FailedPreconditionError(
        f"{device.path} over {image} has direct I/O {'on' if device.direct_io else 'off'} and"
        f" {device.sector_bytes}-byte sectors; direct I/O with {SECTOR_BYTES}-byte sectors is"
        " needed: the pool's filesystem must support direct I/O"
    )


def _configure_free_device(image_fd: int, image: Path) -> int:
    """Number of the device now bound to ``image_fd``; another taker of the same one is outrun."""
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _FLAG_DIRECT_IO, b"", b"", b"", 0, 0)
    for attempt in range(_ATTEMPTS):
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
        fd = _open_device(number)
        try:
            config = _CONFIG.pack(image_fd, SECTOR_BYTES, info, 0, 0, 0, 0, 0, 0, 0, 0)
            fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
            return number
        except OSError as error:
            # 1. we asked for a free number  2. another process bound it  3. ours says EBUSY
            if error.errno != errno.EBUSY:
                raise TwinvaultError(
                    f"/dev/loop{number} cannot be bound to {image}: {error.strerror}"
                ) from error
        finally:
            os.close(fd)
        time.sleep(min(0.001 * attempt, 0.05))
    raise BusyError(f"no loop device could be had for {image}: others take them; try again")


def _open_device(number: int) -> int:
    """Open /dev/loopN; it appears a moment after the kernel made it, and its name a moment before
    it can be opened.
    """
    path = f"/dev/loop{number}"
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _NOT_YET:
                raise TwinvaultError(f"{path} cannot be opened: {error.strerror}") from error
            if time.monotonic() > deadline:
                raise DeadlineError(
                    f"{path} did not appear within {_WAIT_SECONDS:g} s;"
                    " the agent needs the host's /dev"
                ) from None
        time.sleep(0.005)


def _observe(number: int) -> LoopDevice | None:
    """What the kernel says of one device; None when it is not bound (any more)."""
    try:
        fd = os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_YET:
            return None
        raise
    try:
        raw = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO.size))
        size = struct.unpack("=Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    finally:
        os.close(fd)
    fields = _INFO.unpack(raw)
    sysfs = _SYS_BLOCK / f"loop{number}"
    try:
        backing = (sysfs / "loop/backing_file").read_text().rstrip("\n")
        direct = (sysfs / "loop/dio").read_text().strip() == "1"
        sector = int((sysfs / "queue/logical_block_size").read_text())
    except OSError:
        return None
    return LoopDevice(
        path=f"/dev/loop{number}",
        number=number,
        backing_device=fields[0],
        inode=fields[1],
        backing_file=backing.removesuffix(" (deleted)"),
        deleted=backing.endswith(" (deleted)"),
        direct_io=direct and bool(fields[8] & _FLAG_DIRECT_IO),
        sector_bytes=sector,
        size_bytes=size,
    )


def refresh_capacity(device: LoopDevice) -> None:
    """Let the device see that its image has grown."""
    _with_device(device, lambda fd: fcntl.ioctl(fd, _LOOP_SET_CAPACITY))


def _sysfs(device: BlockDevice) -> Path:
    return _SYS_BLOCK / Path(device.path).name


def read_size(device: BlockDevice) -> int:
    """Its size now, in bytes."""
    return int((_sysfs(device) / "size").read_text()) * 512


def drop_cache(device: BlockDevice) -> None:
    """Forget what the kernel has cached of the device: its image was changed below it."""
    _with_device(device, lambda fd: fcntl.ioctl(fd, _BLKFLSBUF))


def set_read_only(device: BlockDevice, read_only: bool) -> None:
    """Make the kernel refuse writes to the device, or allow them again."""
    if is_read_only(device) == read_only:
        return
    _with_device(device, lambda fd: fcntl.ioctl(fd, _BLKROSET, struct.pack("=i", read_only)))


def is_read_only(device: BlockDevice) -> bool:
    return (_sysfs(device) / "ro").read_text().strip() == "1"


def _with_device(device: BlockDevice, action: Callable[[int], object]) -> None:
    fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        action(fd)
    finally:
        os.close(fd)


def is_claimed(device: BlockDevice) -> bool:
    """Whether a filesystem or another driver holds the device, in any mount namespace."""
    try:
        os.close(os.open(device.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def wait_until_unclaimed(device: BlockDevice, what: str) -> None:
    """Return when nothing holds the device; InUseError when something does for long.

    A filesystem that was just unmounted may live on for an instant in a mount namespace that is
    being made or torn down.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while is_claimed(device):
        if time.monotonic() > deadline:
            raise InUseError(
                f"{device.path} ({what}) is still mounted, perhaps in a container's"
                " own mount namespace; end the pod that uses it"
            )
        time.sleep(0.02)


def detach(device: LoopDevice) -> None:
    """Unbind the device and wait until it is. InUseError while a filesystem holds it;
    BusyError when a process still has it open: it goes when that process ends.
    """
    wait_until_unclaimed(device, device.backing_file)
    step("detach loop")
    fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Same file as we think? Between looking and now the number may have changed hands.
        fields = _INFO.unpack(fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(_INFO.size)))
        if (fields[0], fields[1]) != (device.backing_device, device.inode):
            return
        fcntl.ioctl(fd, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise TwinvaultError(f"{device.path} cannot be detached: {error.strerror}") from error
    finally:
        os.close(fd)
    _wait_until_free(device)


def _wait_until_free(device: LoopDevice) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        now = _observe(device.number)
        if now is None or (now.backing_device, now.inode) != (device.backing_device, device.inode):
            return
        if time.monotonic() > deadline:
            raise BusyError(
                f"{device.path} is still open in some process {_WAIT_SECONDS:g} s after detaching;"
                " it goes when that process closes it. See: fuser -v " + device.path
            )
        time.sleep(0.005)
