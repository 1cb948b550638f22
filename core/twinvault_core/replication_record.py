"""The replication record's life: the one place where a new record is made.

A record says who may write (``primary``) and who holds every acknowledged write (``in_sync``).
Every function here takes the record as it was read and answers the record to write in its place by
compare-and-swap, or why there is none. The rules stand in one table and are checked on every
change, whoever makes it:

- R1: who goes on alone has written before that the other is not in sync.
- R2: a replica becomes primary only by a write that names it, raises the epoch, and finds it in
  sync.
- R3 (who cannot reach the API neither promotes nor resumes) follows from the order: first the write
  is won, then the kernel is told. ``fence.py`` keeps that order.

Every write raises ``serial``, also one that changes nothing else. Why:
1. A's agent sends "B is in sync" and its call times out; the write is still on its way.
2. The link is cut; the kernel at A asks whether it may go on alone.
3. A's agent reads the record: B is not in it, so there would be nothing to write.
4. It answers yes.
5. The write of step 1 arrives and is still current: the record has B in sync while A writes alone.
With a serial, step 3 writes, and step 5 finds that the record has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from .model.replication import ForcePrimary, ReplicationRecord

OPERATOR = ""
"""As ``by``: the operator, not an agent of a node. No node has an empty name."""


class Cause(StrEnum):
    """Why a record is written."""

    PROMOTE = "Promote"
    """The barrier before the kernel is made primary: nothing changes but the serial."""
    FENCE = "Fence"
    """The primary goes on alone."""
    DROP = "Drop"
    """The primary saw that the other replica is not equal; the link may well be up."""
    ADD = "Add"
    """A replica has become equal."""
    LEAVE = "Leave"
    """The primary lost its own disk and goes on through the other's."""
    FAIL_OVER = "FailOver"
    SWITCH_OVER = "SwitchOver"
    FORCE = "Force"
    """A person gives up the writes that the new primary does not hold."""
    MEMBERS = "Members"
    """Another set of nodes holds replicas; who may write and who is in sync stays as it is."""


@dataclass(frozen=True)
class RecordRefusal:
    """No record is made. ``rule`` is for programs and tests, ``message`` tells what to do next."""

    rule: str
    message: str


@dataclass(frozen=True)
class RecordChange:
    """One step of the record. ``by``: a node, for its agent, or ``OPERATOR``."""

    cause: Cause
    by: str
    before: ReplicationRecord
    after: ReplicationRecord
    confirmed: bool = False


Made = ReplicationRecord | RecordRefusal


def start_record(primary: str, nodes: Iterable[str] = ()) -> ReplicationRecord:
    """The first record of a volume: its only content is the primary's."""
    return ReplicationRecord(1, primary, frozenset({primary}), 1, frozenset(nodes))


def promote(record: ReplicationRecord, by: str) -> Made:
    """What ``by`` writes before its kernel is made primary; it proves that the API is reached."""
    return _change(Cause.PROMOTE, by, record)


def fence_peer(record: ReplicationRecord, by: str) -> Made:
    """What ``by`` writes before it goes on alone."""
    return _change(Cause.FENCE, by, record, in_sync=frozenset({by}))


def drop_peer(record: ReplicationRecord, by: str, peer: str) -> Made:
    """What ``by`` writes when ``peer`` no longer holds every write although no one asked."""
    return _change(Cause.DROP, by, record, in_sync=record.in_sync - {peer})


def add_in_sync(record: ReplicationRecord, by: str, node: str) -> Made:
    """What ``by`` writes when ``node`` holds every write again.

    ``record`` must have been read BEFORE the kernel was seen in sync. The other way round:
    1. The kernel at A shows both disks UpToDate.
    2. The link is cut, A fences, goes on alone.
    3. A's agent reads the record and adds B, for what it saw in step 1.
    Read first, the write of step 2 makes step 3 fail.
    """
    return _change(Cause.ADD, by, record, in_sync=record.in_sync | {node})


def leave_in_sync(record: ReplicationRecord, by: str, peer: str) -> Made:
    """What ``by``, the primary, writes when its own disk is gone and ``peer``'s serves.

    ``peer`` need not have been in sync by the record: the same look at the kernel that would add
    it counts here, and every write since the loss was acknowledged by it alone.
    """
    return _change(Cause.LEAVE, by, record, in_sync=frozenset({peer}))


def fail_over(record: ReplicationRecord, to: str) -> Made:
    """The old primary is lost; ``to`` takes over alone."""
    return _change(Cause.FAIL_OVER, OPERATOR, record, primary=to, in_sync=frozenset({to}), epoch=1)


def switch_over(record: ReplicationRecord, to: str) -> Made:
    """Both are well and the old primary has been demoted; both stay in sync."""
    return _change(Cause.SWITCH_OVER, OPERATOR, record, primary=to, epoch=1)


def force_primary(record: ReplicationRecord, wanted: ForcePrimary, volume_name: str) -> Made:
    """A person makes ``wanted.node`` primary, in sync or not, the volume's name typed out."""
    return _change(
        Cause.FORCE,
        OPERATOR,
        record,
        primary=wanted.node,
        in_sync=frozenset({wanted.node}),
        epoch=1,
        confirmed=wanted.volume_name == volume_name,
    )


