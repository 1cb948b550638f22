"""How a replicated Volume is: serving or not, and whether one failure would freeze it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from . import reasons
from .conditions import DEGRADED, PROGRESSING, READY, Condition
from .link_check import find_unreachable
from .model import (
    Phase,
    ReplicaState,
    ReplicationRecord,
    ReplicationStatus,
    Volume,
    VolumeReplica,
)
from .replication_state import PAUSED, Disk, Resync
from .sizing import format_bytes
from .volume_state import IDLE, WHOLE, Growth, VolumeState, being_made, broken
from .volume_view import VolumeView, placed_nodes

_MADE = (ReplicaState.READY, ReplicaState.EXPANDING)
PERCENT_STEP = 5
"""Progress is told in such steps: each is a write."""


def is_replicated(volume: Volume) -> bool:
    """Whether it has a second replica, made or decided on."""
    return len(placed_nodes(volume)) > 1


def is_in_sync(volume: Volume) -> bool:
    """Whether the record says that every replica holds every acknowledged write."""
    record, nodes = volume.record, placed_nodes(volume)
    return record is not None and set(nodes) <= record.in_sync


def judge_replicated(
    view: VolumeView, volume: Volume, growth: Growth | None, moving: str, *, now: str
) -> VolumeState:
    """Phase and conditions of a replicated volume that has been placed.

    ``moving``: what a move of the primary that was asked for waits for; empty when there is none.
    """
    record = volume.record
    if record is None:
        return being_made(reasons.CREATING, "being made")
    if not volume.status_size_bytes and not _is_complete(view, volume):
        return _judge_new(view, volume, record, now=now)
    state = _find_stop(view, record)
    if state is None:
        state = _judge_serving(view, volume, record, growth, now=now)
    state = _note_used_force(volume, state)
    if view.stuck:
        busy = Condition(PROGRESSING, True, reasons.FAILOVER_STUCK, view.stuck)
        return replace(state, progressing=busy)
    if not moving:
        return state
    # What keeps it from serving stands in Ready; here is what the move that was asked for lacks.
    return replace(state, progressing=Condition(PROGRESSING, True, reasons.MOVING, moving))


def is_force_used(volume: Volume) -> bool:
    """Whether spec.forcePrimary was carried out and still stands there: it asks for nothing."""
    wanted = volume.force_primary
    return wanted is not None and volume.status.get("forcePrimaryUsed") == wanted.node


def was_forced(volume: Volume, record: ReplicationRecord) -> bool:
    """Whether a person made the record's primary one, old as it is, and nobody else is whole."""
    forced: list[Mapping[str, object]] = list(volume.status.get("forcedPromotions") or ())
    chosen = bool(forced) and forced[-1].get("epoch") == record.epoch
    return chosen and record.in_sync == {record.primary}


def choose_usable_bytes(volume: Volume, images_bytes: int, primary: VolumeReplica | None) -> int:
    """Size that a pod has of a volume whose images all have ``images_bytes``: the device of the
    primary grows last, and only while both replicas are in sync. Promised before, the new size
    would be asked of a node that cannot give it, and kubelet asks a node only once.
    """
    report = primary.replication_status if primary is not None else None
    if report is None or not report.device_bytes or not volume.status_size_bytes:
        return images_bytes
    return min(images_bytes, max(report.device_bytes, volume.status_size_bytes))


def _note_used_force(volume: Volume, state: VolumeState) -> VolumeState:
    if not is_force_used(volume):
        return state
    text = f"{state.ready.message}; spec.forcePrimary was carried out and does nothing: clear it"
    return replace(state, ready=replace(state.ready, message=text))


def _is_complete(view: VolumeView, volume: Volume) -> bool:
    """Ready for the first time: both replicas made, and equal."""
    own = view.member_replicas()
    return (
        is_in_sync(volume)
        and len(own) == len(placed_nodes(volume))
        and all(r.state in _MADE for r in own)
    )


# -- never ready so far ----------------------------------------------------------------------------


