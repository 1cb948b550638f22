"""Snapshot: one point in time of one volume, and the nodes that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .meta import Meta, Object, conditions_of


class HolderState(StrEnum):
    PENDING = "Pending"
    READY = "Ready"
    FAILED = "Failed"
    ERASED = "Erased"


@dataclass(frozen=True)
class Holder:
    """One node's copy. The operator adds it as Pending; the node's agent moves it on.

    ``attempt``: at which instant it was taken; copies of one attempt hold the same content.
    """

    node: str
    storage_cluster: str
    pool: str
    state: HolderState
    reason: str = ""
    message: str = ""
    creation_time: str = ""
    size_bytes: int = 0
    attempt: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Holder:
        return cls(
            node=raw["node"],
            storage_cluster=raw.get("storageCluster") or "",
            pool=raw["pool"],
            state=HolderState(raw["state"]),
            reason=raw.get("reason") or "",
            message=raw.get("message") or "",
            creation_time=raw.get("creationTime") or "",
            size_bytes=raw.get("sizeBytes") or 0,
            attempt=raw.get("attempt") or "",
        )

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "node": self.node,
            "storageCluster": self.storage_cluster,
            "pool": self.pool,
            "state": self.state.value,
            "reason": self.reason,
            "message": self.message,
            "sizeBytes": self.size_bytes,
        }
        if self.creation_time:
            out["creationTime"] = self.creation_time
        if self.attempt:
            out["attempt"] = self.attempt
        return out


@dataclass(frozen=True)
class Snapshot:
    meta: Meta
    volume: str
    ready_to_use: bool = False
    creation_time: str = ""
    volume_uid: str = ""
    size_bytes: int = 0
    volume_mode: str = ""
    fs_type: str = ""
    holders: tuple[Holder, ...] = ()
    conditions: tuple[Mapping[str, Any], ...] = ()
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: Object) -> Snapshot:
        status = obj.get("status") or {}
        return cls(
            meta=Meta.parse(obj),
            volume=obj["spec"]["volume"],
            ready_to_use=bool(status.get("readyToUse")),
            creation_time=status.get("creationTime") or "",
            volume_uid=status.get("volumeUID") or "",
            size_bytes=status.get("sizeBytes") or 0,
            volume_mode=status.get("volumeMode") or "",
            fs_type=status.get("fsType") or "",
            holders=tuple(Holder.parse(h) for h in status.get("holders") or ()),
            conditions=conditions_of(obj),
            status=status,
        )

    def holder(self, node: str) -> Holder | None:
        return next((h for h in self.holders if h.node == node), None)
