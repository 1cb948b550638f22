"""May this node go on alone, may it promote: the two questions that only the API can answer.

Both are asked in the same way. First without an outcome: the answer is final, or carries the record
to write. Then with the outcome of the compare-and-swap: only a write that was WON lets the kernel
go on (R3). The caller repeats from a fresh read while ``read_again`` is set, until its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from .errors import ErrorCode
from .model.replication import ReplicationRecord
from .replication_record import RecordRefusal, fence_peer, promote
from .replication_state import Disk, DrbdRole, DrbdState


class CasOutcome(StrEnum):
    """What became of a compare-and-swap."""

    WON = "Won"
    CONFLICT = "Conflict"
    """Somebody wrote in between: read again and decide anew."""
    UNANSWERED = "Unanswered"
    """No answer in time. The write may still arrive: it must be taken as neither done nor not."""


class FenceExit(IntEnum):
    """What the fence-peer helper tells the kernel. 5 is missing on purpose: it would go on."""

    UNSURE = 1
    """I/O stays frozen until the peer is back or the agent resumes it."""
    PEER_OUTDATED = 4
    """The record says that the peer is not in sync: go on."""
    PEER_IS_PRIMARY = 6
    """The record names the other one: outdate the own disk, stay frozen."""


@dataclass(frozen=True)
class FenceAnswer:
    """``exit`` None: write ``write`` over the record that was read, or read again, then ask."""

    exit: FenceExit | None
    reason: str
    message: str
    write: ReplicationRecord | None = None
    read_again: bool = False


def decide_fence_answer(
    node: str,
    record: ReplicationRecord | None,
    disk: Disk,
    outcome: CasOutcome | None = None,
) -> FenceAnswer:
    """The answer for the kernel at ``node``, which lost its peer or wants to promote without it.

    ``record`` as the API server itself answered (never from a cache), None when it did not.
    ``disk`` is this node's own. ``outcome`` is that of writing the record this function asked for.
    """
    if record is None:
        return _unsure("ApiUnreachable", "the API server does not answer; I/O stays frozen")
    if record.primary != node:
        text = f"{record.primary} is primary since epoch {record.epoch}"
        return FenceAnswer(FenceExit.PEER_IS_PRIMARY, "OtherIsPrimary", text)
    if disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT):
        return _unsure("DiskNotUsable", f"the own disk is {disk.value}; only the peer has the data")
    wanted = fence_peer(record, node)
    if isinstance(wanted, RecordRefusal):
        return _unsure(wanted.rule, wanted.message)
    if outcome is CasOutcome.WON:
        text = f"{node} goes on alone; the other replica is not in sync"
        return FenceAnswer(FenceExit.PEER_OUTDATED, "Alone", text)
    if outcome is CasOutcome.UNANSWERED:
        return _unsure("ApiUnreachable", "the API server took the write but did not confirm it")
    if outcome is CasOutcome.CONFLICT:
        return FenceAnswer(None, "Conflict", "the record moved; reading again", read_again=True)
    return FenceAnswer(None, "Ask", "writing that the peer is not in sync", write=wanted)


def _unsure(reason: str, message: str) -> FenceAnswer:
    return FenceAnswer(FenceExit.UNSURE, reason, message)


@dataclass(frozen=True)
class Promotion:
    """``allowed``: tell the kernel now. Else write and ask again, read again, or fail with code.

    ``outdated``: the kernel must be told first that the replica counts although it is Outdated.
    """

    allowed: bool
    reason: str
    message: str
    write: ReplicationRecord | None = None
    read_again: bool = False
    code: ErrorCode = ErrorCode.FAILED_PRECONDITION
    outdated: bool = False


def decide_promotion(
    node: str,
    record: ReplicationRecord | None,
    drbd: DrbdState | None,
    outcome: CasOutcome | None = None,
    *,
    forced: bool = False,
) -> Promotion:
    """Whether the kernel at ``node`` may be made primary, for a pod that is being staged.

    ``record`` as the API server itself answered; ``forced``: its epoch began with a person's word
    for ``node``. Once allowed, the kernel still asks the fence-peer handler when the other replica
    is not connected, and refuses while that is primary.
    """
    if record is None:
        text = "the API server does not answer; a replica is promoted only on its word"
        return Promotion(False, "ApiUnreachable", text, code=ErrorCode.UNAVAILABLE)
    if record.primary != node:
        text = (
            f"{record.primary} is primary since epoch {record.epoch}; the operator moves the volume"
            f" to {node} when that is safe (kubectl describe volume)"
        )
        return Promotion(False, "OtherIsPrimary", text)
    if drbd is None:
        return Promotion(False, "NotUp", "the replica is not attached yet; wait for the agent")
    if drbd.peer_role is DrbdRole.PRIMARY:
        text = "the other node has not let go yet; its pods are being ended"
        return Promotion(False, "PeerIsPrimary", text)
    # A primary without a disk of its own works through the other's; that takes the link.
    outdated = forced and _is_best(node, record, drbd)
    if drbd.disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT) and not outdated:
        text = f"the replica here is {drbd.disk.value}; it must be UpToDate first"
        return Promotion(False, "DiskNotUsable", text)
    wanted = promote(record, node)
    if isinstance(wanted, RecordRefusal):
        return Promotion(False, wanted.rule, wanted.message)
    return replace(_after(outcome, wanted), outdated=outdated)


def _is_best(node: str, record: ReplicationRecord, drbd: DrbdState) -> bool:
    """Outdated is whole, only old. A person who chose it takes that, while nobody is in sync beside
    it and nothing newer is on the other end of the link (that is copied then, all by itself).
    """
    newer = drbd.connected and drbd.peer_disk in (Disk.UP_TO_DATE, Disk.CONSISTENT)
    alone = record.in_sync == {node}
    return drbd.disk is Disk.OUTDATED and alone and not newer and not drbd.syncing


def _after(outcome: CasOutcome | None, wanted: ReplicationRecord) -> Promotion:
    if outcome is CasOutcome.WON:
        return Promotion(True, "Won", "the record names this node")
    if outcome is CasOutcome.UNANSWERED:
        text = "the API server did not confirm the write; try again"
        return Promotion(False, "ApiUnreachable", text, code=ErrorCode.UNAVAILABLE)
    if outcome is CasOutcome.CONFLICT:
        text = "the record moved; reading again"
        return Promotion(False, "Conflict", text, read_again=True, code=ErrorCode.BUSY)
    return Promotion(False, "Ask", "writing the record before promoting", write=wanted)