def _judge_new(
    view: VolumeView, volume: Volume, record: ReplicationRecord, *, now: str
) -> VolumeState:
    own = view.member_replicas()
    failed = next((r for r in own if r.state is ReplicaState.FAILED), None)
    if failed is not None:
        return broken(Phase.FAILED, reasons.REPLICA_FAILED, _failed(failed), progressing=True)
    lost = next((node for node in placed_nodes(volume) if node in view.lost), "")
    if lost:
        text = f"node {lost} {view.lost[lost]}: the volume is made when it is back"
        return being_made(reasons.NODE_LOST, text)
    unmade = [n for n in placed_nodes(volume) if not _is_made(view, n)]
    if unmade:
        unknown = [n for n in unmade if n not in view.addresses and _replica(view, n) is None]
        if unknown:
            text = f"{unknown[0]} has no address in the replication network; see its StorageNode"
            return being_made(reasons.NO_REPLICATION, text)
        return being_made(reasons.CREATING, _blocked(view, unmade) or f"on {', '.join(unmade)}")
    unreachable = find_unreachable(volume, view.member_replicas(), view.lost, now=now)
    if unreachable:
        return being_made(reasons.FIRST_SYNC, f"the replicas cannot become equal: {unreachable}")
    return being_made(reasons.FIRST_SYNC, _describe_first_sync(view, record))


def _is_made(view: VolumeView, node: str) -> bool:
    replica = _replica(view, node)
    return replica is not None and replica.state in _MADE


def _blocked(view: VolumeView, nodes: list[str]) -> str:
    earlier = next((r for r in view.foreign_replicas() if r.node in nodes), None)
    if earlier is None:
        return ""
    return (
        f"VolumeReplica {earlier.meta.name} of an earlier volume of this name is still there:"
        " kubectl describe volumereplica says how to let it go"
    )


def _describe_first_sync(view: VolumeView, record: ReplicationRecord) -> str:
    primary = _replica(view, record.primary)
    report = primary.replication_status if primary is not None else None
    if report is None:
        return f"waiting for the agent of {record.primary} to bring the link up"
    if report.resync is not None:
        return f"both replicas become equal: {describe_progress(report.resync)}"
    return f"both replicas become equal: {report.message or 'the link comes up'}"


# -- it was ready: is it serving? -----------------------------------------------------------------


def _find_stop(view: VolumeView, record: ReplicationRecord) -> VolumeState | None:
    """Why nothing can be written now, if so."""
    primary = _replica(view, record.primary)
    others = [r for r in view.member_replicas() if r.node in record.in_sync and not r.meta.deleting]
    if primary is None and not others:
        text = (
            "no replica that holds every write is left: restore a snapshot into a new volume, or"
            " accept what another replica holds (spec.forcePrimary), then delete this one"
        )
        return broken(Phase.FAILED, reasons.REPLICA_LOST, text)
    if record.primary in view.lost:
        text = f"node {record.primary} {view.lost[record.primary]}: {_next_step(view, record)}"
        return broken(Phase.DEGRADED, reasons.NODE_LOST, text, progressing=not view.failover)
    if primary is None:
        text = f"the replica on {record.primary} is gone: {_next_step(view, record)}"
        return broken(Phase.DEGRADED, reasons.REPLICA_LOST, text)
    report = primary.replication_status
    if report is not None and report.frozen:
        since = f" since {report.frozen_since}" if report.frozen_since else ""
        step = view.failover or report.message or "it goes on when the link or the API is back"
        text = f"I/O on {record.primary} is frozen{since}: {step}"
        return broken(Phase.DEGRADED, reasons.FROZEN, text, progressing=True)
    if report is not None and report.stalled_since:
        return broken(Phase.DEGRADED, reasons.STALLED, _describe_stall(record, report))
    if primary.state is ReplicaState.FAILED:
        return broken(Phase.FAILED, reasons.REPLICA_FAILED, _failed(primary), progressing=True)
    useless = _find_useless_disk(view, record, primary)
    if useless:
        return broken(Phase.DEGRADED, reasons.DISK_UNUSABLE, useless, progressing=True)
    return None


