"""A replica goes: with its volume, from its node, or only the other one, while a pod writes on."""

from __future__ import annotations

from dataclasses import replace

from .replication_hold import (
    go_on_alone,
    is_lifeline,
    let_go,
    peer_holds_on,
    wait_for_peer,
    without_record,
)
from .replication_state import Disk, DrbdRole, DrbdState
from .replication_view import ReplicationView, Step, StepKind


def decide_leave(view: ReplicationView) -> Step:
    """The volume or this replica goes. Its data is erased by others, once the resource is down.

    A secondary never goes from under a primary that counts on it: a graceful disconnect does not
    freeze the primary, which would then write alone while the record has both in sync.
    """
    drbd, record = view.drbd, view.record
    if drbd is None:
        alone = record is not None and record.in_sync == {view.node}
        if not view.deleting and alone and not view.use:
            text = "the volume has one replica now: its metadata here goes"
            return Step(StepKind.DOWN, "OneReplica", text, well=True)
        return Step(StepKind.NOTHING, "Down", "no resource is left here", well=True)
    if view.use:
        return _leave_in_use(view, drbd)
    counted_on = record is not None and record.primary != view.node and view.node in record.in_sync
    if counted_on and drbd.connected and drbd.peer_role is DrbdRole.PRIMARY:
        text = "the primary must first say that this replica is not in sync any more"
        return Step(StepKind.NOTHING, "CountedOn", text)
    if not view.deleting and peer_holds_on(drbd):
        return wait_for_peer(drbd)
    if _is_copied_from_here(view, drbd):
        text = "the primary is brought up to date from here; this replica goes after that"
        return Step(StepKind.NOTHING, "Resyncing", text)
    if drbd.primary and view.is_frozen:
        text = "nobody uses it; what is frozen ends in errors, as a frozen primary is not demoted"
        return Step(StepKind.GIVE_UP_FROZEN_IO, "Removed", text)
    if drbd.primary:
        return Step(StepKind.DEMOTE, "Removed", "nobody uses it; it is being removed")
    return Step(StepKind.DOWN, "Removed", "it is being removed")


def _leave_in_use(view: ReplicationView, drbd: DrbdState) -> Step:
    """Either the volume lives on here with one replica, below a mount that stays until its pod
    ends; or it moved on, and what is left of its use here ends first.
    """
    record = view.record
    step = let_go(view, record, drbd) if record is not None else None
    if step is not None:
        return step
    if view.deleting:
        text = "being removed, but still used here: its pods must end first"
        return Step(StepKind.NOTHING, "InUse", text)
    if record is None:
        return without_record(view, drbd)
    step = go_on_alone(view, record, drbd)
    if step is not None:
        # There is nobody to connect to any more.
        return step if step.write is not None else replace(step, kind=StepKind.NOTHING)
    if record.in_sync != {view.node}:
        text = "the operator has not taken the other replica out of the record yet"
        return Step(StepKind.NOTHING, "CountedOn", text)
    if peer_holds_on(drbd):
        return wait_for_peer(drbd)
    if not drbd.standalone and not is_lifeline(drbd):
        text = "the volume has one replica now: leaving the other one"
        return Step(StepKind.DISCONNECT, "OneReplica", text, well=True)
    text = "the volume has one replica now; DRBD stays below it until its pod ends"
    return Step(StepKind.NOTHING, "OneReplica", text, well=True)


def _is_copied_from_here(view: ReplicationView, drbd: DrbdState) -> bool:
    """A primary that crashed elsewhere is the source, also of a record's primary that is counted
    on: unequal are only writes that nobody was told of, but the kernel wants them equal.
    """
    mine = view.record is not None and view.record.primary == view.node
    return drbd.syncing and not mine and drbd.peer_disk is not Disk.UP_TO_DATE
