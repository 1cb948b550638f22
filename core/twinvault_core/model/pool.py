"""Pools: what a StorageCluster asks for and what a node reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class PoolState(StrEnum):
    READY = "Ready"
    WAITING = "Waiting"
    """A device is missing, or not blank: a person must look."""
    FAILED = "Failed"


class DeviceState(StrEnum):
    BLANK = "Blank"
    SIGNATURE = "Signature"
    PARTITIONED = "Partitioned"
    HELD = "Held"
    MOUNTED = "Mounted"
    POOL = "Pool"
    READ_ONLY = "ReadOnly"
    TOO_SMALL = "TooSmall"


@dataclass(frozen=True)
class DeviceSelector:
    """All properties that are not None must match."""

    min_size_bytes: int | None = None
    max_size_bytes: int | None = None
    rotational: bool | None = None
    model_pattern: str | None = None


@dataclass(frozen=True)
class PoolSpec:
    """``paths`` or ``selector`` says which devices; exactly one is given."""

    name: str
    filesystem: str = "xfs"
    redundancy: str = "none"
    compression: str = "none"
    reserve_percent: int = 5
    over_provisioning_percent: int = 100
    al_extents: int = 0
    """Of DRBD's activity log, for replicas in this pool; 0: by the volume's size."""
    paths: tuple[str, ...] = ()
    selector: DeviceSelector | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> PoolSpec:
        devices = raw.get("devices") or {}
        chosen = devices.get("selector")
        return cls(
            name=raw["name"],
            filesystem=raw.get("filesystem", "xfs"),
            redundancy=raw.get("redundancy", "none"),
            compression=raw.get("compression", "none"),
            reserve_percent=raw.get("reservePercent", 5),
            over_provisioning_percent=raw.get("overProvisioningPercent", 100),
            al_extents=raw.get("alExtents", 0),
            paths=tuple(devices.get("paths") or ()),
            selector=None
            if chosen is None
            else DeviceSelector(
                min_size_bytes=chosen.get("minSizeBytes"),
                max_size_bytes=chosen.get("maxSizeBytes"),
                rotational=chosen.get("rotational"),
                model_pattern=chosen.get("modelPattern"),
            ),
        )


@dataclass(frozen=True)
class PoolStatus:
    """One pool of one node, as its agent sees it. Sizes in bytes."""

    name: str
    state: PoolState
    reason: str = ""
    message: str = ""
    device: str = ""
    filesystem_uuid: str = ""
    mount_path: str = ""
    size_bytes: int = 0
    used_bytes: int = 0
    free_bytes: int = 0

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> PoolStatus:
        return cls(
            name=raw["name"],
            state=PoolState(raw["state"]),
            reason=raw.get("reason", ""),
            message=raw.get("message", ""),
            device=raw.get("device", ""),
            filesystem_uuid=raw.get("filesystemUUID", ""),
            mount_path=raw.get("mountPath", ""),
            size_bytes=raw.get("sizeBytes", 0),
            used_bytes=raw.get("usedBytes", 0),
            free_bytes=raw.get("freeBytes", 0),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state.value,
            "reason": self.reason,
            "message": self.message,
            "device": self.device,
            "filesystemUUID": self.filesystem_uuid,
            "mountPath": self.mount_path,
            "sizeBytes": self.size_bytes,
            "usedBytes": self.used_bytes,
            "freeBytes": self.free_bytes,
        }
