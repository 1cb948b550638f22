"""The rules, each taken away in turn: what the decisions would be without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from twinvault_core import (
    failover,
    fence,
    member_plan,
    replicated_status,
    replication,
    replication_record,
    replication_start,
)
from twinvault_core.failover import Loss
from twinvault_core.failover_view import NodeView, Wait
from twinvault_core.fence import CasOutcome, FenceAnswer, FenceExit, Promotion
from twinvault_core.model import ReplicationRecord, Volume
from twinvault_core.numbers import Device
from twinvault_core.replication_hold import let_go
from twinvault_core.replication_record import Made
from twinvault_core.replication_state import Disk, DrbdState
from twinvault_core.replication_view import ReplicationView, Step, StepKind

from .agent import Decisions
from .kernel import USABLE


@contextmanager
def without_r1() -> Iterator[Decisions]:
    """The primary goes on alone without having said so in the record."""

    def answer(
        node: str,
        record: ReplicationRecord | None,
        disk: Disk,
        outcome: CasOutcome | None = None,
    ) -> FenceAnswer:
        if record is not None and record.primary == node and disk in USABLE:
            return FenceAnswer(FenceExit.PEER_OUTDATED, "Alone", "without writing it")
        return fence.decide_fence_answer(node, record, disk, outcome)

    yield Decisions(fence=answer)


@contextmanager
def without_r2() -> Iterator[Decisions]:
    """Whoever is left takes over, in sync or not."""
    rules = {name: rule for name, rule in replication_record.RULES.items() if name != "R2"}
    with patch.object(replication_record, "RULES", rules):
        yield Decisions()


@contextmanager
def without_r2_at_promotion() -> Iterator[Decisions]:
    """A replica is promoted because a pod wants it, whatever the record says."""

    def promote(*_: object) -> Promotion:
        return Promotion(True, "Wanted", "a pod wants it")

    def answer(
        node: str,
        record: ReplicationRecord | None,
        disk: Disk,
        outcome: CasOutcome | None = None,
    ) -> FenceAnswer:
        mine = replace(record, primary=node, in_sync=record.in_sync | {node}) if record else None
        return fence.decide_fence_answer(node, mine, disk, outcome)

    yield Decisions(promotion=promote, fence=answer)


@contextmanager
def without_r3() -> Iterator[Decisions]:
    """A write that was not answered counts as done."""

    def answer(
        node: str,
        record: ReplicationRecord | None,
        disk: Disk,
        outcome: CasOutcome | None = None,
    ) -> FenceAnswer:
        hoped = CasOutcome.WON if outcome is CasOutcome.UNANSWERED else outcome
        return fence.decide_fence_answer(node, record, disk, hoped)

    yield Decisions(fence=answer)


@contextmanager
def without_serial() -> Iterator[Decisions]:
    """Nothing is written when the record says already that the peer is not in sync."""

    def answer(
        node: str,
        record: ReplicationRecord | None,
        disk: Disk,
        outcome: CasOutcome | None = None,
    ) -> FenceAnswer:
        if record is not None and record.primary == node and record.in_sync == {node}:
            return FenceAnswer(FenceExit.PEER_OUTDATED, "Alone", "it is said already")
        return fence.decide_fence_answer(node, record, disk, outcome)

    yield Decisions(fence=answer)


@contextmanager
def without_link_evidence() -> Iterator[Decisions]:
    """A silent agent is enough for a failover."""
    real = failover.choose_loss

    def loss(*evidence: object) -> Loss:
        found = real(*evidence)  # type: ignore[arg-type]
        return Loss.NODE if found is Loss.AGENT else found

    with patch.object(failover, "choose_loss", loss):
        yield Decisions()


@contextmanager
def without_lease_evidence() -> Iterator[Decisions]:
    """A link that is down is enough for a failover."""
    real = failover.choose_loss

    def loss(primary: object, own: object, other: object) -> Loss:
        report = getattr(other, "replication_status", None)
        if report is not None and report.link_down:
            return Loss.NODE
        return real(primary, own, other)  # type: ignore[arg-type]

    with patch.object(failover, "choose_loss", loss):
        yield Decisions()


@contextmanager
def with_anyone_adding() -> Iterator[Decisions]:
    """A replica that finds itself equal says so in the record itself."""
    rules = {
        name: rule
        for name, rule in replication_record.RULES.items()
        if name not in ("OnlyThePrimary", "DropsAnother")
    }

    def add(record: ReplicationRecord, by: str) -> Made:
        return replication_record.add_in_sync(record, by, by)

    def step(view: ReplicationView) -> Step:
        found = replication.decide_replication_step(view)
        record, drbd = view.record, view.drbd
        if record is None or drbd is None or view.node in record.in_sync or not drbd.in_sync:
            return found
        made = add(record, view.node)
        if not isinstance(made, ReplicationRecord) or found.kind is not StepKind.NOTHING:
            return found
        return Step(StepKind.ADD_IN_SYNC, "Equal", "says the replica itself", write=made)

    with patch.object(replication_record, "RULES", rules):
        yield Decisions(step=step)


@contextmanager
def with_the_record_read_last() -> Iterator[Decisions]:
    """In sync by what the kernel showed before the record was read: see ``add_in_sync``."""
    seen: dict[str, ReplicationView] = {}

    def step(view: ReplicationView) -> Step:
        late, seen[view.node] = seen.get(view.node, view), view
        return replication.decide_replication_step(replace(view, drbd=late.drbd))

    yield Decisions(step=step)


@contextmanager
def with_a_port_for_life() -> Iterator[Decisions]:
    """A replica that was left behind finds the volume where it always was."""

    def keep(volume: Volume, _number: int) -> Device:
        assert volume.device is not None
        return volume.device

    with patch.object(member_plan, "_next_device", keep):
        yield Decisions()


@contextmanager
def with_trust_in_earlier_replicas() -> Iterator[Decisions]:
    """An image that a node held before is taken for one that only fell behind."""

    def step(view: ReplicationView) -> Step:
        return replication.decide_replication_step(replace(view, stale=False))

    yield Decisions(step=step)


@contextmanager
def without_members() -> Iterator[Decisions]:
    """The record does not know who has a replica; the objects, which may be old, say it."""
    names = ("OnlyMembers", "MembersAlone")
    rules = {n: rule for n, rule in replication_record.RULES.items() if n not in names}
    with (
        patch.object(replication_record, "RULES", rules),
        patch.object(replication, "is_member", lambda *_: True),
        patch.object(replication_start, "is_member", lambda *_: True),
    ):
        yield Decisions()


@contextmanager
def with_the_question_answered_by_anyone() -> Iterator[Decisions]:
    """Whoever lost its peer may go on, whoever is primary by the record meanwhile."""

    def answer(
        node: str,
        record: ReplicationRecord | None,
        disk: Disk,
        outcome: CasOutcome | None = None,
    ) -> FenceAnswer:
        if record is not None and record.primary != node and disk in USABLE:
            return FenceAnswer(FenceExit.PEER_OUTDATED, "Alone", "it was primary before")
        return fence.decide_fence_answer(node, record, disk, outcome)

    yield Decisions(fence=answer)


@contextmanager
def with_frozen_io_that_goes_on() -> Iterator[Decisions]:
    """Frozen I/O of a primary that was superseded goes on instead of ending in errors."""

    def go_on(view: ReplicationView, record: ReplicationRecord, drbd: DrbdState) -> Step | None:
        step = let_go(view, record, drbd)
        if step is None or step.kind is not StepKind.GIVE_UP_FROZEN_IO:
            return step
        after = replace(record, serial=record.serial + 1)
        return Step(StepKind.FENCE_THEN_RESUME, "PeerLost", "goes on", write=after)

    with patch.object(replication, "RULES", _replace_rule(let_go, go_on)):
        yield Decisions()


@contextmanager
def without_letting_go() -> Iterator[Decisions]:
    """A primary that was superseded stays as it is."""
    with patch.object(replication, "RULES", _replace_rule(let_go, lambda *_: None)):
        yield Decisions()


@contextmanager
def without_patience_that_ends() -> Iterator[Decisions]:
    """A resync that stands still is waited for."""
    with patch.object(replication, "STALLED_OBSERVATIONS", 1 << 30):
        yield Decisions()


@contextmanager
def with_everything_fenced() -> Iterator[Decisions]:
    """Pods and attachments of a silent node go, whatever the record says of their volumes."""

    def fenced(view: NodeView) -> frozenset[str]:
        return frozenset(e.name for e in view.volumes)

    with patch.object(failover, "find_fenced", fenced):
        yield Decisions()


@contextmanager
def without_the_epoch() -> Iterator[Decisions]:
    """An operator ends pods for what its cache says, and reads no record before."""
    yield Decisions(reads_the_epoch=False)


@contextmanager
def without_approval() -> Iterator[Decisions]:
    """A pair with the policy Manual fails over by itself."""
    real = failover._find_obstacle

    def find(*args: Any) -> Wait | None:
        found = real(*args)
        return None if found is not None and found.reason == "ApprovalNeeded" else found

    with patch.object(failover, "_find_obstacle", find):
        yield Decisions()


@contextmanager
def without_conditions() -> Iterator[Decisions]:
    """The conditions say that nothing is wrong, whatever the replicas lack."""
    with patch.object(replicated_status, "_find_weakness", lambda *_: None):
        yield Decisions()


@contextmanager
def without_telling_of_stops() -> Iterator[Decisions]:
    """The conditions call a volume ready whose I/O is frozen or whose node is lost."""
    with patch.object(replicated_status, "_find_stop", lambda *_: None):
        yield Decisions()


def _replace_rule(real: replication.Rule, other: replication.Rule) -> tuple[replication.Rule, ...]:
    return tuple(other if rule is real else rule for rule in replication.RULES)


MUTATIONS: dict[str, Callable[[], AbstractContextManager[Decisions]]] = {
    "R1": without_r1,
    "R2 when the record moves": without_r2,
    "R2 when a replica is promoted": without_r2_at_promotion,
    "R3": without_r3,
    "serial": without_serial,
    "link down": without_link_evidence,
    "lease expired": without_lease_evidence,
    "only the primary adds": with_anyone_adding,
    "the record is read first": with_the_record_read_last,
    "each set of replicas has its own port": with_a_port_for_life,
    "an earlier replica is copied whole": with_trust_in_earlier_replicas,
    "the record knows who has a replica": without_members,
    "the question is answered by the record": with_the_question_answered_by_anyone,
    "frozen I/O of before ends in errors": with_frozen_io_that_goes_on,
    "who was superseded lets go": without_letting_go,
    "a resync that stands still begins anew": without_patience_that_ends,
    "only what is fenced is evicted": with_everything_fenced,
    "the epoch is read before a pod goes": without_the_epoch,
    "a person approves": without_approval,
    "Degraded says what is lacking": without_conditions,
    "Ready says why it is not": without_telling_of_stops,
}
