"""What a Volume's status says: phase, sizes, replicas, summary, conditions with the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
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
from .numbers import Device
from .placement import Choice, Refusal, shorten_reasons
from .replicated_status import (
    choose_usable_bytes,
    is_in_sync,
    is_replicated,
    judge_replicated,
)
from .sizing import format_bytes, format_share
from .volume_delete import find_use
from .volume_state import IDLE, WHOLE, Growth, VolumeState, being_made, broken
from .volume_view import VolumeView, placed_nodes

USED_STEP_PERCENT = 1
"""A change of usedBytes below this share of the size is not worth a write of its own."""

_FREE = Condition(IN_USE, False, reasons.NOT_IN_USE, "no node uses it")


def plan_report(
    view: VolumeView,
    volume: Volume,
    *,
    choices: tuple[Choice, ...] = (),
    refusal: Refusal | None = None,
    record: ReplicationRecord | None = None,
    device: Device | None = None,
    growth: Growth | None = None,
    moving: str = "",
    now: str,
) -> tuple[Action, ...]:
    """Write the status if it differs from what is there, and tell what changed.

    ``choices``, ``record`` and ``device`` are what was decided just now, all in one write.
    ``moving``: what a move that was asked for waits for.
    """
    if refusal is None and is_replicated(volume):
        state = judge_replicated(view, volume, growth, moving, now=now)
    else:
        state = _judge(view, volume, refusal, growth)
        if moving and state.ready.status:
            busy = Condition(PROGRESSING, True, reasons.MOVING, moving)
            state = replace(state, progressing=busy)
    conditions = [
        *_placed(volume, choices, refusal),
        state.ready,
        state.progressing,
        state.degraded,
        find_use(view, volume) or _FREE,
    ]
    wanted: dict[str, Any] = {
        "phase": state.phase.value,
        **_sizes(view, volume),
        "replicas": _replicas(view, volume, choices),
        **_placement(choices, refusal),
    }
    if record is not None:
        wanted["replication"] = record.to_dict()
    if device is not None:
        wanted["replicationDevice"] = device.to_dict()
    if volume.force_primary is None:
        wanted["forcePrimaryUsed"] = None
    wanted["summary"] = _summary(volume, wanted)
    told = _tell(volume, state, refusal)
    return (*plan_status(VOLUME, volume.meta, volume.status, wanted, conditions, now=now), *told)


def _judge(
    view: VolumeView, volume: Volume, refusal: Refusal | None, growth: Growth | None
) -> VolumeState:
    if refusal is not None:
        message = refusal.message
        final = refusal.reason not in reasons.PLACEMENT_MAY_PASS
        return broken(Phase.PENDING, reasons.NOT_PLACED, message, progressing=not final)
    own = view.member_replicas()
    if volume.status_size_bytes and (not own or any(r.meta.deleting for r in own)):
        return broken(Phase.FAILED, reasons.REPLICA_LOST, _lost_message(own))
    failed = next((r for r in own if r.state is ReplicaState.FAILED), None)
    if failed is not None:
        message = (
            f"{failed.node}: {failed.message or failed.reason}; the agent goes on trying, see"
            f" kubectl describe volumereplica {failed.meta.name}"
        )
        return broken(Phase.FAILED, reasons.REPLICA_FAILED, message, progressing=True)
    lost = next((r for r in own if r.node in view.lost), None)
    if lost is not None:
        message = (
            f"node {lost.node} holds the data and {view.lost[lost.node]}: bring it back; the"
            " volume is as it was as soon as its agent answers"
        )
        return broken(Phase.DEGRADED, reasons.NODE_LOST, message)
    return _judge_healthy(view, volume, own, growth)


def _judge_healthy(
    view: VolumeView, volume: Volume, own: tuple[VolumeReplica, ...], growth: Growth | None
) -> VolumeState:
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
        return being_made(reasons.CREATING, message)
    ready = Condition(READY, True, reasons.READY, f"ready on {nodes}")
    size = format_bytes(volume.size_bytes)
    if growth is not None:
        stuck = Condition(PROGRESSING, False, growth.refused, growth.message)
        return VolumeState(Phase.READY, ready, stuck, WHOLE)
    if any(r.status_size_bytes < volume.size_bytes for r in own):
        busy = Condition(PROGRESSING, True, reasons.EXPANDING, f"growing to {size}")
        return VolumeState(Phase.EXPANDING, ready, busy, WHOLE)
    return VolumeState(Phase.READY, ready, IDLE, WHOLE)


def _lost_message(own: tuple[VolumeReplica, ...]) -> str:
    what = f"VolumeReplica {own[0].meta.name} is being deleted" if own else "the replica is gone"
    return (
        f"{what} although nobody deleted the Volume, so its data is lost or going: restore a"
        " snapshot into a new volume, then delete this one"
    )


def _placed(
    volume: Volume, choices: tuple[Choice, ...], refusal: Refusal | None
) -> list[Condition]:
    if choices:
        told = "; ".join(choice.reasons[0] for choice in choices)
        return [Condition(PLACED, True, reasons.CHOSEN, told)]
    if refusal is not None:
        return [Condition(PLACED, False, refusal.reason, refusal.message)]
    known = find_condition(volume.conditions, PLACED)
    nodes = ", ".join(placed_nodes(volume))
    if known is not None and known.status:
        return [known]
    return [Condition(PLACED, True, reasons.CHOSEN, f"lives on {nodes}")]


def _placement(choices: tuple[Choice, ...], refusal: Refusal | None) -> dict[str, Any]:
    if choices:
        lines = shorten_reasons(_merge_reasons(choices))
        return {"placement": {"nodes": [choice.node for choice in choices], "reasons": lines}}
    if refusal is not None:
        return {"placement": {"reasons": shorten_reasons(refusal.reasons)}}
    return {}


def _merge_reasons(choices: tuple[Choice, ...]) -> tuple[str, ...]:
    """Of each choice what spoke for its own site; a node is told of once."""
    by_node: dict[str, str] = {}
    for choice in choices:
        for line in choice.reasons:
            node, chosen = line.partition(":")[0], ": chosen" in line or ": possible" in line
            if chosen or node not in by_node:
                by_node[node] = line
    return tuple(by_node.values())


def _replicas(
    view: VolumeView, volume: Volume, choices: tuple[Choice, ...]
) -> list[dict[str, Any]]:
    entries = {
        r.node: {
            "node": r.node,
            "storageCluster": r.storage_cluster,
            "pool": r.pool,
            "state": (r.state or ReplicaState.PENDING).value,
            "message": r.message,
        }
        for r in view.member_replicas()
    }
    for choice in choices:
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
        for r in view.member_replicas()
        if r.state in (ReplicaState.READY, ReplicaState.EXPANDING) and r.status_size_bytes
    ]
    if not made or _is_unequal(volume, len(made)):
        return {}
    size = min(r.status_size_bytes for r in made)
    if volume.record is not None:
        primary = next((r for r in made if r.node == volume.record.primary), None)
        size = choose_usable_bytes(volume, size, primary)
    used = max(r.allocated_bytes for r in made)
    before = int(volume.status.get("usedBytes") or 0)
    step = size * USED_STEP_PERCENT // 100
    grew = size != volume.status_size_bytes
    if not grew and abs(used - before) < max(1, step):
        used = before
    return {"sizeBytes": size, "usedBytes": used}


def _is_unequal(volume: Volume, made: int) -> bool:
    """A replicated volume is ready for the first time only with all its replicas in sync."""
    if volume.status_size_bytes or not is_replicated(volume):
        return False
    return made < len(placed_nodes(volume)) or not is_in_sync(volume)


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
    {
        reasons.REPLICA_FAILED,
        reasons.REPLICA_LOST,
        reasons.NODE_LOST,
        reasons.NO_CAPACITY,
        reasons.PEER_NOT_IN_SYNC,
        reasons.LINK_DOWN,
        reasons.FROZEN,
        reasons.STALLED,
        reasons.DIVERGED,
    }
)


def _tell(volume: Volume, state: VolumeState, refusal: Refusal | None) -> tuple[Action, ...]:
    """One Event for what changed and matters; being made is seen in the status alone."""
    if refusal is not None:
        wanted = Condition(PLACED, False, refusal.reason, refusal.message)
        return _tell_change(volume, [wanted], warning=True)
    parts = (state.ready, state.progressing, state.degraded)
    news = [c for c in parts if c.reason not in _QUIET]
    grown = find_condition(volume.conditions, PROGRESSING)
    done = state.progressing.reason == reasons.IDLE and state.ready.status
    if done and grown is not None and grown.reason == reasons.EXPANDING:
        message = f"grown to {format_bytes(volume.size_bytes)}"
        return (Tell(VOLUME, volume.meta, "Expanded", message),)
    weak = find_condition(volume.conditions, DEGRADED)
    if weak is not None and weak.status and not state.degraded.status and is_replicated(volume):
        message = "every replica holds every write again"
        return (Tell(VOLUME, volume.meta, "InSync", message),)
    return _tell_change(volume, news, warning=False)


# A failover tells itself of what is stuck: the write of this status may be what fails.
_QUIET = frozenset(
    {
        reasons.CREATING,
        reasons.FIRST_SYNC,
        reasons.IDLE,
        reasons.HEALTHY,
        reasons.FAILOVER_STUCK,
    }
)


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
