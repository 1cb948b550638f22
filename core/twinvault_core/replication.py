"""The agent's next step for one replicated volume on its node.

``decide_replication_step`` walks through ``RULES`` in order; the first rule that has something to
say decides. The order is part of the meaning: what protects data comes before what restores
redundancy, and that before what is tidy. Every call starts from what is there, so an agent that was
killed after any step goes on by asking again.
"""

from __future__ import annotations

from collections.abc import Callable

from .model.replication import ReplicationRecord
from .replication_hold import (
    connect_or_wait,
    go_on_alone,
    is_lifeline,
    let_go,
    peer_holds_on,
    wait_for_peer,
    without_record,
)
from .replication_leave import decide_leave
from .replication_record import (
    Made,
    RecordRefusal,
    add_in_sync,
    drop_peer,
    leave_in_sync,
)
from .replication_start import decide_start, is_member
from .replication_state import Disk, DrbdState
from .replication_sync import begin_verify, choose_first_sync, hold_resync, release_resync
from .replication_view import Applied, ReplicationView, Step, StepKind
from .sizing import format_bytes

STALLED_OBSERVATIONS = 6
"""A resync without progress so many times is cut and begun anew (LINBIT/drbd#40)."""

Rule = Callable[[ReplicationView, ReplicationRecord, DrbdState], Step | None]


def decide_replication_step(view: ReplicationView) -> Step:
    """The next step, with its reason. Never raises, never answers nothing."""
    if view.spec is None or view.deleting:
        return decide_leave(view)
    if view.drbd is None:
        return decide_start(view)
    if view.record is None:
        return without_record(view, view.drbd)
    for rule in RULES:
        step = rule(view, view.record, view.drbd)
        if step is not None:
            return step
    return Step(StepKind.NOTHING, "InSync", "both replicas hold every write", well=True)


# -- who is the other one? -----------------------------------------------------------------------


