"""The engine's promises kept in memory: for tests of the agent's decisions, not of disks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twinvault_core.agent_api import Expand, Publish, Stage, Stats, Unpublish, Unstage
from twinvault_core.errors import (
    DataAtRiskError,
    FailedPreconditionError,
    InUseError,
    NoSpaceError,
    NotFoundError,
)
from twinvault_core.model import (
    DeviceState,
    PoolSpec,
    PoolState,
    PoolStatus,
    ReplicationSpec,
    VolumeMode,
    VolumeReplica,
)
from twinvault_core.sizing import GIB
from twinvault_engine.drbd_replica import ReplicaFacts
from twinvault_engine.facts import DeviceFacts, Recovery, SnapshotFacts, VolumeFacts
from twinvault_engine.local_use import VolumeUse


class NoReplication:
    """A node whose kernel has no DRBD. ``staged``: staging path by volume."""

    def __init__(self) -> None:
        self.staged: dict[str, str] = {}

    def ensure_module(self) -> str:
        raise FailedPreconditionError("the kernel has no DRBD; install the module `drbd`")

    def observe_replica(self, pool: str, volume_id: str) -> ReplicaFacts:
        raise NotFoundError(f"{volume_id} is not replicated here")

    def ensure_replica(
        self,
        pool: str,
        volume_id: str,
        spec: ReplicationSpec,
        *,
        diskless: bool = False,
        whole: bool = False,
    ) -> ReplicaFacts:
        self.ensure_module()
        raise AssertionError("not reached")

    def observe_use(self, pool: str, volume_id: str) -> VolumeUse:
        return VolumeUse((), self.staged.get(volume_id, ""))

    def open(self, volume_id: str) -> str:
        """Promote a replicated volume; its device, empty for one that is not."""
        return ""

    def close(self, volume_id: str) -> None:
        """Demote it."""


class FakeStorage:
    """``calls`` are the operations that were asked for; ``before`` may raise or block in them."""

    def __init__(self) -> None:
        self.volumes: dict[tuple[str, str], VolumeFacts] = {}
        self.snapshots: dict[tuple[str, str], SnapshotFacts] = {}
        self.pools: dict[str, PoolStatus] = {}
        self.refused_pools: dict[str, PoolStatus] = {}
        self.calls: list[str] = []
        self.lifted: dict[str, Stage] = {}
        """What was unmounted below kubelet's back and must be staged before it is published."""
        self.before: Callable[[str, str], None] | None = None
        self.capacity_bytes = 100 * GIB
        self.replication: Any = NoReplication()
        self._lock = threading.Lock()

    def _enter(self, call: str, subject: str = "") -> None:
        with self._lock:
            self.calls.append(f"{call} {subject}".strip())
        if self.before is not None:
            self.before(call, subject)

    def recover(self) -> Recovery:
        self._enter("recover")
        return Recovery()

    def observe_devices(self) -> tuple[DeviceFacts, ...]:
        return (DeviceFacts("/dev/vdz", self.capacity_bytes, "fake", False, DeviceState.POOL),)

    def ensure_pool(self, spec: PoolSpec, storage_cluster: str) -> PoolStatus:
        self._enter("ensure_pool", spec.name)
        if spec.name in self.refused_pools:
            return self.refused_pools[spec.name]
        self.pools[spec.name] = PoolStatus(
            spec.name, PoolState.READY, device="/dev/vdz", size_bytes=self.capacity_bytes
        )
        return self.pools[spec.name]

    def observe_pool(self, name: str) -> PoolStatus | None:
        return self.pools.get(name)

    def ensure_volume(self, replica: VolumeReplica) -> VolumeFacts:
        self._enter("ensure_volume", replica.volume)
        key = (replica.pool, replica.volume)
        known = self.volumes.get(key)
        if known is not None and known.volume_uid != replica.volume_uid:
            raise DataAtRiskError("another volume's data")
        if replica.size_bytes > self.capacity_bytes:
            raise NoSpaceError("the pool is full")
        source = (replica.pool, replica.source.snapshot)
        if replica.source.snapshot and source not in self.snapshots:
            raise NotFoundError(f"snapshot {replica.source.snapshot} is not here")
        if known is None:
            known = VolumeFacts(
                replica.pool,
                replica.volume,
                replica.volume_uid,
                replica.size_bytes,
                0,
                0,
                replica.volume_mode,
                replica.fs_type,
                ready=True,
            )
        size = max(known.size_bytes, replica.size_bytes)
        self.volumes[key] = replace(known, size_bytes=size, ready=True)
        return self.volumes[key]

    def observe_volume(self, pool: str, volume_id: str) -> VolumeFacts | None:
        self._enter("observe_volume", volume_id)
        return self.volumes.get((pool, volume_id))

    def erase_volume(self, pool: str, volume_id: str, volume_uid: str) -> None:
        self._enter("erase_volume", volume_id)
        known = self.volumes.get((pool, volume_id))
        if known is None:
            return
        if known.volume_uid != volume_uid:
            raise DataAtRiskError("another volume's data")
        if known.in_use:
            raise InUseError("attached")
        del self.volumes[(pool, volume_id)]

    def list_volumes(self, pool: str) -> tuple[VolumeFacts, ...]:
        return tuple(v for v in self.volumes.values() if v.pool == pool)

    def ensure_snapshot(
        self,
        pool: str,
        snapshot_id: str,
        volume_id: str,
        volume_uid: str,
        *,
        quiesced: bool = False,
    ) -> SnapshotFacts:
        self._enter("ensure_snapshot", snapshot_id)
        volume = self.volumes.get((pool, volume_id))
        if volume is None:
            raise NotFoundError(f"no volume {volume_id}")
        facts = SnapshotFacts(
            pool,
            snapshot_id,
            volume_id,
            volume_uid,
            volume.size_bytes,
            0,
            VolumeMode.FILESYSTEM,
            "ext4",
            "2026-01-01T00:00:00Z",
            ready=True,
        )
        return self.snapshots.setdefault((pool, snapshot_id), facts)

    def observe_snapshot(self, pool: str, snapshot_id: str) -> SnapshotFacts | None:
        return self.snapshots.get((pool, snapshot_id))

    def erase_snapshot(self, pool: str, snapshot_id: str) -> None:
        self._enter("erase_snapshot", snapshot_id)
        self.snapshots.pop((pool, snapshot_id), None)

    def list_snapshots(self, pool: str) -> tuple[SnapshotFacts, ...]:
        return tuple(s for s in self.snapshots.values() if s.pool == pool)

    def _find(self, volume_id: str) -> tuple[str, str]:
        for key in self.volumes:
            if key[1] == volume_id:
                return key
        raise NotFoundError(f"no volume {volume_id}")

    def stage(self, request: Stage, *, pool: str = "", volume_uid: str = "") -> dict[str, Any]:
        self._enter("stage", request.volume_id)
        key = self._find(request.volume_id)
        device = self.replication.open(request.volume_id) or "/dev/loop7"
        self.replication.staged[request.volume_id] = request.staging_path
        self.volumes[key] = replace(self.volumes[key], device_path=device, in_use=True)
        return {"devicePath": device}

    def lift(self, volume_id: str, *, replicated: bool) -> Stage | None:
        return self.lifted.pop(volume_id, None)

    def unstage(self, request: Unstage) -> dict[str, Any]:
        self._enter("unstage", request.volume_id)
        self.replication.close(request.volume_id)
        self.replication.staged.pop(request.volume_id, None)
        key = self._find(request.volume_id)
        self.volumes[key] = replace(self.volumes[key], device_path="", in_use=False)
        return {}

    def publish(self, request: Publish) -> dict[str, Any]:
        self._enter("publish", request.volume_id)
        return {}

    def unpublish(self, request: Unpublish) -> dict[str, Any]:
        self._enter("unpublish", request.volume_id)
        return {}

    def stats(self, request: Stats) -> dict[str, Any]:
        self._enter("stats", request.volume_id)
        return {"volumeMode": "Block", "totalBytes": 1}

    def expand(self, request: Expand) -> dict[str, Any]:
        self._enter("expand", request.volume_id)
        return {"sizeBytes": self.volumes[self._find(request.volume_id)].size_bytes}

    def max_volumes(self) -> int:
        return 256
