"""Statuses as they are to be written: pure builders over what was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twinvault_core.conditions import READY, Condition, merge_conditions
from twinvault_core.errors import ErrorCode
from twinvault_core.model import PoolState, PoolStatus, StorageNode, VolumeReplica
from twinvault_core.replica_plan import ReplicaPlan
from twinvault_core.sizing import MIB
from twinvault_core.words import join_some

from ..facts import DeviceFacts, VolumeFacts

MEANINGFUL_BYTES = 16 * MIB
"""Usage that moved less than this (or 1/64 of the whole) is not worth a write."""
MAX_DEVICES = 200
MAX_ORPHANS = 100

Status = dict[str, Any]


def is_meaningful(before: int, after: int, whole: int) -> bool:
    """Whether usage moved so far that the status should say so. All in bytes."""
    if (before == 0) != (after == 0):
        return True
    return abs(after - before) >= max(MEANINGFUL_BYTES, whole // 64)


def differs(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a merge patch of ``wanted`` would change ``current``."""
    return any(current.get(key) != value for key, value in wanted.items())


def build_replica_status(
    replica: VolumeReplica,
    current: Mapping[str, Any],
    plan: ReplicaPlan,
    facts: VolumeFacts | None,
    now: str,
) -> Status:
    """VolumeReplica status after ``plan``; ``facts`` None keeps the sizes that are known."""
    mine = facts is not None and facts.volume_uid == replica.volume_uid
    status: Status = {
        "observedGeneration": replica.meta.generation,
        "state": plan.state.value,
        "reason": plan.reason,
        "message": plan.message,
        "conditions": merge_conditions(
            replica.conditions,
            [Condition(READY, plan.usable, plan.reason, plan.message)],
            observed_generation=replica.meta.generation,
            now=now,
        ),
    }
    if facts is None or not mine:
        status.update(devicePath="", inUse=False)
        return status
    status.update(devicePath=facts.device_path, inUse=facts.in_use)
    if facts.ready:
        status.update(_sizes(facts, current))
    return status


def _sizes(facts: VolumeFacts, current: Mapping[str, Any]) -> Status:
    """Allocation moves all the time: it is taken over when it moved far."""
    known = int(current.get("allocatedBytes") or 0)
    moved = "allocatedBytes" not in current or is_meaningful(
        known, facts.allocated_bytes, facts.size_bytes
    )
    return {
        "sizeBytes": facts.size_bytes,
        "allocatedBytes": facts.allocated_bytes if moved else known,
        "extents": facts.extents if moved else int(current.get("extents") or 0),
    }


def build_node_status(
    node: StorageNode,
    *,
    agent_version: str,
    kernel: str,
    max_volumes: int,
    devices: Sequence[DeviceFacts],
    pools: Sequence[PoolStatus],
    orphans: Sequence[Mapping[str, Any]],
    replication: Mapping[str, Any],
    now: str,
) -> Status:
    return {
        "observedGeneration": node.meta.generation,
        "agentVersion": agent_version,
        "kernel": kernel,
        "maxVolumes": max_volumes,
        "devices": [device.to_dict() for device in devices[:MAX_DEVICES]],
        "pools": [pool.to_dict() for pool in settle_pools(node.pool_status, pools)],
        "orphans": [dict(orphan) for orphan in orphans[:MAX_ORPHANS]],
        "summary": {
            "pools": join_some([f"{pool.name} {pool.state.value}" for pool in pools]),
            "devices": join_some([f"{device.path} {device.state.value}" for device in devices]),
        },
        **({"replication": dict(replication)} if replication else {}),
        "conditions": merge_conditions(
            node.conditions,
            [node_ready(node.meta.name, pools)],
            observed_generation=node.meta.generation,
            now=now,
        ),
    }


def settle_pools(before: Sequence[PoolStatus], now: Sequence[PoolStatus]) -> tuple[PoolStatus, ...]:
    """``now``, but with the known usage where it moved too little to be worth a write."""
    known = {pool.name: pool for pool in before}
    return tuple(_settle_pool(known.get(pool.name), pool) for pool in now)


def _settle_pool(before: PoolStatus | None, pool: PoolStatus) -> PoolStatus:
    if before is None or before.size_bytes != pool.size_bytes:
        return pool
    if is_meaningful(before.used_bytes, pool.used_bytes, pool.size_bytes):
        return pool
    fields = {**vars(pool), "used_bytes": before.used_bytes, "free_bytes": before.free_bytes}
    return PoolStatus(**fields)


def node_ready(node_name: str, pools: Sequence[PoolStatus]) -> Condition:
    """Ready of a StorageNode: every pool is; else the first one that is not, and why."""
    bad = [pool for pool in pools if pool.state is not PoolState.READY]
    if not pools:
        return Condition(
            READY, False, "NoPools", f"StorageNode {node_name} has no pools in its spec"
        )
    if not bad:
        return Condition(READY, True, "PoolsReady", f"{len(pools)} of {len(pools)} pools are ready")
    first = bad[0]
    message = f"pool {first.name}: {first.message or first.state.value}"
    if len(bad) > 1:
        message += f"; {len(bad) - 1} more pools are not ready"
    return Condition(READY, False, first.reason or f"Pool{first.state.value}", message)


def describe_internal(error: Exception) -> str:
    """What a status says about a failure that nobody foresaw."""
    return f"{ErrorCode.INTERNAL.value} error: {type(error).__name__}: {error}; see the agent's log"