def change_members(record: ReplicationRecord, nodes: Iterable[str]) -> Made:
    """A replica joins, leaves, or is replaced. Who leaves is not counted on any more, who joins is
    not counted on yet; ``nodes`` are stored in the same write, as ``status.placement.nodes``.

    One who left stays out whatever arrives late:
    1. A's agent has read the record, seen B UpToDate, and sent "B is in sync".
    2. The operator replaces B by C.
    3. The write of step 1 finds that the record has moved. A's agent, which may not know its new
       peer yet, reads again: B is no member, so the rules refuse it.
    """
    return _change(Cause.MEMBERS, OPERATOR, record, nodes=frozenset(nodes))


def _change(
    cause: Cause,
    by: str,
    before: ReplicationRecord,
    *,
    primary: str | None = None,
    in_sync: frozenset[str] | None = None,
    nodes: frozenset[str] | None = None,
    epoch: int = 0,
    confirmed: bool = False,
) -> Made:
    after = ReplicationRecord(
        epoch=before.epoch + epoch,
        primary=before.primary if primary is None else primary,
        in_sync=before.in_sync if in_sync is None else in_sync,
        serial=before.serial + 1,
        nodes=before.nodes if nodes is None else nodes,
    )
    return check_change(RecordChange(cause, by, before, after, confirmed)) or after


def check_change(change: RecordChange) -> RecordRefusal | None:
    """The first rule that ``change`` breaks, if any."""
    for name, rule in RULES.items():
        broken = rule(change)
        if broken:
            return RecordRefusal(name, broken)
    return None


_BY_THE_PRIMARY = frozenset({Cause.PROMOTE, Cause.FENCE, Cause.DROP, Cause.ADD, Cause.LEAVE})
_NEEDS_ITSELF_IN_SYNC = frozenset({Cause.PROMOTE, Cause.FENCE})
_CHANGES_PRIMARY = frozenset({Cause.FAIL_OVER, Cause.SWITCH_OVER, Cause.FORCE})


def _only_the_primary(change: RecordChange) -> str:
    """Only the record's primary knows which writes exist, so only its agent says who has them."""
    if change.cause not in _BY_THE_PRIMARY or change.by == change.before.primary:
        return ""
    return f"{change.before.primary} is primary since epoch {change.before.epoch}"


def _alone_is_said(change: RecordChange) -> str:
    """R1."""
    if change.cause is not Cause.FENCE or change.after.in_sync == {change.by}:
        return ""
    return f"{change.by} would go on alone while the record has others in sync"


def _holds_every_write(change: RecordChange) -> str:
    """R2: who becomes primary, or goes on as such, was in sync."""
    if change.cause in _NEEDS_ITSELF_IN_SYNC and change.by not in change.before.in_sync:
        return _misses(change.by, change.before)
    takes_over = change.cause in (Cause.FAIL_OVER, Cause.SWITCH_OVER)
    if takes_over and change.after.primary not in change.before.in_sync:
        return _misses(change.after.primary, change.before)
    return ""


def _misses(node: str, record: ReplicationRecord) -> str:
    others = ", ".join(sorted(record.in_sync))
    return (
        f"{node} is not in sync since serial {record.serial}, only {others} holds every write:"
        f" bring {others} back, or give up what {node} misses (Volume.spec.forcePrimary)"
    )


def _epoch_counts_primaries(change: RecordChange) -> str:
    """The epoch goes up with a new primary, and with nothing else."""
    before, after = change.before, change.after
    if change.cause not in _CHANGES_PRIMARY:
        kept = after.primary == before.primary and after.epoch == before.epoch
        return "" if kept else "only the operator changes the primary"
    if change.by != OPERATOR:
        return "only the operator changes the primary"
    if after.primary == before.primary and change.cause is not Cause.FORCE:
        return f"{after.primary} is the primary already"
    return "" if after.epoch == before.epoch + 1 else "a new primary begins a new epoch"


def _someone_stays(change: RecordChange) -> str:
    """A record without anybody in sync could never be left again."""
    if change.after.in_sync:
        return ""
    return f"{change.before.primary} alone holds every write: its disk must come back"


def _only_members(change: RecordChange) -> str:
    """Nobody is counted on, or writes, who holds no replica. Empty: members are not known."""
    after = change.after
    strangers = after.nodes and (after.in_sync | {after.primary}) - after.nodes
    if strangers:
        return f"{', '.join(sorted(strangers))} holds no replica of this volume (any more)"
    return ""


def _members_change_alone(change: RecordChange) -> str:
    """By the operator, with nothing else, while the primary itself holds every write."""
    before, after = change.before, change.after
    if change.cause is not Cause.MEMBERS:
        return "" if after.nodes == before.nodes else "only the operator changes who has a replica"
    if change.by != OPERATOR:
        return "only the operator changes who has a replica"
    if before.primary not in before.in_sync:
        return _misses(before.primary, before)
    return "" if after.in_sync == before.in_sync else "who joins or leaves is not in sync"


def _typed_out(change: RecordChange) -> str:
    if change.cause is not Cause.FORCE or change.confirmed:
        return ""
    return "type the name of the Volume into spec.forcePrimary.volumeName"


def _drops_another(change: RecordChange) -> str:
    """A primary takes itself out only by LEAVE, which keeps another."""
    if change.cause is not Cause.DROP or change.by in change.after.in_sync:
        return ""
    return f"{change.by} itself is not in sync"


RULES: dict[str, Callable[[RecordChange], str]] = {
    "OnlyThePrimary": _only_the_primary,
    "R1": _alone_is_said,
    "R2": _holds_every_write,
    "Epoch": _epoch_counts_primaries,
    "SomeoneStays": _someone_stays,
    "DropsAnother": _drops_another,
    "TypedOut": _typed_out,
    "OnlyMembers": _only_members,
    "MembersAlone": _members_change_alone,
}
