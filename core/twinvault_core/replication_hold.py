"""A primary that lost its peer, or its place: going on alone, letting go, or staying frozen."""

from __future__ import annotations

from .model.replication import ReplicationRecord
from .replication_record import RecordRefusal, fence_peer
from .replication_state import Disk, DrbdRole, DrbdState
from .replication_view import ReplicationView, Step, StepKind


def let_go(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """The volume moved on. Frozen I/O ends in errors, then its users, then the role."""
    if record.primary == view.node:
        return None
    since = f"{record.primary} is primary since epoch {record.epoch}"
    if drbd.primary and view.is_frozen:
        text = f"{since}: frozen I/O here ends in errors, so that it is never acknowledged late"
        return Step(StepKind.GIVE_UP_FROZEN_IO, "Superseded", text)
    if view.use.pods:
        return Step(StepKind.END_PODS, "Superseded", f"{since}: ending the pods here")
    if view.use.staged:
        return Step(StepKind.UNMOUNT, "Superseded", f"{since}: unmounting it here")
    if drbd.primary:
        return Step(StepKind.DEMOTE, "Superseded", f"{since}: letting go of it here")
    return None


def go_on_alone(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """Finish the kernel's question; also when the peer left without the kernel freezing."""
    if record.primary != view.node:
        return None
    unsaid = drbd.primary and not drbd.connected and view.peer in record.in_sync
    if not view.is_frozen and not unsaid:
        return None
    if drbd.disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT):
        text = (
            f"I/O is frozen: the disk here is {drbd.disk.value} and the other replica is not"
            " reached; it goes on when the link is back, or at the other node"
        )
        return Step(connect_or_wait(drbd), "FrozenNoData", text)
    wanted = fence_peer(record, view.node)
    if isinstance(wanted, RecordRefusal):
        return Step(connect_or_wait(drbd), wanted.rule, f"I/O is frozen: {wanted.message}")
    text = "the other replica is lost: going on alone once the record says so"
    return Step(StepKind.FENCE_THEN_RESUME, "PeerLost", text, write=wanted)


def without_record(view: ReplicationView, drbd: DrbdState) -> Step:
    """R3: without the API nothing is promoted, resumed or given up."""
    if view.is_frozen:
        text = (
            "I/O is frozen: the other replica is lost and the API server cannot be asked whether"
            " to go on alone. It goes on when either comes back"
        )
        return Step(StepKind.NOTHING, "FrozenApiUnreachable", text)
    if drbd.held and not view.hold:
        return Step(StepKind.RELEASE_SYNC, "HoldOver", "nobody says any more that it must wait")
    text = "the API server does not answer; the replica stays as it is"
    return Step(StepKind.NOTHING, "ApiUnreachable", text, well=drbd.in_sync)


def connect_or_wait(drbd: DrbdState) -> StepKind:
    """Only the link can help; nothing makes it while the kernel stands alone."""
    return StepKind.CONNECT if drbd.standalone else StepKind.NOTHING


def is_lifeline(drbd: DrbdState) -> bool:
    """A primary without good data of its own works through the other's: the link must stay."""
    peer_needs = drbd.peer_role is DrbdRole.PRIMARY and drbd.peer_disk is not Disk.UP_TO_DATE
    return peer_needs or (drbd.primary and drbd.disk is not Disk.UP_TO_DATE)


def peer_holds_on(drbd: DrbdState) -> bool:
    """The other kernel is still primary: left gracefully it would not freeze, and would go on
    acknowledging what a replica that is taken for the only one does not get.
    """
    return drbd.connected and drbd.peer_role is DrbdRole.PRIMARY


def wait_for_peer(drbd: DrbdState) -> Step:
    text = f"the other node is still {drbd.peer_role.value}: it lets go first"
    return Step(StepKind.NOTHING, "PeerHoldsOn", text)
