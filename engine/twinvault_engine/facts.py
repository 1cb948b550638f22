"""What the engine reports: immutable values, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twinvault_core.model import DeviceState, VolumeMode


@dataclass(frozen=True)
class DeviceFacts:
    """One whole block device. ``detail`` names the signature, holder or mount that was found."""

    path: str
    size_bytes: int
    model: str
    rotational: bool
    state: DeviceState
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As an entry of StorageNode ``status.devices``."""
        return {
            "path": self.path,
            "sizeBytes": self.size_bytes,
            "model": self.model,
            "rotational": self.rotational,
            "state": self.state.value,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class VolumeFacts:
    """One volume as it is on disk.

    ``ready`` is False while its creation is unfinished: call ``ensure_volume`` again.
    ``device_path`` is empty while it is not attached. ``in_use``: staged or published here.
    ``extents``: a snapshot stalls writes for about 18 us for each of them.
    """

    pool: str
    volume_id: str
    volume_uid: str
    size_bytes: int
    allocated_bytes: int
    extents: int
    volume_mode: VolumeMode
    fs_type: str
    ready: bool
    device_path: str = ""
    in_use: bool = False
    problem: str = ""
    """Why the journal cannot be read; everything else is then unknown. Only from lists."""


@dataclass(frozen=True)
class SnapshotFacts:
    """One snapshot as it is on disk; ``creation_time`` is RFC 3339 in UTC.

    ``ready`` means that it is durable and can be restored.
    """

    pool: str
    snapshot_id: str
    volume_id: str
    volume_uid: str
    size_bytes: int
    allocated_bytes: int
    volume_mode: VolumeMode
    fs_type: str
    creation_time: str
    ready: bool


@dataclass(frozen=True)
class Holding:
    """Something that the engine holds: for leak checks and for the agent's recovery log.

    ``kind`` is one of pool-mount, loop, mount, volume, snapshot, trash, temporary, freeze, record.
    """

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Recovery:
    """What ``Engine.recover`` found from an earlier life and did about it, for the log."""

    thawed: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    """Left-overs that are not provably ours, each with the reason; a person must look."""
