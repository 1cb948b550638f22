"""A volume's device and who uses it, as the kernel tells it now.

The device is the loop device over the image, or for a replicated volume the DRBD device above it:
everything that a pod, mkfs or mount gets comes from here.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError

from . import drbd_device, drbd_journal, loop
from .drbd_device import DrbdDevice
from .drbd_kernel import DRBD_MAJOR
from .journal import DATA_FILE
from .loop import LoopDevice
from .mountinfo import Mount, find_mount, observe_mounts

_LOOP_MAJOR = 7
_OUR_MAJORS = (f"{_LOOP_MAJOR}:", f"{DRBD_MAJOR}:")


@dataclass(frozen=True)
class Attachment:
    """``filesystem_mounts``: where its filesystem is mounted; ``device_binds``: where the device
    node itself is bound, for raw block volumes.
    """

    device: LoopDevice | DrbdDevice
    filesystem_mounts: tuple[Mount, ...]
    device_binds: tuple[Mount, ...]

    @property
    def mounts(self) -> tuple[Mount, ...]:
        return (*self.filesystem_mounts, *self.device_binds)

    @property
    def replicated(self) -> bool:
        return isinstance(self.device, DrbdDevice)

    def others(self, path: Path) -> tuple[str, ...]:
        """Every path it is mounted or bound at, but ``path``."""
        return tuple(mount.path for mount in self.mounts if mount.path != str(path))


def observe_attachment(image: Path) -> Attachment | None:
    """The device over ``image`` with its users, None when no user can have it: it is not attached,
    or replicated and not primary here.
    """
    device = choose_device(image)
    return None if device is None else attachment_of(device)


def choose_device(image: Path) -> LoopDevice | DrbdDevice | None:
    """What a user of the volume works on now; None when there is nothing yet."""
    record = _replication_of(image)
    return loop.find_device(image) if record is None else drbd_device.find_primary(record)


def attach(image: Path) -> Attachment:
    """Make the device available to users: bind a loop device, or promote the replica here."""
    record = _replication_of(image)
    if record is not None:
        return attachment_of(drbd_device.open_primary(record))
    return attachment_of(loop.attach(image))


def detach(image: Path, device: LoopDevice | DrbdDevice) -> None:
    """The reverse of ``attach``; InUseError while something holds the device."""
    record = _replication_of(image)
    if isinstance(device, LoopDevice):
        loop.detach(device)
    elif record is not None:
        drbd_device.close_primary(device, record)


def _replication_of(image: Path) -> drbd_journal.ReplicaRecord | None:
    return drbd_journal.load(image.parent) if image.name == DATA_FILE else None


def attachment_of(device: LoopDevice | DrbdDevice) -> Attachment:
    mounts = observe_mounts()
    return Attachment(
        device=device,
        filesystem_mounts=tuple(m for m in mounts if m.major_minor == device.major_minor),
        device_binds=tuple(m for m in mounts if _binds_node(m, device)),
    )


def _binds_node(mount: Mount, device: LoopDevice | DrbdDevice) -> bool:
    return (
        mount.root.endswith(f"/{Path(device.path).name}")
        and bound_device(Path(mount.path)) == device.major_minor
    )


def bound_device(path: Path) -> str | None:
    """``major:minor`` of the block device whose node is at ``path``, or None."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISBLK(status.st_mode):
        return None
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def require_ours(path: Path, attachment: Attachment | None) -> Mount | None:
    """The mount at ``path`` if it is the volume's; None when nothing is mounted there.

    FailedPreconditionError when something else is: it is not ours to unmount or to cover. A loop
    or DRBD mount of a volume whose image is gone counts as the volume's.
    """
    mount = find_mount(path)
    if mount is None:
        return None
    if attachment is None:
        numbers = (mount.major_minor, bound_device(path) or "")
        if any(number.startswith(_OUR_MAJORS) for number in numbers):
            return mount
    elif mount in attachment.mounts:
        return mount
    raise FailedPreconditionError(
        f"{path} is a mount of {mount.source}, not of this volume; it was left. Unmount it"
    )
