"""What a node's agent does while the volume's replicas change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.test_replication_decisions import (
    ALONE,
    ASIDE,
    BOTH,
    FROZEN,
    LOST,
    NOT,
    OFF,
    SOURCE,
    SPEC,
    STANDALONE,
    WELL,
    decide,
)
from twinvault_core.model import FirstSync, ReplicationRecord
from twinvault_core.replication_record import (
    Made,
    RecordRefusal,
    add_in_sync,
    change_members,
    fail_over,
    leave_in_sync,
)
from twinvault_core.replication_state import Disk, DrbdRole, Suspension
from twinvault_core.replication_view import Applied, StepKind

AB, AC = frozenset({"a", "b"}), frozenset({"a", "c"})
NOW_C = replace(SPEC, peer_node="c", port=7001)
LEAVING = replace(SPEC, peer_leaves=True)
OTHER: dict[str, Any] = {"other_peer": True, "applied": Applied.ADDRESS, "spec": NOW_C}
ONLY_A = replace(ALONE, nodes=frozenset({"a"}))
K = StepKind


# -- the record ------------------------------------------------------------------------------------


def rule_of(made: Made) -> str:
    return made.rule if isinstance(made, RecordRefusal) else ""


def test_who_is_counted_on_or_writes_does_not_leave() -> None:
    both, alone = replace(BOTH, nodes=AB), replace(ALONE, nodes=AB)
    assert rule_of(change_members(both, AC)) == "OnlyMembers"
    assert rule_of(change_members(alone, {"b", "c"})) == "OnlyMembers"
    made = change_members(alone, AC)
    assert isinstance(made, ReplicationRecord)
    assert (made.nodes, made.in_sync, made.serial) == (AC, frozenset({"a"}), alone.serial + 1)


def test_who_left_is_never_counted_on_again_whatever_arrives_late() -> None:
    record = replace(ALONE, nodes=AC)
    assert rule_of(add_in_sync(record, "a", "b")) == "OnlyMembers"
    assert rule_of(leave_in_sync(record, "a", "b")) == "OnlyMembers"
    assert rule_of(fail_over(replace(record, in_sync=AB), "b")) == "OnlyMembers"


def test_members_do_not_change_while_the_primary_itself_misses_writes() -> None:
    behind = ReplicationRecord(1, "a", frozenset({"b"}), 5, AB)
    assert rule_of(change_members(behind, {"a", "b", "c"})) == "MembersAlone"


# -- the other one leaves --------------------------------------------------------------------------


def test_a_leaving_peer_is_taken_out_of_the_record_while_the_link_is_up() -> None:
    step = decide(replace(BOTH, nodes=AB), WELL, spec=LEAVING)
    assert (step.kind, step.reason) == (K.DROP_FROM_SYNC, "PeerLeaves")
    assert step.write is not None
    assert step.write.in_sync == {"a"}


def test_a_leaving_peer_is_not_added_again() -> None:
    assert decide(replace(ALONE, nodes=AB), WELL, spec=LEAVING).kind is K.NOTHING
    assert decide(replace(ALONE, nodes=AB), WELL).kind is K.ADD_IN_SYNC, "it was taken back"


@pytest.mark.parametrize("drbd", [replace(WELL, disk=Disk.DISKLESS), SOURCE])
def test_a_leaving_peer_stays_counted_on_while_it_is_needed(drbd: Any) -> None:
    made = decide(replace(BOTH, nodes=AB), drbd, spec=LEAVING)
    assert made.reason != "PeerLeaves"


# -- another one comes -----------------------------------------------------------------------------


def test_the_kernel_is_told_of_the_new_peer_and_its_old_one_counts_for_nothing() -> None:
    step = decide(replace(ALONE, nodes=AC), WELL, **OTHER)
    assert (step.kind, step.reason) == (K.ADJUST, "PeerReplaced")


def test_a_primary_that_lives_on_its_former_peer_is_not_cut_off() -> None:
    diskless = replace(WELL, disk=Disk.DISKLESS)
    step = decide(replace(ALONE, nodes=AC), diskless, **OTHER)
    assert (step.kind, step.write) == (K.NOTHING, None), "and the new one is not said to serve"


def test_frozen_io_goes_on_alone_before_the_new_peer_is_looked_for() -> None:
    step = decide(replace(ALONE, nodes=AC), FROZEN, **OTHER)
    assert step.kind is K.FENCE_THEN_RESUME


def test_a_peer_that_the_record_does_not_know_is_not_looked_for() -> None:
    step = decide(replace(ALONE, nodes=AC), STANDALONE, NOT)
    assert (step.kind, step.reason) == (K.NOTHING, "PeerReplaced")


def test_who_lost_its_place_lets_go_and_is_neither_attached_nor_connected() -> None:
    record = replace(ALONE, nodes=AC)
    used = replace(ASIDE, role=DrbdRole.PRIMARY, suspended=frozenset({Suspension.FENCING}))
    assert decide(record, used, node="b").kind is K.GIVE_UP_FROZEN_IO
    assert decide(record, STANDALONE, NOT, node="b").kind is K.NOTHING
    assert decide(record, None, NOT, node="b").kind is K.NOTHING
    assert decide(record, OFF, NOT, node="b", deleting=True).kind is K.DOWN


def test_an_earlier_replicas_image_is_never_taken_for_this_one() -> None:
    record = replace(ALONE, nodes=AB)
    made = decide(record, None, NOT, node="b", stale=True)
    assert (made.kind, made.fresh) == (K.UP, True)
    assert decide(record, OFF, NOT, node="b", stale=True).kind is K.DOWN
    assert decide(None, None, NOT, node="b", stale=True).kind is K.NOTHING
    counted = decide(replace(BOTH, nodes=AB), None, NOT, node="b", stale=True)
    assert (counted.kind, counted.fresh) == (K.UP, False)


# -- one replica -----------------------------------------------------------------------------------


def test_a_volume_that_lives_on_alone_leaves_its_peer_below_the_mount() -> None:
    assert decide(ONLY_A, WELL, spec=None).kind is K.DISCONNECT
    alone = replace(STANDALONE, role=DrbdRole.PRIMARY)
    done = decide(ONLY_A, alone, spec=None)
    assert (done.kind, done.well) == (K.NOTHING, True)
    assert decide(ONLY_A, FROZEN, spec=None).kind is K.FENCE_THEN_RESUME
    assert decide(ONLY_A, LOST, spec=None).kind is K.DISCONNECT


def test_its_metadata_goes_when_nobody_uses_it_also_after_a_restart() -> None:
    assert decide(ONLY_A, STANDALONE, NOT, spec=None).kind is K.DOWN
    assert decide(ONLY_A, None, NOT, spec=None).kind is K.DOWN
    assert decide(None, None, NOT, spec=None).kind is K.NOTHING
    assert decide(replace(BOTH, nodes=AB), None, NOT, spec=None).kind is K.NOTHING


def test_a_link_is_not_cut_while_the_other_kernel_is_still_primary() -> None:
    """Left gracefully it would go on acknowledging, and nobody would hold those writes."""
    assert decide(ONLY_A, ASIDE, NOT, spec=None).kind is K.NOTHING
    assert decide(replace(ALONE, nodes=AC), ASIDE, NOT, **OTHER).kind is K.NOTHING


def test_a_leaving_replica_that_the_primary_is_copied_from_stays_until_that_is_done() -> None:
    record = replace(ALONE, nodes=frozenset({"a"}))
    source = replace(SOURCE, role=DrbdRole.SECONDARY)
    assert decide(record, source, NOT, node="b", deleting=True).kind is K.NOTHING


def test_a_volume_that_lived_alone_is_whole_when_it_gets_a_second_replica() -> None:
    keep = replace(NOW_C, first_sync=FirstSync.KEEP)
    record = replace(ALONE, nodes=AC)
    assert decide(record, None, NOT, spec=keep).whole
    assert not decide(record, None, NOT, spec=NOW_C).whole
    assert not decide(replace(BOTH, nodes=AB), None, NOT, spec=keep).whole
    assert not decide(None, None, NOT, spec=keep).whole
