"""Bringing a replica up: as it is, with new metadata, without its disk, or not at all."""

from __future__ import annotations

from .model.replication import FirstSync, ReplicationRecord
from .replication_view import ReplicationView, Step, StepKind


def decide_start(view: ReplicationView) -> Step:
    if not view.image_ready:
        text = "the pool or the image is not ready; see kubectl describe storagenode " + view.node
        return Step(StepKind.NOTHING, "ImageNotReady", text)
    if view.record is not None and not is_member(view.record, view.node):
        text = "another node has this replica's place; what is here is not attached any more"
        return Step(StepKind.NOTHING, "Replaced", text)
    if view.stale:
        return _start_stale(view)
    if not view.disk_failed and not view.detached:
        whole = _holds_the_volume(view)
        return Step(StepKind.UP, "NotUp", "attaching the replica", whole=whole)
    return _start_after_detach(view)


def _start_stale(view: ReplicationView) -> Step:
    """The image is of an earlier replica on this node, which was given up or taken away since.

    Its metadata must never meet the other replica's: generations tell who is behind only between
    two that never had another peer.
    1. East and west are equal at generation X; west is replaced by another node and given up.
    2. East copies everything there, both are at X still, and write on.
    3. The pod's volume is moved back to west, where the old image is at X too.
    4. DRBD would find both equal and copy nothing.
    """
    record = view.record
    if record is None:
        text = "an earlier replica's image is here; the API server must say whether it counts"
        return Step(StepKind.NOTHING, "ApiUnreachable", text)
    if view.node not in record.in_sync:
        text = "an earlier replica's image is here: all of it is copied anew"
        return Step(StepKind.UP, "Stale", text, fresh=True)
    text = "what this node remembers of the image is gone, but the record counts on it: attaching"
    return Step(StepKind.UP, "Remembered", text)


def _holds_the_volume(view: ReplicationView) -> bool:
    """A volume that lived with one replica gets a second one: what is here is all of it."""
    told = view.spec is not None and view.spec.first_sync is FirstSync.KEEP
    record = view.record
    alone = record is not None and record.primary == view.node and record.in_sync == {view.node}
    return told and alone


def is_member(record: ReplicationRecord, node: str) -> bool:
    return not record.nodes or node in record.nodes


def _start_after_detach(view: ReplicationView) -> Step:
    """The image was detached under a living resource: it may lack writes since.

    Its metadata does not know that, and neither may the record yet:
    1. Frozen I/O is given up here, just as the link comes back.
    2. The new primary's agent still sees both disks UpToDate and adds this replica.
    3. The detach of step 1 is done; the new primary writes alone, and nothing freezes for that.
    4. Both nodes restart before the new primary's agent has taken this replica out again.
    """
    record = view.record
    if record is None:
        text = "the image was detached before; the API server must say who holds every write"
        return Step(StepKind.NOTHING, "ApiUnreachable", text)
    if view.node not in record.in_sync:
        text = "the image was detached before; what it misses is copied from the other replica"
        return Step(StepKind.UP, "Detached", text, fresh=view.disk_failed)
    if view.peer in record.in_sync:
        text = "the image was detached before; starting without it until the record says so too"
        return Step(StepKind.UP, "Detached", text, diskless=True)
    text = "the image was detached before, but it alone holds every write: attaching it as it is"
    return Step(StepKind.UP, "Detached", text)
