"""A replicated volume's device as its users see it: there while this node is primary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError, UnavailableError
from twinvault_core.replication_state import DrbdRole

from . import drbd, drbd_kernel, loop
from .drbd_journal import Metadata, ReplicaRecord
from .drbd_kernel import DRBD_MAJOR

_SYS_BLOCK = Path("/sys/block")


@dataclass(frozen=True)
class DrbdDevice:
    """The device of a resource that is primary here."""

    volume_id: str
    minor: int
    size_bytes: int

    @property
    def path(self) -> str:
        return f"/dev/drbd{self.minor}"

    @property
    def major_minor(self) -> str:
        return f"{DRBD_MAJOR}:{self.minor}"


def is_configured(record: ReplicaRecord) -> bool:
    """Whether the kernel has the volume's device."""
    return (_SYS_BLOCK / f"drbd{record.spec.minor}").exists()


def find_primary(record: ReplicaRecord) -> DrbdDevice | None:
    """The volume's device if it is primary on this node."""
    minor = record.spec.minor
    version = drbd_kernel.observe_version()
    if not version or not is_configured(record):
        return None
    if version.startswith("8."):
        told = drbd_kernel.observe_minors().get(minor)
        primary = told is not None and told.role is DrbdRole.PRIMARY
    else:
        present = drbd.observe(handle_of(record).resource)
        primary = present is not None and present.state.primary
    if not primary:
        return None
    device = DrbdDevice(record.volume_id, minor, 0)
    return DrbdDevice(record.volume_id, minor, loop.read_size(device))


def handle_of(record: ReplicaRecord, file: Path = Path()) -> drbd.Handle:
    """``file`` is needed for acts that go through drbdadm only."""
    version = drbd_kernel.observe_version()
    return drbd.handle_of(record.volume_id, record.spec, version, file)


def open_primary(record: ReplicaRecord) -> DrbdDevice:
    """Promote the volume here, or find it promoted; its device.

    The caller's caller has asked the record (R2, R3). Unavailable while I/O is frozen: whatever
    touched the device would hang.
    """
    if record.metadata is not Metadata.READY:
        raise FailedPreconditionError(
            f"the replica of volume {record.volume_id} is still being made; try again"
        )
    handle = handle_of(record)
    drbd.promote(handle)
    present = drbd.observe(handle.resource)
    if present is not None and present.state.frozen:
        raise UnavailableError(
            f"volume {record.volume_id} is frozen: its other replica is lost and the record could"
            " not be asked yet; it goes on when the link or the Kubernetes API is back"
        )
    device = find_primary(record)
    if device is None:
        raise UnavailableError(f"volume {record.volume_id} was demoted meanwhile; try again")
    return device


def close_primary(device: DrbdDevice, record: ReplicaRecord) -> None:
    """Demote; InUseError while something holds the device."""
    loop.wait_until_unclaimed(device, f"volume {device.volume_id}")
    drbd.demote(handle_of(record))
