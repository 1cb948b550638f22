"""Volume, VolumeReplica, and what a new one starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ..numbers import Device
from .meta import Meta, Object, conditions_of
from .replication import ForcePrimary, ReplicationRecord, ReplicationSpec, ReplicationStatus


class VolumeMode(StrEnum):
    FILESYSTEM = "Filesystem"
    BLOCK = "Block"


class Phase(StrEnum):
    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    EXPANDING = "Expanding"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    DELETING = "Deleting"


class ReplicaState(StrEnum):
    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    EXPANDING = "Expanding"
    FAILED = "Failed"
    DELETING = "Deleting"


class Role(StrEnum):
    PRIMARY = "Primary"
    SECONDARY = "Secondary"


@dataclass(frozen=True)
class Source:
    """Content to start with: a snapshot or a volume, never both; both empty for blank."""

    snapshot: str = ""
    volume: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Source:
        raw = raw or {}
        return cls(snapshot=raw.get("snapshot") or "", volume=raw.get("volume") or "")

    def to_dict(self) -> dict[str, str]:
        if self.snapshot:
            return {"snapshot": self.snapshot}
        return {"volume": self.volume} if self.volume else {}

    def __bool__(self) -> bool:
        return bool(self.snapshot or self.volume)


@dataclass(frozen=True)
class Volume:
    meta: Meta
    size_bytes: int
    pool: str
    storage_cluster: str = ""
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    fs_type: str = ""
    replication_pair: str = ""
    force_primary: ForcePrimary | None = None
    keep_removed: bool = False
    """Whether the data of a replica that is removed or moved away stays on its node."""
    resync_priority: int = 0
    """Who copies first among those of the pair that wait for a turn: the highest."""
    source: Source = Source()
    requisite_nodes: tuple[str, ...] = ()
    preferred_nodes: tuple[str, ...] = ()
    published_to: tuple[str, ...] = ()
    phase: Phase | None = None
    status_size_bytes: int = 0
    record: ReplicationRecord | None = None
    device: Device | None = None
    conditions: tuple[Mapping[str, Any], ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: Object) -> Volume:
        spec, status = obj["spec"], obj.get("status") or {}
        where = spec.get("accessibility") or {}
        return cls(
            meta=Meta.parse(obj),
            size_bytes=spec["sizeBytes"],
            pool=spec["pool"],
            storage_cluster=spec.get("storageCluster") or "",
            volume_mode=VolumeMode(spec.get("volumeMode") or "Filesystem"),
            fs_type=spec.get("fsType") or "",
            replication_pair=spec.get("replicationPair") or "",
            force_primary=ForcePrimary.parse(spec.get("forcePrimary")),
            keep_removed=spec.get("removedReplica") == "Keep",
            resync_priority=int(spec.get("resyncPriority") or 0),
            source=Source.parse(spec.get("source")),
            requisite_nodes=tuple(where.get("requisite") or ()),
            preferred_nodes=tuple(where.get("preferred") or ()),
            published_to=tuple(spec.get("publishedTo") or ()),
            phase=Phase(status["phase"]) if status.get("phase") else None,
            status_size_bytes=status.get("sizeBytes") or 0,
            record=ReplicationRecord.parse(
                status.get("replication"), (status.get("placement") or {}).get("nodes") or ()
            ),
            device=Device.parse(status.get("replicationDevice")),
            conditions=conditions_of(obj),
            status=status,
        )


@dataclass(frozen=True)
class VolumeReplica:
    meta: Meta
    volume: str
    volume_uid: str
    node: str
    storage_cluster: str
    pool: str
    size_bytes: int
    volume_mode: VolumeMode = VolumeMode.FILESYSTEM
    fs_type: str = ""
    source: Source = Source()
    role: Role = Role.PRIMARY
    give_up: str = ""
    keep_data: bool = False
    state: ReplicaState | None = None
    reason: str = ""
    message: str = ""
    status_size_bytes: int = 0
    allocated_bytes: int = 0
    device_path: str = ""
    in_use: bool = False
    observed_generation: int = 0
    replication: ReplicationSpec | None = None
    replication_status: ReplicationStatus | None = None
    conditions: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def parse(cls, obj: Object) -> VolumeReplica:
        spec, status = obj["spec"], obj.get("status") or {}
        return cls(
            meta=Meta.parse(obj),
            volume=spec["volume"],
            volume_uid=spec["volumeUID"],
            node=spec["nodeName"],
            storage_cluster=spec["storageCluster"],
            pool=spec["pool"],
            size_bytes=spec["sizeBytes"],
            volume_mode=VolumeMode(spec.get("volumeMode") or "Filesystem"),
            fs_type=spec.get("fsType") or "",
            source=Source.parse(spec.get("source")),
            role=Role(spec.get("role") or "Primary"),
            give_up=spec.get("giveUp") or "",
            keep_data=bool(spec.get("keepData")),
            state=ReplicaState(status["state"]) if status.get("state") else None,
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            status_size_bytes=status.get("sizeBytes") or 0,
            allocated_bytes=status.get("allocatedBytes") or 0,
            device_path=status.get("devicePath") or "",
            in_use=bool(status.get("inUse")),
            observed_generation=status.get("observedGeneration") or 0,
            replication=ReplicationSpec.parse(spec.get("replication")),
            replication_status=ReplicationStatus.parse(status.get("replication")),
            conditions=conditions_of(obj),
        )
