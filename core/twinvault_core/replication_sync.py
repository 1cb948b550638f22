"""The agent's rules about copying and comparing: the first sync, whose turn it is, verify.

Nothing here touches the record, a role or a link. A resync that must wait is paused, and not kept
from connecting, because
1. new writes go to both replicas while it waits, and what they write need not be copied later;
2. the link is up, and says so: a link that is down is half of the evidence for a failover;
3. the kernel connects by itself after a cut, and the agent could only refuse by dropping the
   connection of a primary that may freeze for that.
The price: DRBD calls the target Inconsistent from the handshake on, waiting or not. Its content of
before is kept by the clone that the agent takes in before-resync-target.
"""

from __future__ import annotations

from .model.replication import FirstSync, ReplicationRecord
from .replication_state import Connection, Disk, DrbdRole, DrbdState
from .replication_view import ReplicationView, Step, StepKind


def choose_first_sync(
    view: ReplicationView, record: ReplicationRecord, drbd: DrbdState
) -> Step | None:
    """Two new replicas: neither is UpToDate until one is declared to be."""
    new = drbd.disk is Disk.INCONSISTENT and drbd.peer_disk is Disk.INCONSISTENT
    if not new or drbd.syncing or view.spec is None:
        return None
    alone = record.primary == view.node and record.in_sync == {view.node}
    both_idle = not drbd.primary and drbd.peer_role is not DrbdRole.PRIMARY
    if not alone or not both_idle or view.disk_failed:
        text = f"new replicas; {record.primary} begins the first sync"
        return Step(StepKind.NOTHING, "FirstSync", text)
    if view.spec.first_sync is FirstSync.SKIP and view.blank:
        text = "both replicas are blank: nothing has to be copied"
        return Step(StepKind.SKIP_FIRST_SYNC, "Blank", text)
    if view.spec.first_sync is FirstSync.FULL:
        return Step(StepKind.START_FULL_SYNC, "NotBlank", "copying the whole volume once")
    text = "new replicas; waiting for the operator to say how they become equal"
    return Step(StepKind.NOTHING, "FirstSync", text)


def hold_resync(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """Pause it, or let it pause as soon as it comes: the kernel keeps that over a lost link."""
    if drbd.held or not _may_hold(view, record, drbd):
        return None
    if drbd.connection is Connection.STANDALONE:
        return None  # the kernel would not tell that it is held
    text = "other volumes of the pair are copied first"
    return Step(StepKind.HOLD_SYNC, "ResyncHeld", text)


def release_resync(
    view: ReplicationView, record: ReplicationRecord, drbd: DrbdState
) -> Step | None:
    if not drbd.held or _may_hold(view, record, drbd):
        return None
    return Step(StepKind.RELEASE_SYNC, "ResyncReleased", "its turn has come", well=drbd.in_sync)


def _may_hold(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> bool:
    """Only the side that has every write holds, and only what nobody lives on."""
    primary = record.primary == view.node and view.node in record.in_sync
    return (
        view.hold
        and primary
        and view.peer not in record.in_sync
        and drbd.disk is Disk.UP_TO_DATE
        and not view.is_frozen
    )


def begin_verify(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
    """Compare, when asked, and only what is equal by all that is known."""
    both = {view.node, view.peer} <= record.in_sync
    if record.primary != view.node or not both or not drbd.in_sync:
        return None
    if drbd.verifying:
        text = f"both replicas are in sync and are being compared with {view.peer}"
        return Step(StepKind.NOTHING, "Verifying", text, well=True)
    if not view.verify:
        return None
    text = f"comparing every block with {view.peer}, as the pair's schedule asks"
    return Step(StepKind.VERIFY, "VerifyAsked", text, well=True)
