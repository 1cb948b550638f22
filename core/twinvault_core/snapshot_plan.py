"""What to do next for one Snapshot: name its holders, report them, let it go.

1. The holders are written into the status first, then finalizer and label in one write: an agent
   that finds its label also finds its entry, and one that never saw the label made nothing.
2. Deletion waits until every holder that had its label says Erased.
3. Of a replicated volume the in-sync nodes are named; their agents see to it that all copies are of
   one instant. A node that falls out of sync before it is done is left out, so that the others need
   not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import reasons
from .actions import SNAPSHOT, Action, PatchObject, Plan, Tell, plan_release, plan_status
from .conditions import PROGRESSING, READY, Condition, find_condition
from .ids import holder_label
from .model import Holder, HolderState, Snapshot, Volume, VolumeReplica
from .names import ANNOTATION_GIVE_UP, ANNOTATION_HOLDER, FINALIZER_SNAPSHOT
from .sizing import format_bytes
from .words import join_some


@dataclass(frozen=True)
class SnapshotView:
    """A Snapshot with its Volume (None when there is none) and the Volume's own replicas."""

    snapshot: Snapshot
    volume: Volume | None = None
    replicas: tuple[VolumeReplica, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)


def plan_snapshot(view: SnapshotView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    snapshot = view.snapshot
    if snapshot.meta.deleting:
        return _plan_delete(view, now=now)
    if snapshot.holders:
        kept = leave_out(view)
        held = replace(view, snapshot=replace(snapshot, holders=kept))
        changed = kept != snapshot.holders
        return Plan(_plan_mark(snapshot, kept) + _report_held(held, changed=changed, now=now))
    holders = _choose_holders(view)
    if isinstance(holders, Condition):
        return Plan(_report(snapshot, {"readyToUse": False}, holders, now=now))
    return _plan_take(view, holders, now=now)


def _choose_holders(view: SnapshotView) -> tuple[Holder, ...] | Condition:
    """Every in-sync replica, or why there is nothing to take a snapshot of now."""
    name, volume = view.snapshot.volume, view.volume
    if volume is None or volume.meta.deleting:
        state = "does not exist" if volume is None else "is being deleted"
        return Condition(
            READY,
            False,
            reasons.VOLUME_MISSING,
            f"Volume {name} {state}: delete this Snapshot and take one of another volume",
        )
    in_sync = volume.record.in_sync if volume.record else frozenset()
    named = view.snapshot.meta.annotations.get(ANNOTATION_HOLDER)
    if named:
        in_sync = frozenset({named})
    own = [r for r in view.replicas if r.volume_uid == volume.meta.uid and r.node in in_sync]
    if not own or not volume.status_size_bytes or any(r.meta.deleting for r in own):
        return Condition(
            READY,
            False,
            reasons.VOLUME_NOT_READY,
            f"Volume {name} is not ready; the snapshot is taken as soon as it is"
            f" (kubectl describe volumes {name})",
        )
    return tuple(
        Holder(r.node, r.storage_cluster, r.pool, HolderState.PENDING)
        for r in sorted(own, key=lambda r: r.node)
    )


def leave_out(view: SnapshotView) -> tuple[Holder, ...]:
    """The holders, with those that wait on a node that is not in sync any more left out.

    Left out is Failed, not Erased: what its agent may have copied is erased with the Snapshot.
    """
    snapshot, volume = view.snapshot, view.volume
    record = volume.record if volume is not None else None
    same = volume is not None and volume.meta.uid == snapshot.volume_uid
    if record is None or not same or snapshot.ready_to_use or len(snapshot.holders) < 2:
        return snapshot.holders
    late = [h for h in snapshot.holders if h.state is HolderState.PENDING]
    out = {h.node for h in late if h.node not in record.in_sync}
    if not any(_counts(h) and h.node not in out for h in snapshot.holders):
        return snapshot.holders
    text = "left out: the replica here was not in sync any more"
    return tuple(
        replace(h, state=HolderState.FAILED, reason=reasons.PEER_NOT_IN_SYNC, message=text)
        if h.node in out
        else h
        for h in snapshot.holders
    )


def _counts(holder: Holder) -> bool:
    """Whether the Snapshot is ready only with this holder."""
    failed = holder.state is HolderState.FAILED
    return not (failed and holder.reason == reasons.PEER_NOT_IN_SYNC)


def _plan_take(view: SnapshotView, holders: tuple[Holder, ...], *, now: str) -> Plan:
    snapshot, volume = view.snapshot, view.volume
    if volume is None:
        raise ValueError("holders were chosen without a volume")
    wanted: dict[str, Any] = {
        "readyToUse": False,
        "volumeUID": volume.meta.uid,
        "volumeMode": volume.volume_mode.value,
        "sizeBytes": volume.status_size_bytes,
        "holders": [holder.to_dict() for holder in holders],
        "summary": _summary(volume.status_size_bytes, holders),
    }
    if volume.fs_type:
        wanted["fsType"] = volume.fs_type
    report = _report(snapshot, wanted, _judge(view, holders), now=now)
    return Plan(report + _plan_mark(snapshot, holders))


def _plan_mark(snapshot: Snapshot, holders: tuple[Holder, ...]) -> tuple[Action, ...]:
    """Finalizer and the labels by which the agents find it, in one write."""
    meta = snapshot.meta
    labels = {
        holder_label(h.node): "true" for h in holders if holder_label(h.node) not in meta.labels
    }
    metadata: dict[str, Any] = {}
    if labels:
        metadata["labels"] = labels
    if FINALIZER_SNAPSHOT not in meta.finalizers:
        metadata["finalizers"] = sorted(meta.finalizers | {FINALIZER_SNAPSHOT})
    return (PatchObject(SNAPSHOT, meta, {"metadata": metadata}),) if metadata else ()


def _report_held(view: SnapshotView, *, changed: bool, now: str) -> tuple[Action, ...]:
    snapshot = view.snapshot
    counting = [h for h in snapshot.holders if _counts(h)]
    ready = bool(counting) and all(h.state is HolderState.READY for h in counting)
    wanted: dict[str, Any] = {"readyToUse": ready}
    if changed:
        wanted["holders"] = [h.to_dict() for h in snapshot.holders]
    times = [h.creation_time for h in counting if h.creation_time]
    if ready and times and not snapshot.creation_time:
        wanted["creationTime"] = min(times)
    sizes = [h.size_bytes for h in counting if h.size_bytes]
    if ready and sizes:
        wanted["sizeBytes"] = max(sizes)
        wanted["summary"] = _summary(max(sizes), counting)
    return _report(snapshot, wanted, _judge(view, snapshot.holders), now=now)


def _summary(size_bytes: int, holders: Iterable[Holder]) -> dict[str, str]:
    return {"size": format_bytes(size_bytes), "holders": join_some([h.node for h in holders])}


def _judge(view: SnapshotView, holders: tuple[Holder, ...]) -> Condition:
    holders = tuple(h for h in holders if _counts(h)) or holders
    failed = next((h for h in holders if h.state is HolderState.FAILED), None)
    if failed is not None:
        return Condition(
            READY,
            False,
            reasons.HOLDER_FAILED,
            f"{failed.node}: {failed.message or failed.reason or 'failed'}; delete this Snapshot"
            " and take another one when that is put right",
        )
    missing = [h.node for h in holders if h.state is not HolderState.READY]
    lost = [node for node in missing if node in view.lost]
    if lost:
        return Condition(
            READY,
            False,
            reasons.NODE_LOST,
            f"node {lost[0]} {view.lost[lost[0]]}; the snapshot goes on when it is back",
        )
    if missing:
        return Condition(READY, False, reasons.TAKING, f"being taken on {', '.join(missing)}")
    nodes = ", ".join(h.node for h in holders)
    return Condition(READY, True, reasons.READY, f"can be restored from {nodes}")


def _plan_delete(view: SnapshotView, *, now: str) -> Plan:
    snapshot = view.snapshot
    left = [h for h in snapshot.holders if _is_outstanding(view, h)]
    if not left:
        return Plan(plan_release(SNAPSHOT, snapshot.meta, FINALIZER_SNAPSHOT))
    if FINALIZER_SNAPSHOT not in snapshot.meta.finalizers:
        return Plan()
    parts = [_describe_erasing(view, holder) for holder in left]
    lost = any(h.node in view.lost for h in left)
    reason = reasons.NODE_LOST if lost else reasons.ERASING
    condition = Condition(READY, False, reason, "being deleted: " + "; ".join(parts))
    return Plan(_report(snapshot, {"readyToUse": False}, condition, now=now))


def _is_outstanding(view: SnapshotView, holder: Holder) -> bool:
    meta = view.snapshot.meta
    if holder.state is HolderState.ERASED or holder_label(holder.node) not in meta.labels:
        return False
    given_up = meta.annotations.get(ANNOTATION_GIVE_UP) == holder.node
    return not (given_up and holder.node in view.lost)


def _describe_erasing(view: SnapshotView, holder: Holder) -> str:
    node = holder.node
    if node not in view.lost:
        return f"waiting for {node} to erase it" + (
            f" ({holder.message})" if holder.message else ""
        )
    return (
        f"node {node} {view.lost[node]}; bring it back, or if it never returns: kubectl annotate"
        f" snapshots.twinvault.io {view.snapshot.meta.name} {ANNOTATION_GIVE_UP}={node}"
    )


_WARNINGS = frozenset({reasons.HOLDER_FAILED, reasons.NODE_LOST, reasons.VOLUME_MISSING})
_QUIET = frozenset({reasons.TAKING, reasons.ERASING})


def _report(
    snapshot: Snapshot, wanted: Mapping[str, Any], ready: Condition, *, now: str
) -> tuple[Action, ...]:
    moving = ready.reason in (reasons.TAKING, reasons.ERASING, reasons.VOLUME_NOT_READY)
    progressing = Condition(PROGRESSING, moving, ready.reason, ready.message)
    status = plan_status(
        SNAPSHOT, snapshot.meta, snapshot.status, wanted, [ready, progressing], now=now
    )
    before = find_condition(snapshot.conditions, READY)
    same = before is not None and (before.status, before.reason) == (ready.status, ready.reason)
    if same or ready.reason in _QUIET:
        return status
    warning = ready.reason in _WARNINGS
    return (*status, Tell(SNAPSHOT, snapshot.meta, ready.reason, ready.message, warning))
