"""What a Volume's status says: phase, sizes, replicas, summary, conditions with the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import reasons
from .actions import VOLUME, Action, Tell, plan_status
from .conditions import (
    DEGRADED,
    IN_USE,
    PLACED,
    PROGRESSING,
    READY,
    Condition,
    find_condition,
)
from .model import Phase, ReplicaState, ReplicationRecord, Volume, VolumeReplica
from .names import ANNOTATION_PVC
from .placement import Choice, Refusal, shorten_reasons
from .sizing import format_bytes, format_share
from .volume_delete import find_use
from .volume_view import VolumeView, placed_nodes

USED_STEP_PERCENT = 1
"""A change of usedBytes below this share of the size is not worth a write of its own."""

_FREE = Condition(IN_USE, False, reasons.NOT_IN_USE, "no node uses it")


@dataclass(frozen=True)
class Growth:
    """An expansion that is wanted; ``refused`` is a reason and ``message`` the next step."""

    wanted: bool
    refused: str = ""
    message: str = ""


@dataclass(frozen=True)
class _State:
    """How the volume is, in one word and one sentence."""

    phase: Phase
    ready: Condition
    progressing: Condition
    degraded: Condition


def plan_report(
    view: VolumeView,
    volume: Volume,
    *,
    choice: Choice | None = None,
    refusal: Refusal | None = None,
    record: ReplicationRecord | None = None,
    growth: Growth | None = None,
    now: str,
) -> tuple[Action, ...]:
    """Write the status if it differs from what is there, and tell what changed."""
    state = _judge(view, volume, refusal, growth)
    conditions = [
        *_placed(volume, choice, refusal),
        state.ready,
        state.progressing,
        state.degraded,
        find_use(view, volume) or _FREE,
    ]
    wanted: dict[str, Any] = {
        "phase": state.phase.value,
        **_sizes(view, volume),
        "replicas": _replicas(view, volume, choice),
        **_placement(choice, refusal),
    }
    if record is not None:
        wanted["replication"] = record.to_dict()
    wanted["summary"] = _summary(volume, wanted)
    told = _tell(volume, state, refusal)
    return (*plan_status(VOLUME, volume.meta, volume.status, wanted, conditions, now=now), *told)


def _judge(
    view: VolumeView, volume: Volume, refusal: Refusal | None, growth: Growth | None
) -> _State:
    if refusal is not None:
        message = refusal.message
        final = refusal.reason not in reasons.PLACEMENT_MAY_PASS
        return _broken(Phase.PENDING, reasons.NOT_PLACED, message, progressing=not final)
    own = view.own_replicas()
    if volume.status_size_bytes and (not own or any(r.meta.deleting for r in own)):
        return _broken(Phase.FAILED, reasons.REPLICA_LOST, _lost_message(own))
    failed = next((r for r in own if r.state is ReplicaState.FAILED), None)
    if failed is not None:
        message = (
            f"{failed.node}: {failed.message or failed.reason}; the agent goes on trying, see"
            f" kubectl describe volumereplica {failed.meta.name}"
        )
        return _broken(Phase.FAILED, reasons.REPLICA_FAILED, message, progressing=True)
    lost = next((r for r in own if r.node in view.lost), None)
    if lost is not None:
        message = (
            f"node {lost.node} holds the data and {view.lost[lost.node]}: bring it back; the"
            " volume is as it was as soon as its agent answers"
        )
        return _broken(Phase.DEGRADED, reasons.NODE_LOST, message)
    return _judge_healthy(view, volume, own, growth)


def _judge_healthy(
    view: VolumeView, volume: Volume, own: tuple[VolumeReplica, ...], growth: Growth | None
) -> _State:
    whole = Condition(DEGRADED, False, reasons.HEALTHY, "nothing is wrong")
    making = [r for r in own if r.state not in (ReplicaState.READY, ReplicaState.EXPANDING)]
    nodes = ", ".join(placed_nodes(volume))
    if not own or making:
        blocked = [r for r in view.foreign_replicas() if r.node in placed_nodes(volume)]
        message = f"being made on {nodes}" if nodes else "being made"
        if blocked:
            message = (
                f"VolumeReplica {blocked[0].meta.name} of an earlier volume of this name is"
                " still there: kubectl describe volumereplica says how to let it go"
            )
        ready = Condition(READY, False, reasons.CREATING, message)
        busy = Condition(PROGRESSING, True, reasons.CREATING, message)
        return _State(Phase.CREATING, ready, busy, whole)
    ready = Condition(READY, True, reasons.READY, f"ready on {nodes}")
    size = format_bytes(volume.size_bytes)
    if growth is not None:
        stuck = Condition(PROGRESSING, False, growth.refused, growth.message)
        return _State(Phase.READY, ready, stuck, whole)
    if any(r.status_size_bytes < volume.size_bytes for r in own):
        busy = Condition(PROGRESSING, True, reasons.EXPANDING, f"growing to {size}")
        return _State(Phase.EXPANDING, ready, busy, whole)
    idle = Condition(PROGRESSING, False, reasons.IDLE, "nothing to do")
    return _State(Phase.READY, ready, idle, whole)


def _broken(phase: Phase, reason: str, message: str, *, progressing: bool = False) -> _State:
    degraded = phase is not Phase.PENDING
    return _State(
        phase,
        Condition(READY, False, reason, message),
        Condition(PROGRESSING, progressing, reason, message),
        Condition(
            DEGRADED,
            degraded,
            reason if degraded else reasons.HEALTHY,
            message if degraded else "not placed yet",
        ),
    )


def _lost_message(own: tuple[VolumeReplica, ...]) -> str:
    what = f"VolumeReplica {own[0].meta.name} is being deleted" if own else "the replica is gone"
    return (
        f"{what} although nobody deleted the Volume, so its data is lost or going: restore a"
        " snapshot into a new volume, then delete this one"
    )


def _placed(volume: Volume, choice: Choice | None, refusal: Refusal | None) -> list[Condition]:
    if choice is not None:
        return [Condition(PLACED, True, reasons.CHOSEN, choice.reasons[0])]
    if refusal is not None:
        return [Condition(PLACED, False, refusal.reason, refusal.message)]
    known = find_condition(volume.conditions, PLACED)
    nodes = ", ".join(placed_nodes(volume))
    if known is not None and known.status:
        return [known]
    return [Condition(PLACED, True, reasons.CHOSEN, f"lives on {nodes}")]


def _placement(choice: Choice | None, refusal: Refusal | None) -> dict[str, Any]:
    if choice is not None:
        lines = shorten_reasons(choice.reasons)
        return {"placement": {"nodes": [choice.node], "reasons": lines}}
    if refusal is not None:
        return {"placement": {"reasons": shorten_reasons(refusal.reasons)}}
    return {}


def _replicas(view: VolumeView, volume: Volume, choice: Choice | None) -> list[dict[str, Any]]:
    entries = {
        r.node: {
            "node": r.node,
            "storageCluster": r.storage_cluster,
            "pool": r.pool,
            "state": (r.state or ReplicaState.PENDING).value,
            "message": r.message,
        }
        for r in view.own_replicas()
    }
    if choice is not None:
        entries.setdefault(choice.node, _awaited(choice.node, choice.storage_cluster, volume.pool))
    for entry in volume.status.get("replicas") or ():
        if entry["node"] in placed_nodes(volume):
            cluster = str(entry.get("storageCluster") or "")
            entries.setdefault(entry["node"], _awaited(entry["node"], cluster, volume.pool))
    return [entries[node] for node in sorted(entries)]


def _awaited(node: str, storage_cluster: str, pool: str) -> dict[str, Any]:
    state = ReplicaState.PENDING.value
    return {
        "node": node,
        "storageCluster": storage_cluster,
        "pool": pool,
        "state": state,
        "message": "",
    }


def _sizes(view: VolumeView, volume: Volume) -> dict[str, Any]:
    """sizeBytes once a replica is there, usedBytes when it moved enough to be worth a write."""
    made = [
        r
        for r in view.own_replicas()
        if r.state in (ReplicaState.READY, ReplicaState.EXPANDING) and r.status_size_bytes
    ]
    if not made:
        return {}
    size = min(r.status_size_bytes for r in made)
    used = max(r.allocated_bytes for r in made)
    before = int(volume.status.get("usedBytes") or 0)
    step = size * USED_STEP_PERCENT // 100
    grew = size != volume.status_size_bytes
    if not grew and abs(used - before) < max(1, step):
        used = before
    return {"sizeBytes": size, "usedBytes": used}


def _summary(volume: Volume, wanted: Mapping[str, Any]) -> dict[str, str]:
    size = int(wanted.get("sizeBytes") or volume.status_size_bytes or volume.size_bytes)
    used = int(wanted.get("usedBytes", volume.status.get("usedBytes") or 0))
    record = ReplicationRecord.parse(wanted.get("replication")) or volume.record
    nodes = (wanted.get("placement") or {}).get("nodes") or placed_nodes(volume)
    in_sync = f"{len(record.in_sync)}/{len(nodes)}" if record and nodes else "-"
    return {
        "size": format_bytes(size),
        "used": format_share(used, size),
        "inSync": in_sync,
        "claim": volume.meta.annotations.get(ANNOTATION_PVC, ""),
    }


_TOLD_AS_WARNING = frozenset(
    {reasons.REPLICA_FAILED, reasons.REPLICA_LOST, reasons.NODE_LOST, reasons.NO_CAPACITY}
)


def _tell(volume: Volume, state: _State, refusal: Refusal | None) -> tuple[Action, ...]:
    """One Event for what changed and matters; being made is seen in the status alone."""
    if refusal is not None:
        wanted = Condition(PLACED, False, refusal.reason, refusal.message)
        return _tell_change(volume, [wanted], warning=True)
    news = [c for c in (state.ready, state.progressing) if c.reason not in _QUIET]
    grown = find_condition(volume.conditions, PROGRESSING)
    done = state.progressing.reason == reasons.IDLE and state.ready.status
    if done and grown is not None and grown.reason == reasons.EXPANDING:
        message = f"grown to {format_bytes(volume.size_bytes)}"
        return (Tell(VOLUME, volume.meta, "Expanded", message),)
    return _tell_change(volume, news, warning=False)


_QUIET = frozenset({reasons.CREATING, reasons.IDLE})


def _tell_change(
    volume: Volume, wanted: Iterable[Condition], *, warning: bool
) -> tuple[Action, ...]:
    told: dict[str, Tell] = {}
    for condition in wanted:
        before = find_condition(volume.conditions, condition.type)
        if before is not None and (before.status, before.reason) == (
            condition.status,
            condition.reason,
        ):
            continue
        bad = warning or condition.reason in _TOLD_AS_WARNING
        tell = Tell(VOLUME, volume.meta, condition.reason, _words(volume, condition), bad)
        told.setdefault(condition.reason, tell)
    return tuple(told.values())


def _words(volume: Volume, condition: Condition) -> str:
    if condition.reason != reasons.READY:
        return condition.message
    return f"{format_bytes(volume.size_bytes)} {condition.message}"