def _find_useless_disk(view: VolumeView, record: ReplicationRecord, primary: VolumeReplica) -> str:
    """Why the record's primary could not be promoted, or serve; empty if it could.

    It needs no disk of its own while the other one's is whole and reached, and none yet below a
    pod that began before the volume was replicated.
    """
    report = primary.replication_status
    if report is None:
        return ""
    if not report.disk.gone and report.disk not in (Disk.INCONSISTENT, Disk.OUTDATED):
        return ""
    if not report.link_down and report.peer_disk is Disk.UP_TO_DATE:
        return ""
    if report.disk.gone and primary.in_use:
        return ""
    if report.disk is Disk.OUTDATED and view.volume and was_forced(view.volume, record):
        return ""
    step = report.message or "bring the other node and the link back"
    return f"the replica on {record.primary} is {report.disk.value} and cannot serve: {step}"


def _describe_stall(record: ReplicationRecord, report: ReplicationStatus) -> str:
    """Nobody but a person can tell a slow disk from a kernel that forgot a write."""
    node, others = record.primary, sorted(record.in_sync - {record.primary})
    after = f"the pod then starts on {others[0]}" if others else "it alone has every write"
    return (
        f"a write on {node} neither ends nor fails since {report.stalled_since}, and nothing is"
        " frozen: see the kernel logs and the disks of both nodes; if they are well, restart"
        f" {node} ({after})"
    )


def _next_step(view: VolumeView, record: ReplicationRecord) -> str:
    if view.failover or view.stuck:
        return view.failover or view.stuck
    others = sorted(record.in_sync - {record.primary})
    if others:
        return f"{others[0]} takes over as soon as it reports that the link is down"
    return "the other replica is not in sync, so only this node has every write: bring it back"


# -- serving: how far from a failure? -------------------------------------------------------------


def _judge_serving(
    view: VolumeView,
    volume: Volume,
    record: ReplicationRecord,
    growth: Growth | None,
    *,
    now: str,
) -> VolumeState:
    degraded = _judge_degraded(view, volume, record, now=now)
    text = f"ready on {record.primary}"
    if not degraded.status:
        text += f", every write also on {', '.join(sorted(record.in_sync - {record.primary}))}"
    ready = Condition(READY, True, reasons.READY, text)
    phase = Phase.DEGRADED if degraded.status else Phase.READY
    if growth is not None:
        stuck = Condition(PROGRESSING, False, growth.refused, growth.message)
        return VolumeState(phase, ready, stuck, degraded)
    images = min((r.status_size_bytes for r in view.member_replicas()), default=0)
    if choose_usable_bytes(volume, images, _replica(view, record.primary)) < volume.size_bytes:
        text = f"growing to {format_bytes(volume.size_bytes)}"
        text += ", when both replicas are in sync" if degraded.status else ""
        busy = Condition(PROGRESSING, True, reasons.EXPANDING, text)
        phase = phase if degraded.status else Phase.EXPANDING
        return VolumeState(phase, ready, busy, degraded)
    if degraded.reason == reasons.RESYNCING:
        busy = Condition(PROGRESSING, True, reasons.RESYNCING, degraded.message)
        return VolumeState(phase, ready, busy, degraded)
    return VolumeState(phase, ready, IDLE, degraded)


def _judge_degraded(
    view: VolumeView, volume: Volume, record: ReplicationRecord, *, now: str
) -> Condition:
    found = _find_weakness(view, volume, record)
    if found is None:
        return WHOLE
    reason, text = found
    if reason in (reasons.LINK_DOWN, reasons.PEER_NOT_IN_SYNC):
        unreachable = find_unreachable(volume, view.member_replicas(), view.lost, now=now)
        text += f"; {unreachable}" if unreachable else ""
    since = f" (degraded since {_since(volume, now)}; one failure from frozen)"
    return Condition(DEGRADED, True, reason, text + since)


