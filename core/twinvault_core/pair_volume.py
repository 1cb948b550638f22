"""One volume as the plans of its ReplicationPair see it: who verifies, who resyncs, who waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .actions import VOLUME_REPLICA, Action, PatchObject
from .model import ReplicationStatus, Volume, VolumeReplica
from .replicated_status import find_since, is_in_sync, is_replicated


@dataclass(frozen=True)
class PairVolume:
    """``replicas``: of this very Volume. ``lost``: its nodes whose agent is silent, and since when.
    ``snapshotting``: a snapshot of it is being taken. ``drilled``: a drill moves it.
    """

    volume: Volume
    replicas: tuple[VolumeReplica, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    snapshotting: bool = False
    drilled: bool = False

    @property
    def name(self) -> str:
        return self.volume.meta.name

    @property
    def primary(self) -> VolumeReplica | None:
        """The replica on the record's primary."""
        record = self.volume.record
        if record is None:
            return None
        return next((r for r in self.replicas if r.node == record.primary), None)

    @property
    def report(self) -> ReplicationStatus | None:
        """What the primary's agent says."""
        return self.primary.replication_status if self.primary is not None else None

    @property
    def in_sync(self) -> bool:
        return is_replicated(self.volume) and is_in_sync(self.volume)

    @property
    def weak_since(self) -> str:
        """Since when it is degraded, or being made; RFC 3339. Empty until that was told."""
        if not self.volume.status_size_bytes:
            return self.volume.meta.creation_timestamp
        return find_since(self.volume.conditions)


def plan_told(volume: PairVolume, field_name: str, wanted: str) -> tuple[Action, ...]:
    """Let ``spec.replication.FIELD`` be ``wanted`` at the primary, and empty at the other one."""
    steps: list[Action] = []
    attribute = {"verifyRequest": "verify_request", "resyncHold": "resync_hold"}[field_name]
    for replica in volume.replicas:
        if replica.replication is None or replica.meta.deleting:
            continue
        value = wanted if replica is volume.primary else ""
        if getattr(replica.replication, attribute) != value:
            patch: dict[str, Any] = {"spec": {"replication": {field_name: value}}}
            steps.append(PatchObject(VOLUME_REPLICA, replica.meta, patch))
    return tuple(steps)
