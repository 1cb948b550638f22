"""The agent's decisions, event by event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from twinvault_core.errors import ErrorCode
from twinvault_core.fence import CasOutcome, FenceExit, decide_fence_answer, decide_promotion
from twinvault_core.model import FirstSync, ReplicationRecord, ReplicationSpec
from twinvault_core.replication import STALLED_OBSERVATIONS, decide_replication_step
from twinvault_core.replication_state import (
    Connection,
    Disk,
    DrbdRole,
    DrbdState,
    Suspension,
    SyncState,
)
from twinvault_core.replication_view import Applied, LocalUse, ReplicationView, Step, StepKind

BOTH = ReplicationRecord(1, "a", frozenset({"a", "b"}), 5)
ALONE = ReplicationRecord(1, "a", frozenset({"a"}), 5)
MOVED = ReplicationRecord(2, "b", frozenset({"b"}), 6)
LEFT = ReplicationRecord(1, "a", frozenset({"b"}), 5)
SPEC = ReplicationSpec(1000, 7000, "10.0.0.1", "b", "10.0.0.2")
WELL = DrbdState(
    Connection.CONNECTED,
    SyncState.ESTABLISHED,
    DrbdRole.PRIMARY,
    DrbdRole.SECONDARY,
    Disk.UP_TO_DATE,
    Disk.UP_TO_DATE,
)
ASIDE = replace(WELL, role=DrbdRole.SECONDARY, peer_role=DrbdRole.PRIMARY)
LOST = replace(
    WELL,
    connection=Connection.CONNECTING,
    sync=SyncState.OFF,
    peer_role=DrbdRole.UNKNOWN,
    peer_disk=Disk.UNKNOWN,
)
FROZEN = replace(LOST, suspended=frozenset({Suspension.FENCING}))
OFF = replace(LOST, role=DrbdRole.SECONDARY)
STANDALONE = replace(OFF, connection=Connection.STANDALONE)
SOURCE = replace(WELL, sync=SyncState.SYNC_SOURCE, peer_disk=Disk.INCONSISTENT)
TARGET = replace(ASIDE, sync=SyncState.SYNC_TARGET, disk=Disk.INCONSISTENT)
NEW = replace(WELL, role=DrbdRole.SECONDARY, disk=Disk.INCONSISTENT, peer_disk=Disk.INCONSISTENT)
HELD = replace(SOURCE, sync=SyncState.PAUSED_SYNC_SOURCE, held=True)
WAITING = replace(TARGET, sync=SyncState.PAUSED_SYNC_TARGET)
DISKLESS = replace(WELL, disk=Disk.DISKLESS)
USED = LocalUse(pods=1, staged=True)
STAGED = LocalUse(staged=True)


def decide(
    record: ReplicationRecord | None, drbd: DrbdState | None, use: LocalUse = USED, **more: Any
) -> Step:
    node = more.pop("node", "a")
    spec = more.pop("spec", replace(SPEC, peer_node="b" if node == "a" else "a"))
    view = ReplicationView("v", node, spec, record, drbd, use, **more)
    step = decide_replication_step(view)
    assert step.reason
    assert step.message
    return step


K = StepKind
NOT = LocalUse()

EVENTS: dict[str, tuple[Step, StepKind]] = {
    "all is well": (decide(BOTH, WELL), K.NOTHING),
    "agent restarted, nothing configured": (decide(BOTH, None), K.UP),
    "nothing configured, pool not ready": (decide(BOTH, None, image_ready=False), K.NOTHING),
    "link lost at the primary": (decide(BOTH, FROZEN), K.FENCE_THEN_RESUME),
    "the same, fenced before": (decide(ALONE, FROZEN), K.FENCE_THEN_RESUME),
    "question left open by a dead agent": (decide(BOTH, LOST, question=True), K.FENCE_THEN_RESUME),
    "peer left without a freeze": (decide(BOTH, LOST), K.FENCE_THEN_RESUME),
    "alone and said": (decide(ALONE, LOST), K.WAIT_FOR_PEER),
    "link lost, API lost": (decide(None, FROZEN), K.NOTHING),
    "API lost alone": (decide(None, WELL), K.NOTHING),
    "link lost at the secondary": (decide(BOTH, OFF, NOT, node="b"), K.WAIT_FOR_PEER),
    "frozen without a good disk": (decide(LEFT, replace(FROZEN, disk=Disk.FAILED)), K.NOTHING),
    "lease expired: moved, frozen": (decide(MOVED, FROZEN), K.GIVE_UP_FROZEN_IO),
    "moved, question open": (decide(MOVED, LOST, question=True), K.GIVE_UP_FROZEN_IO),
    "moved, given up, pods": (decide(MOVED, replace(LOST, disk=Disk.DISKLESS)), K.END_PODS),
    "moved, pods gone": (decide(MOVED, LOST, STAGED), K.UNMOUNT),
    "moved, unmounted": (decide(MOVED, LOST, NOT), K.DEMOTE),
    "moved, link up": (decide(MOVED, WELL), K.END_PODS),
    "moved, demoted, diskless": (
        decide(MOVED, replace(OFF, disk=Disk.DISKLESS), NOT, detached=True),
        K.REATTACH,
    ),
    "moved, attached": (decide(MOVED, STANDALONE, NOT), K.CONNECT_AS_TARGET),
    "moved, resyncing": (decide(MOVED, TARGET, NOT), K.NOTHING),
    "link found, equal": (decide(ALONE, WELL), K.ADD_IN_SYNC),
    "equal, seen by the other": (decide(ALONE, ASIDE, NOT, node="b"), K.NOTHING),
    "resync started, record flatters": (decide(BOTH, SOURCE), K.DROP_FROM_SYNC),
    "resync goes on": (decide(ALONE, SOURCE), K.NOTHING),
    "resync latched": (decide(ALONE, SOURCE, stalled=STALLED_OBSERVATIONS), K.RECONNECT),
    "resync latched, primary lives on the link": (
        decide(
            LEFT,
            replace(WELL, disk=Disk.INCONSISTENT, sync=SyncState.SYNC_TARGET),
            stalled=STALLED_OBSERVATIONS,
        ),
        K.RESTART_SYNC,
    ),
    "resync latched, seen by the target": (
        decide(ALONE, TARGET, NOT, node="b", stalled=STALLED_OBSERVATIONS),
        K.NOTHING,
    ),
    "resync latched, nobody acts": (
        decide(ALONE, TARGET, NOT, node="b", stalled=2 * STALLED_OBSERVATIONS),
        K.RECONNECT,
    ),
    "a resync waits for its turn": (decide(ALONE, SOURCE, hold=True), K.HOLD_SYNC),
    "one that is to come, too": (decide(ALONE, LOST, hold=True), K.HOLD_SYNC),
    "held, waiting": (decide(ALONE, HELD, hold=True), K.NOTHING),
    "its turn": (decide(ALONE, HELD), K.RELEASE_SYNC),
    "held, and the API away": (decide(None, HELD, hold=True), K.NOTHING),
    "held no more, and the API away": (decide(None, HELD), K.RELEASE_SYNC),
    "held, and the record flatters": (decide(BOTH, HELD, hold=True), K.DROP_FROM_SYNC),
    "held, and equal": (decide(BOTH, replace(WELL, held=True), hold=True), K.RELEASE_SYNC),
    "waiting, seen by the target": (
        decide(ALONE, WAITING, NOT, node="b", stalled=9 * STALLED_OBSERVATIONS),
        K.NOTHING,
    ),
    "hold told to the target": (decide(ALONE, TARGET, NOT, node="b", hold=True), K.NOTHING),
    "hold while the primary lives on the link": (
        decide(LEFT, replace(WELL, disk=Disk.INCONSISTENT, sync=SyncState.SYNC_TARGET), hold=True),
        K.NOTHING,
    ),
    "hold while frozen": (decide(BOTH, FROZEN, hold=True), K.FENCE_THEN_RESUME),
    "hold, standing alone": (decide(ALONE, STANDALONE, NOT, hold=True), K.CONNECT),
    "asked to compare": (decide(BOTH, WELL, verify=True), K.VERIFY),
    "asked to compare, nobody uses it": (
        decide(BOTH, replace(WELL, role=DrbdRole.SECONDARY), NOT, verify=True),
        K.VERIFY,
    ),
    "asked to compare, at the other": (decide(BOTH, ASIDE, NOT, node="b", verify=True), K.NOTHING),
    "asked to compare, not in sync": (decide(ALONE, SOURCE, verify=True), K.NOTHING),
    "asked to compare, link lost": (decide(ALONE, LOST, verify=True), K.WAIT_FOR_PEER),
    "being compared": (
        decide(BOTH, replace(WELL, sync=SyncState.VERIFY_SOURCE), verify=True),
        K.NOTHING,
    ),
    "disk error at the secondary, at the primary": (
        decide(BOTH, replace(WELL, peer_disk=Disk.DISKLESS)),
        K.DROP_FROM_SYNC,
    ),
    "disk error at the secondary, there": (
        decide(BOTH, replace(ASIDE, disk=Disk.DISKLESS), NOT, node="b", disk_failed=True),
        K.NOTHING,
    ),
    "its disk is taken out": (
        decide(ALONE, replace(ASIDE, disk=Disk.DISKLESS), NOT, node="b", disk_failed=True),
        K.REATTACH,
    ),
    "disk error at the primary": (decide(BOTH, DISKLESS, disk_failed=True), K.LEAVE_IN_SYNC),
    "its disk replaced": (decide(LEFT, DISKLESS, disk_failed=True), K.REATTACH),
    "its disk not replaced": (
        decide(LEFT, DISKLESS, disk_failed=True, image_ready=False),
        K.NOTHING,
    ),
    "primary's disk copied again": (decide(LEFT, WELL), K.ADD_IN_SYNC),
    "restart after a disk error": (decide(ALONE, None, NOT, node="b", disk_failed=True), K.UP),
    "verify found differences": (decide(BOTH, WELL, different_bytes=4096), K.DROP_FROM_SYNC),
    "verify found, taken out": (decide(ALONE, WELL, different_bytes=4096), K.COPY_MARKED),
    "spec changed": (decide(BOTH, WELL, applied=Applied.SETTINGS), K.ADJUST),
    "address changed": (decide(BOTH, WELL, applied=Applied.ADDRESS), K.DROP_FROM_SYNC),
    "address changed, taken out": (decide(ALONE, WELL, applied=Applied.ADDRESS), K.ADJUST),
    "address changed, counted on": (
        decide(BOTH, ASIDE, NOT, node="b", applied=Applied.ADDRESS),
        K.NOTHING,
    ),
    "address changed, primary lives on the link": (
        decide(LEFT, DISKLESS, applied=Applied.ADDRESS, disk_failed=True, image_ready=False),
        K.NOTHING,
    ),
    "pod gone": (decide(BOTH, WELL, NOT), K.DEMOTE),
    "pod coming": (decide(BOTH, WELL, LocalUse(staging=True)), K.NOTHING),
    "standing alone": (decide(BOTH, STANDALONE, NOT), K.CONNECT),
    "standing alone, new": (decide(ALONE, STANDALONE, NOT, node="b", blank=True), K.CONNECT),
    "new, not decided": (decide(ALONE, NEW, NOT, blank=True), K.NOTHING),
    "new, blank": (
        decide(ALONE, NEW, NOT, blank=True, spec=replace(SPEC, first_sync=FirstSync.SKIP)),
        K.SKIP_FIRST_SYNC,
    ),
    "new, said blank but is not": (
        decide(ALONE, NEW, NOT, spec=replace(SPEC, first_sync=FirstSync.SKIP)),
        K.NOTHING,
    ),
    "new, full": (
        decide(ALONE, NEW, NOT, spec=replace(SPEC, first_sync=FirstSync.FULL)),
        K.START_FULL_SYNC,
    ),
    "new, at the other": (
        decide(ALONE, NEW, NOT, node="b", spec=replace(SPEC, first_sync=FirstSync.FULL)),
        K.NOTHING,
    ),
    "diverged": (decide(BOTH, STANDALONE, NOT, diverged=True), K.HOLD),
    "diverged, cloned": (decide(BOTH, STANDALONE, NOT, diverged=True, snapshotted=True), K.HOLD),
    "diverged, the other chosen": (
        decide(MOVED, STANDALONE, NOT, diverged=True, snapshotted=True, discard_approved=True),
        K.CONNECT_AS_TARGET,
    ),
    "diverged, this one chosen": (
        decide(
            MOVED, STANDALONE, NOT, node="b", diverged=True, snapshotted=True, discard_approved=True
        ),
        K.CONNECT,
    ),
    "deleted while used": (decide(BOTH, WELL, deleting=True), K.NOTHING),
    "deleted, primary": (decide(BOTH, WELL, NOT, deleting=True), K.DEMOTE),
    "deleted, frozen": (decide(ALONE, FROZEN, NOT, deleting=True), K.GIVE_UP_FROZEN_IO),
    "deleted in a resync": (decide(ALONE, TARGET, NOT, node="b", deleting=True), K.DOWN),
    "removed while counted on": (decide(BOTH, ASIDE, NOT, node="b", spec=None), K.NOTHING),
    "deleted, down": (decide(None, None, NOT, deleting=True), K.NOTHING),
}


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_its_step(event: str) -> None:
    step, kind = EVENTS[event]
    assert step.kind is kind, f"{step.reason}: {step.message}"


@pytest.mark.parametrize("event", EVENTS)
def test_a_step_that_changes_the_record_carries_the_next_one(event: str) -> None:
    step, kind = EVENTS[event]
    writes = {K.ADD_IN_SYNC, K.LEAVE_IN_SYNC, K.DROP_FROM_SYNC, K.FENCE_THEN_RESUME}
    assert (step.write is not None) == (kind in writes)
    if step.write is not None:
        assert step.write.serial == 6


def test_what_is_discarded_was_cloned_and_given_up_by_a_person() -> None:
    held, _ = EVENTS["diverged"]
    assert held.snapshot
    chosen, _ = EVENTS["diverged, the other chosen"]
    assert chosen.discard
    assert not any(step.discard for step, _ in EVENTS.values() if step is not chosen)


def test_a_detached_image_comes_back_only_where_the_record_knows_what_it_misses() -> None:
    behind = decide(MOVED, None, NOT, detached=True)
    assert (behind.kind, behind.diskless, behind.fresh) == (K.UP, False, False)
    counted_on = decide(BOTH, None, NOT, detached=True)
    assert (counted_on.kind, counted_on.diskless) == (K.UP, True)
    only_copy = decide(ALONE, None, NOT, detached=True)
    assert (only_copy.kind, only_copy.diskless) == (K.UP, False)
    assert decide(None, None, NOT, detached=True).kind is K.NOTHING


@pytest.mark.parametrize(
    ("node", "record", "disk", "outcome", "exit_code"),
    [
        ("a", None, Disk.UP_TO_DATE, None, FenceExit.UNSURE),
        ("a", MOVED, Disk.UP_TO_DATE, None, FenceExit.PEER_IS_PRIMARY),
        ("a", BOTH, Disk.FAILED, None, FenceExit.UNSURE),
        ("a", LEFT, Disk.UP_TO_DATE, None, FenceExit.UNSURE),
        ("a", BOTH, Disk.UP_TO_DATE, None, None),
        ("a", ALONE, Disk.UP_TO_DATE, None, None),
        ("a", BOTH, Disk.UP_TO_DATE, CasOutcome.WON, FenceExit.PEER_OUTDATED),
        ("a", BOTH, Disk.UP_TO_DATE, CasOutcome.UNANSWERED, FenceExit.UNSURE),
        ("a", BOTH, Disk.UP_TO_DATE, CasOutcome.CONFLICT, None),
    ],
)
def test_the_kernel_goes_on_only_after_a_write_that_was_won(
    node: str,
    record: ReplicationRecord | None,
    disk: Disk,
    outcome: CasOutcome | None,
    exit_code: FenceExit | None,
) -> None:
    answer = decide_fence_answer(node, record, disk, outcome)
    assert answer.exit is exit_code
    assert answer.message
    assert (answer.write is not None) == (exit_code is None and outcome is None)
    assert answer.read_again == (outcome is CasOutcome.CONFLICT)


def test_the_helper_never_answers_five() -> None:
    assert 5 not in set(FenceExit)


@pytest.mark.parametrize(
    ("record", "drbd", "outcome", "allowed", "code"),
    [
        (None, OFF, None, False, ErrorCode.UNAVAILABLE),
        (MOVED, OFF, None, False, ErrorCode.FAILED_PRECONDITION),
        (BOTH, None, None, False, ErrorCode.FAILED_PRECONDITION),
        (BOTH, ASIDE, None, False, ErrorCode.FAILED_PRECONDITION),
        (BOTH, replace(OFF, disk=Disk.INCONSISTENT), None, False, ErrorCode.FAILED_PRECONDITION),
        (LEFT, OFF, None, False, ErrorCode.FAILED_PRECONDITION),
        (BOTH, OFF, CasOutcome.UNANSWERED, False, ErrorCode.UNAVAILABLE),
        (BOTH, OFF, CasOutcome.CONFLICT, False, ErrorCode.BUSY),
        (BOTH, OFF, CasOutcome.WON, True, ErrorCode.FAILED_PRECONDITION),
    ],
)
def test_a_replica_is_promoted_only_as_the_record_says_and_after_writing_it(
    record: ReplicationRecord | None,
    drbd: DrbdState | None,
    outcome: CasOutcome | None,
    allowed: bool,
    code: ErrorCode,
) -> None:
    promotion = decide_promotion("a", record, drbd, outcome)
    assert promotion.allowed is allowed
    assert promotion.code is code
    assert promotion.message


def test_before_a_promotion_the_record_is_written() -> None:
    promotion = decide_promotion("a", BOTH, OFF)
    assert not promotion.allowed
    assert promotion.write == replace(BOTH, serial=6)


OUTDATED = replace(OFF, disk=Disk.OUTDATED)
LINKED = replace(WELL, role=DrbdRole.SECONDARY)


@pytest.mark.parametrize(
    ("record", "drbd", "forced", "allowed"),
    [
        (ALONE, OUTDATED, True, True),
        (ALONE, OUTDATED, False, False),
        (BOTH, OUTDATED, True, False),
        (ALONE, replace(OFF, disk=Disk.INCONSISTENT), True, False),
        (ALONE, replace(LINKED, disk=Disk.OUTDATED), True, False),
        (ALONE, replace(LINKED, disk=Disk.OUTDATED, peer_disk=Disk.DISKLESS), True, True),
        (replace(ALONE, primary="b"), OUTDATED, True, False),
    ],
)
def test_an_outdated_replica_is_promoted_only_by_force_alone_and_without_a_newer_one(
    record: ReplicationRecord, drbd: DrbdState, forced: bool, allowed: bool
) -> None:
    asked = decide_promotion("a", record, drbd, forced=forced)
    assert (asked.write is not None) is allowed
    assert not asked.allowed
    won = decide_promotion("a", record, drbd, CasOutcome.WON, forced=forced)
    assert (won.allowed, won.outdated) == (allowed, allowed)


def test_what_is_whole_is_never_declared_so() -> None:
    won = decide_promotion("a", ALONE, OFF, CasOutcome.WON, forced=True)
    assert won.allowed
    assert not won.outdated