def _find_weakness(
    view: VolumeView, volume: Volume, record: ReplicationRecord
) -> tuple[str, str] | None:
    """(reason, sentence) of the first thing that takes away the redundancy."""
    own = view.member_replicas()
    if any(r.replication_status is not None and r.replication_status.diverged for r in own):
        how = "choose one with spec.forcePrimary"
        if is_force_used(volume):
            how += " (it was carried out before and does nothing now: clear it and set it again)"
        return reasons.DIVERGED, (
            "both replicas hold writes that the other lacks; nothing is discarded. Compare the"
            f" snapshots that were taken, then {how}"
        )
    for node in placed_nodes(volume):
        if node == record.primary:
            continue
        found = _find_peer_weakness(view, record, node)
        if found is not None:
            return found
    if not is_in_sync(volume):
        return reasons.PEER_NOT_IN_SYNC, _not_in_sync(volume, record, record.primary)
    if volume.replication_pair and view.pair is None:
        return reasons.PAIR_UNKNOWN, (
            f"ReplicationPair {volume.replication_pair} does not exist: both replicas hold every"
            " write, but when a site is lost nobody lets the other one take over. Create it again"
            " with the same two clusters, or take replicationPair away from the Volume"
        )
    return None


def _find_peer_weakness(
    view: VolumeView, record: ReplicationRecord, node: str
) -> tuple[str, str] | None:
    replica, primary = _replica(view, node), _replica(view, record.primary)
    if replica is None or replica.meta.deleting:
        state = "is gone" if replica is None else "is being removed"
        return reasons.REPLICA_LOST, f"the replica on {node} {state}; it is made anew"
    if node in view.lost:
        return reasons.NODE_LOST, f"node {node} {view.lost[node]}: bring it back"
    if replica.state is ReplicaState.FAILED:
        return reasons.REPLICA_FAILED, _failed(replica)
    report = primary.replication_status if primary is not None else None
    if node not in record.in_sync:
        if report is not None and report.resync is not None:
            if report.sync in PAUSED:
                return reasons.RESYNCING, f"{node} waits for its turn to be brought up to date"
            told = describe_progress(report.resync)
            return reasons.RESYNCING, f"{node} is brought up to date: {told}"
        return reasons.PEER_NOT_IN_SYNC, _not_in_sync_with(node, report)
    if report is not None and report.link_down:
        return reasons.LINK_DOWN, f"no link between {record.primary} and {node}"
    return None


def _not_in_sync_with(node: str, report: ReplicationStatus | None) -> str:
    message = report.message if report is not None else ""
    return f"{node} is not in sync" + (f": {message}" if message else "")


def _not_in_sync(volume: Volume, record: ReplicationRecord, primary: str) -> str:
    missing = ", ".join(sorted(set(placed_nodes(volume)) - record.in_sync))
    if primary not in record.in_sync:
        return f"the disk on {primary} failed and {', '.join(sorted(record.in_sync))} serves alone"
    return f"{missing} is not in sync"


def find_since(conditions: tuple[Mapping[str, object], ...]) -> str:
    """Since when the volume is degraded (RFC 3339); empty while it is not."""
    for entry in conditions:
        if entry.get("type") == DEGRADED and entry.get("status") == "True":
            return str(entry.get("lastTransitionTime") or "")
    return ""


def _since(volume: Volume, now: str) -> str:
    return find_since(volume.conditions) or now


def describe_progress(resync: Resync) -> str:
    """``40 %, about 2 min left``; coarse, so that it does not change with every report."""
    percent = int(resync.done_percent) // PERCENT_STEP * PERCENT_STEP
    left = resync.seconds_left
    if left < 0:
        return f"{percent} %"
    if left < 60:
        return f"{percent} %, less than a minute left"
    minutes = -(-left // 60)
    if minutes > 90:
        return f"{percent} %, about {-(-minutes // 60)} h left"
    return f"{percent} %, about {minutes} min left"


def _failed(replica: VolumeReplica) -> str:
    return (
        f"{replica.node}: {replica.message or replica.reason}; the agent goes on trying, see"
        f" kubectl describe volumereplica {replica.meta.name}"
    )


def _replica(view: VolumeView, node: str) -> VolumeReplica | None:
    return next((r for r in view.member_replicas() if r.node == node), None)