def _members(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """What the kernel says of its peer counts only when that is the peer which the record means.

    1. The operator has replaced B by C in the record.
    2. The kernel here is still connected to B, both UpToDate.
    3. Taken for C's, that would put C in sync, or make C the one that serves.
    """
    if not is_member(record, view.node):
        text = "another node has this replica's place; it is taken down when its object says so"
        return Step(StepKind.NOTHING, "Replaced", text)
    if view.stale and record.primary != view.node and view.node not in record.in_sync:
        text = "the kernel still has an earlier replica of this node: it goes, all is copied anew"
        return Step(StepKind.DOWN, "Stale", text)
    if not is_member(record, view.peer):
        text = f"{view.peer} has no replica any more; waiting to be told who has"
        return Step(StepKind.NOTHING, "PeerReplaced", text)
    if not view.other_peer:
        return None
    if drbd.connected and is_lifeline(drbd):
        text = (
            "the disk here is not good and the pod works through the replica that was replaced:"
            " repair the disk, or end the pod and restore a snapshot"
        )
        return Step(StepKind.NOTHING, "PeerReplaced", text)
    if peer_holds_on(drbd):
        return wait_for_peer(drbd)
    text = f"leaving the former replica for the one on {view.peer}"
    return Step(StepKind.ADJUST, "PeerReplaced", text)


def _write(kind: StepKind, reason: str, message: str, made: Made) -> Step:
    if isinstance(made, RecordRefusal):
        return Step(StepKind.NOTHING, made.rule, made.message)
    return Step(kind, reason, message, write=made)


# -- disks ---------------------------------------------------------------------------------------


def _diverged(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """Nothing is discarded until a person has chosen; then only what was given up."""
    if not view.diverged or drbd.connected:
        return None
    if not view.snapshotted:
        text = "both replicas hold writes of their own; cloning this one before anything else"
        return Step(StepKind.HOLD, "Diverged", text, snapshot=True)
    given_up = view.discard_approved and view.node not in record.in_sync
    if given_up and record.primary != view.node:
        text = f"{record.primary} was chosen; the writes here are kept in a clone only"
        return Step(StepKind.CONNECT_AS_TARGET, "Chosen", text, discard=True)
    if view.discard_approved and record.primary == view.node and drbd.standalone:
        return Step(StepKind.CONNECT, "Chosen", "this replica was chosen; waiting for the other")
    text = (
        "both replicas hold writes that the other lacks; both were cloned and nothing is"
        " discarded. Choose one: set Volume.spec.forcePrimary to its node and the volume's name"
    )
    return Step(StepKind.HOLD, "Diverged", text)


def _own_disk(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """A disk that is gone is first taken out of the record, then attached again."""
    behind = drbd.disk in (Disk.INCONSISTENT, Disk.OUTDATED) and drbd.connected
    if behind and record.primary == view.node and {view.node, view.peer} <= record.in_sync:
        return _out_of_record(view, record, drbd)
    if not drbd.disk.gone and not view.disk_failed:
        return None
    if view.node in record.in_sync:
        return _out_of_record(view, record, drbd)
    if not view.image_ready:
        text = "the disk here failed; repair the pool, then the volume is copied anew"
        return Step(StepKind.NOTHING, "DiskFailed", text)
    text = "attaching the image again; what it misses is copied from the other replica"
    return Step(StepKind.REATTACH, "DiskGone", text, fresh=view.disk_failed)


def _out_of_record(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step:
    # Connected without a disk this side says so, and the primary's agent can act on it.
    kind = connect_or_wait(drbd)
    if record.primary != view.node and record.in_sync != {view.node}:
        text = "the disk here failed; the primary's agent takes it out of the record first"
        return Step(kind, "DiskFailed", text)
    # Whatever a verify found before: the peer's disk serves the pod now, and is all there is.
    # One that the record does not count on is believed only by a primary that never stopped: its
    # kernel connects to no data older than what the pod has seen.
    believed = view.peer in record.in_sync or (drbd.primary and not drbd.syncing)
    serves = drbd.connected and drbd.peer_disk is Disk.UP_TO_DATE and believed
    if serves and record.primary == view.node:
        text = f"the disk here is {drbd.disk.value}; only the other replica holds every write"
        made = leave_in_sync(record, view.node, view.peer)
        return _write(StepKind.LEAVE_IN_SYNC, "DiskFailed", text, made)
    if drbd.disk.gone and record.in_sync == {view.node} and view.image_ready:
        text = "the image here alone holds every write: attaching it again as it is"
        return Step(StepKind.REATTACH, "OnlyCopy", text)
    text = (
        "the disk here failed and the other replica is not reached or not in sync: bring the other"
        " node or the link back; if neither comes back, choose a replica by spec.forcePrimary"
    )
    return Step(kind, "DiskFailed", text)


# -- what the kernel was told --------------------------------------------------------------------


def _configuration(
    view: ReplicationView, record: ReplicationRecord, drbd: DrbdState
) -> Step | None:
    if view.applied is Applied.SAME:
        return None
    if view.applied is Applied.SETTINGS or not drbd.connected:
        return Step(StepKind.ADJUST, "SpecChanged", "applying the changed settings")
    if is_lifeline(drbd) or (record.primary == view.node and view.node not in record.in_sync):
        return None  # it waits until both are equal
    return _cut_first(view, record, "SpecChanged", "the address changed") or Step(
        StepKind.ADJUST, "SpecChanged", "connecting by the changed address"
    )


def _cut_first(
    view: ReplicationView, record: ReplicationRecord, reason: str, why: str
) -> Step | None:
    """What must be written before a link is cut on purpose.

    A graceful disconnect tells the other side to outdate itself and freezes nothing: a primary
    would go on alone at once, while the record still has both in sync.
    """
    if record.primary == view.node and view.peer in record.in_sync:
        text = f"{why}: the other replica is not in sync until they are connected again"
        made = drop_peer(record, view.node, view.peer)
        return _write(StepKind.DROP_FROM_SYNC, reason, text, made)
    if record.primary != view.node and view.node in record.in_sync:
        text = f"{why}: the primary's agent marks this replica first"
        return Step(StepKind.NOTHING, reason, text)
    return None


def _tidy(view: ReplicationView, _record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """A primary that nobody uses is demoted, so that the other node can have the volume."""
    if not drbd.primary or view.use:
        return None
    return Step(StepKind.DEMOTE, "NotUsed", "nobody uses it here", well=True)


# -- the link ------------------------------------------------------------------------------------


def _link(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    if drbd.connected:
        return None
    if not drbd.standalone:
        text = f"no link to {view.peer}; it connects by itself when it is back"
        return Step(StepKind.WAIT_FOR_PEER, "LinkDown", text)
    holds = view.node in record.in_sync or record.primary == view.node
    if holds or view.blank:
        return Step(StepKind.CONNECT, "LinkDown", f"connecting to {view.peer}")
    text = f"connecting to {record.primary}; what is missed here is copied"
    return Step(StepKind.CONNECT_AS_TARGET, "Behind", text, snapshot=not view.snapshotted)


def _peer_leaves(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """The other replica is to be replaced or removed: first the record stops counting on it."""
    if view.spec is None or not view.spec.peer_leaves or record.primary != view.node:
        return None
    if view.peer not in record.in_sync or drbd.disk is not Disk.UP_TO_DATE or drbd.syncing:
        return None
    text = f"the replica on {view.peer} leaves: it is not counted on any more"
    made = drop_peer(record, view.node, view.peer)
    return _write(StepKind.DROP_FROM_SYNC, "PeerLeaves", text, made)


def _peer_not_equal(
    view: ReplicationView, record: ReplicationRecord, drbd: DrbdState
) -> Step | None:
    """The record never flatters: what the kernel shows unequal is taken out, link up or not."""
    if record.primary != view.node or view.peer not in record.in_sync:
        return None
    unequal = drbd.peer_disk.gone or drbd.peer_disk in (Disk.INCONSISTENT, Disk.OUTDATED)
    if not unequal and not drbd.syncing and not view.different_bytes:
        return None
    if view.node not in record.in_sync:
        return None
    text = f"the replica on {view.peer} is not equal ({drbd.peer_disk.value})"
    if view.different_bytes:
        text = f"a verify found {format_bytes(view.different_bytes)} that differ on {view.peer}"
    made = drop_peer(record, view.node, view.peer)
    return _write(StepKind.DROP_FROM_SYNC, "PeerNotEqual", text, made)


def _resync(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """A resync is watched; one that stands still is cut and begun anew, by the primary's side."""
    mine = record.primary == view.node
    lifeline = is_lifeline(drbd)
    found = view.different_bytes and view.node in record.in_sync and not lifeline
    if found and mine and not drbd.syncing:
        text = f"{format_bytes(view.different_bytes)} differ: copying them to {view.peer}"
        return Step(StepKind.COPY_MARKED, "VerifyFound", text)
    if not drbd.syncing:
        return None
    if drbd.held or drbd.paused:
        text = "other volumes of the pair are copied first; new writes go to both replicas already"
        return Step(StepKind.NOTHING, "ResyncHeld", text)
    done = f"{drbd.resync.done_percent:.0f} %" if drbd.resync else "beginning"
    patience = STALLED_OBSERVATIONS if mine else 2 * STALLED_OBSERVATIONS
    if view.stalled < patience:
        return Step(StepKind.NOTHING, "Resyncing", f"resync with {view.peer}: {done}")
    reason, why = "ResyncStalled", f"the resync stands still at {done}"
    if lifeline:
        text = f"{why}, and the pod lives on this link: pausing and resuming it; if that does not"
        text += " help, drain the pod to the other node"
        return Step(StepKind.RESTART_SYNC, reason, text)
    # A primary that is itself the target is not counted on by anybody: it may cut at once.
    cut = (
        None if mine and view.node not in record.in_sync else _cut_first(view, record, reason, why)
    )
    return cut or Step(StepKind.RECONNECT, reason, f"{why}: connecting anew")


def _add(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """Equal again: the primary's agent, and nobody else, writes it."""
    missing = sorted({view.node, view.peer} - record.in_sync)
    if record.primary != view.node or not missing or not drbd.in_sync or view.disk_failed:
        return None
    if view.spec is not None and view.spec.peer_leaves and missing == [view.peer]:
        return None
    text = f"{missing[0]} holds every write again"
    made = add_in_sync(record, view.node, missing[0])
    return _write(StepKind.ADD_IN_SYNC, "Equal", text, made)


def _what_is_left(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    if {view.node, view.peer} <= record.in_sync:
        return None
    text = (
        f"connected, disks {drbd.disk.value} and {drbd.peer_disk.value}; in sync:"
        f" {', '.join(sorted(record.in_sync))}"
    )
    return Step(StepKind.NOTHING, "NotInSync", text)


RULES: tuple[Rule, ...] = (
    let_go,
    go_on_alone,
    _members,
    _diverged,
    _own_disk,
    _peer_leaves,
    _configuration,
    _tidy,
    hold_resync,
    _link,
    choose_first_sync,
    _peer_not_equal,
    release_resync,
    _resync,
    _add,
    _what_is_left,
    begin_verify,
)
