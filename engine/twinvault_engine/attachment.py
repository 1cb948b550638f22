"""A volume's device and who uses it, as the kernel tells it now."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError

from . import loop
from .loop import LoopDevice
from .mountinfo import Mount, find_mount, observe_mounts

_LOOP_MAJOR = 7


@dataclass(frozen=True)
class Attachment:
    """``filesystem_mounts``: where its filesystem is mounted; ``device_binds``: where the device
    node itself is bound, for raw block volumes.
    """

    device: LoopDevice
    filesystem_mounts: tuple[Mount, ...]
    device_binds: tuple[Mount, ...]

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (*self.filesystem_mounts, *self.device_binds)

    def others(self, path: Path) -> tuple[str, ...]:
        """Every path it is mounted or bound at, but ``path``."""
        return tuple(mount.path for mount in self.mounts if mount.path != str(path))


def observe_attachment(image: Path) -> Attachment | None:
    """The device over ``image`` with its users, None when it is not attached."""
    device = loop.find_device(image)
    return None if device is None else attachment_of(device)


def attachment_of(device: LoopDevice) -> Attachment:
    mounts = observe_mounts()
    return Attachment(
        device=device,
        filesystem_mounts=tuple(m for m in mounts if m.major_minor == device.major_minor),
        device_binds=tuple(m for m in mounts if _binds_node(m, device)),
    )


def _binds_node(mount: Mount, device: LoopDevice) -> bool:
    return (
        mount.root.endswith(f"/loop{device.number}")
        and bound_loop_number(Path(mount.path)) == device.number
    )


def bound_loop_number(path: Path) -> int | None:
    """Number of the loop device whose node is at ``path``, or None."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISBLK(status.st_mode) or os.major(status.st_rdev) != _LOOP_MAJOR:
        return None
    return os.minor(status.st_rdev)


def require_ours(path: Path, attachment: Attachment | None) -> Mount | None:
    """The mount at ``path`` if it is the volume's; None when nothing is mounted there.

    FailedPreconditionError when something else is: it is not ours to unmount or to cover. A loop
    mount of a volume whose image is gone counts as the volume's.
    """
    mount = find_mount(path)
    if mount is None:
        return None
    if attachment is None:
        if mount.major_minor.startswith(f"{_LOOP_MAJOR}:") or bound_loop_number(path) is not None:
            return mount
    elif mount in attachment.mounts:
        return mount
    raise FailedPreconditionError(
        f"{path} is a mount of {mount.source}, not of this volume; it was left. Unmount it"
    )
