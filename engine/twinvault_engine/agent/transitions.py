"""Which Events a change is worth: pure, from what the status said and what it says now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twinvault_core.model import PoolState, PoolStatus, ReplicaState, VolumeReplica
from twinvault_core.replica_plan import ReplicaPlan
from twinvault_core.sizing import format_bytes

from ..facts import VolumeFacts


class Happening(NamedTuple):
    """One Event to be told."""

    reason: str
    message: str
    warning: bool = False


def choose_replica_happenings(
    before: VolumeReplica, plan: ReplicaPlan, facts: VolumeFacts | None
) -> list[Happening]:
    """``before`` is the object as its status was, ``plan`` and ``facts`` what is written now."""
    if plan.state is ReplicaState.READY and facts is not None:
        return _choose_healthy(before, facts)
    told = before.reason == plan.reason and before.state is plan.state
    waits = plan.reason in ("Creating", "Expanding", "Erasing", "Released", "Erased")
    if told or waits:
        return []
    return [Happening(plan.reason, plan.message, warning=True)]


def _choose_healthy(before: VolumeReplica, facts: VolumeFacts) -> list[Happening]:
    out = []
    size = format_bytes(facts.size_bytes)
    if before.status_size_bytes == 0:
        origin = before.source.snapshot or before.source.volume
        copied = f" as a copy of {origin}" if origin else ""
        out.append(Happening("Created", f"made {size} in pool {facts.pool}{copied}"))
    elif facts.size_bytes > before.status_size_bytes:
        out.append(
            Happening("Grown", f"grew from {format_bytes(before.status_size_bytes)} to {size}")
        )
    elif before.state is ReplicaState.FAILED:
        out.append(Happening("Recovered", f"ready again after {before.reason}"))
    if facts.in_use and not before.in_use:
        out.append(Happening("Attached", f"attached as {facts.device_path}"))
    if before.in_use and not facts.in_use:
        out.append(Happening("Detached", f"no longer attached as {before.device_path}"))
    return out


def choose_pool_happenings(
    before: Sequence[PoolStatus], now: Sequence[PoolStatus]
) -> list[Happening]:
    """Pools that became ready, and pools that are refused or lost and why."""
    known = {pool.name: pool for pool in before}
    out = []
    for pool in now:
        was = known.get(pool.name)
        if was is not None and (was.state, was.reason) == (pool.state, pool.reason):
            continue
        if pool.state is PoolState.READY:
            text = f"pool {pool.name} on {pool.device} is ready, {format_bytes(pool.size_bytes)}"
            out.append(Happening("PoolReady", text))
        else:
            reason = pool.reason or f"Pool{pool.state.value}"
            out.append(Happening(reason, f"pool {pool.name}: {pool.message}", warning=True))
    return out
