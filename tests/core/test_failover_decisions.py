"""The operator's decisions: when a primary moves, what follows it, and what never happens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from twinvault_core import switchover
from twinvault_core.failover import (
    EMPTY_SECONDS,
    RESYNCING_CLOSED_SECONDS,
    is_left_to_move,
    plan_failover,
    plan_node_failover,
)
from twinvault_core.failover_view import (
    LONGEST_RETRY_SECONDS,
    STUCK_AFTER_ATTEMPTS,
    Attachment,
    DeletePod,
    DeleteVolumeAttachment,
    LeaseWatch,
    MarkLost,
    NodeEvidence,
    NodeView,
    PairPolicy,
    PodUse,
    Policy,
    Swap,
    Taint,
    TaintResyncing,
    Untaint,
    VolumeEvidence,
    Wait,
    choose_retry,
    watch_lease,
)
from twinvault_core.failover_words import describe_eviction, describe_stuck
from twinvault_core.model import (
    ForcePrimary,
    Meta,
    ReplicationRecord,
    ReplicationStatus,
    Volume,
    VolumeReplica,
)
from twinvault_core.replication_state import Connection, Disk, DrbdRole

NOW = "2026-01-01T00:00:00Z"
BOTH = ReplicationRecord(1, "east-1", frozenset({"east-1", "west-1"}), 5)
ALONE = ReplicationRecord(1, "east-1", frozenset({"east-1"}), 5)
MOVED = ReplicationRecord(2, "west-1", frozenset({"west-1"}), 6)

UP = ReplicationStatus(
    Connection.CONNECTED, role=DrbdRole.PRIMARY, disk=Disk.UP_TO_DATE, peer_disk=Disk.UP_TO_DATE
)
ASIDE = replace(UP, role=DrbdRole.SECONDARY)
DOWN = replace(ASIDE, connection=Connection.CONNECTING, peer_disk=Disk.UNKNOWN)

EAST = NodeEvidence("east-1", "east", expired=True, silent_seconds=6)
WEST = NodeEvidence("west-1", "west", well_seconds=600)
ALIVE = NodeEvidence("east-1", "east", well_seconds=600)
LOST = {"east-1": EAST, "west-1": WEST}
WELL = {"east-1": ALIVE, "west-1": WEST}


def replica(
    node: str, status: ReplicationStatus | None, *, in_use: bool = False, of: str = "v"
) -> VolumeReplica:
    return VolumeReplica(
        Meta(f"{of}.{node}"),
        of,
        f"uid-{of}",
        node,
        node.partition("-")[0],
        "fast",
        4096,
        in_use=in_use,
        replication_status=status,
    )


def volume(
    record: ReplicationRecord | None = BOTH,
    east: ReplicationStatus | None = UP,
    west: ReplicationStatus | None = DOWN,
    *,
    name: str = "v",
    published: str = "",
    in_use: bool = False,
    status: dict[str, Any] | None = None,
    force: ForcePrimary | None = None,
    **more: Any,
) -> VolumeEvidence:
    made = Volume(
        Meta(name),
        4096,
        "fast",
        published_to=(published,) if published else (),
        record=record,
        status=status or {},
        force_primary=force,
    )
    replicas = (replica("east-1", east, in_use=in_use, of=name), replica("west-1", west, of=name))
    return VolumeEvidence(made, replicas, **more)


def waits_for(step: object) -> str:
    assert isinstance(step, Wait), step
    assert step.message
    assert step.after_seconds > 0
    return step.reason


def swaps_to(step: object) -> tuple[str, str]:
    assert isinstance(step, Swap), step
    return step.after.primary, step.reason


def test_a_silent_node_whose_link_is_down_loses_its_volumes_to_the_other() -> None:
    step = plan_failover(volume(), LOST)
    assert swaps_to(step) == ("west-1", "NodeLost")
    assert isinstance(step, Swap)
    assert step.after == ReplicationRecord(2, "west-1", frozenset({"west-1"}), 6)
    assert "every acknowledged write" in step.message


@pytest.mark.parametrize(
    ("evidence", "nodes", "reason"),
    [
        (volume(west=ASIDE), LOST, "LinkUp"),
        (volume(west=None), LOST, "LinkUp"),
        (volume(ALONE), LOST, "R2"),
        (volume(west=replace(DOWN, disk=Disk.FAILED)), LOST, "TargetDisk"),
        (volume(), {"east-1": EAST, "west-1": replace(WEST, expired=True)}, "BothLost"),
        (
            volume(),
            {"east-1": EAST, "west-1": replace(WEST, marked=True, well_seconds=5)},
            "TargetNotStable",
        ),
        (volume(policy=PairPolicy(Policy.MANUAL)), LOST, "ApprovalNeeded"),
        (volume(policy=PairPolicy(Policy.MANUAL, missing=True)), LOST, "PairUnknown"),
        (volume(policy=PairPolicy(Policy.MANUAL, approved="east")), LOST, "ApprovalNeeded"),
        (volume(), {"east-1": EAST}, "NoReplica"),
    ],
)
def test_without_the_whole_evidence_it_waits_and_says_for_what(
    evidence: VolumeEvidence, nodes: dict[str, NodeEvidence], reason: str
) -> None:
    assert waits_for(plan_failover(evidence, nodes)) == reason


@pytest.mark.parametrize(
    "evidence",
    [volume(None), volume(MOVED), volume(west=replace(DOWN, disk=Disk.FAILED))],
)
def test_nothing_moves_while_the_primary_is_heard(evidence: VolumeEvidence) -> None:
    assert plan_failover(evidence, WELL) is None


def test_a_person_approves_under_the_manual_policy_once() -> None:
    approved, used = switchover.choose_approval("west", "")
    assert (approved, used) == ("west", "")
    evidence = volume(policy=PairPolicy(Policy.MANUAL, approved=approved))
    assert swaps_to(plan_failover(evidence, LOST)) == ("west-1", "NodeLost")
    assert switchover.choose_approval("west", "west") == ("", "west")
    assert switchover.choose_approval("", "west") == ("", "")


MANUAL = PairPolicy(Policy.MANUAL)


@pytest.mark.parametrize(
    ("evidence", "nodes", "left"),
    [
        (volume(policy=MANUAL), LOST, True),
        (volume(policy=MANUAL, west=replace(DOWN, disk=Disk.FAILED)), LOST, True),
        (volume(policy=MANUAL), {"east-1": EAST, "west-1": replace(WEST, expired=True)}, True),
        (volume(ALONE, policy=MANUAL), LOST, False),
        (volume(policy=MANUAL, west=ASIDE), LOST, False),
        (volume(MOVED, policy=MANUAL), LOST, False),
        (volume(policy=MANUAL), WELL, False),
        (volume(None, policy=MANUAL), LOST, False),
    ],
)
def test_an_approval_is_needed_as_long_as_it_can_still_move_something(
    evidence: VolumeEvidence, nodes: dict[str, NodeEvidence], left: bool
) -> None:
    assert is_left_to_move(evidence, nodes, "west") is left
    assert not is_left_to_move(evidence, nodes, "east")


def test_a_primary_that_lost_disk_and_link_hands_over_though_it_is_heard() -> None:
    broken = replace(DOWN, role=DrbdRole.PRIMARY, disk=Disk.DISKLESS, frozen=True)
    assert swaps_to(plan_failover(volume(east=broken), WELL)) == ("west-1", "DiskLost")


def test_a_returned_node_is_a_target_again_when_it_has_been_well_long_enough() -> None:
    nodes = {"east-1": EAST, "west-1": replace(WEST, marked=True, well_seconds=61)}
    assert swaps_to(plan_failover(volume(), nodes)) == ("west-1", "NodeLost")


# -- what hangs on the record ----------------------------------------------------------------------

POD = PodUse("his", "db-0", "uid-1", "east-1", ("v",))
VA = Attachment("csi-1", "east-1", "v", "uid-va")


def plan(*volumes: VolumeEvidence, nodes: dict[str, NodeEvidence] = LOST, **more: Any) -> list[Any]:
    pods, attached = more.pop("pods", (POD,)), more.pop("attachments", (VA,))
    view = NodeView("east-1", nodes, volumes, pods, attached, users_known=more.pop("known", True))
    return list(plan_node_failover(view))


def test_before_the_record_has_moved_no_pod_is_touched() -> None:
    steps = plan(volume())
    assert [type(s) for s in steps] == [Swap, MarkLost]


def test_once_it_has_moved_taint_pod_and_attachment_follow() -> None:
    steps = plan(volume(MOVED))
    assert [type(s) for s in steps] == [MarkLost, Taint, DeletePod, DeleteVolumeAttachment]
    _, taint, pod, attachment = steps
    assert not taint.evicting
    assert (pod.force, pod.epochs, pod.primaries) == (True, {"v": 2}, {"v": "west-1"})
    assert (attachment.epoch, attachment.primary) == (2, "west-1")
    told = describe_eviction(pod)
    assert all(word in told for word in ("east-1", "Volume v", "west-1"))


def test_a_lost_node_that_served_nothing_is_left_alone() -> None:
    assert plan(volume(MOVED), pods=(), attachments=()) == []


@pytest.mark.parametrize(
    "pod",
    [
        replace(POD, volumes=("v", "local")),
        replace(POD, volumes=("v", "w")),
        replace(POD, foreign=("nfs",)),
    ],
)
def test_a_pod_with_a_volume_that_is_not_fenced_stays_and_a_person_is_told(pod: PodUse) -> None:
    steps = plan(volume(MOVED), volume(ALONE, name="w"), pods=(pod,))
    assert not [s for s in steps if isinstance(s, DeletePod | DeleteVolumeAttachment | Taint)]
    assert "NotAllFenced" in [s.reason for s in steps if isinstance(s, Wait)]


def test_a_volume_of_ours_without_a_second_replica_holds_nothing_up() -> None:
    """Kubernetes gives no volume of the node away before all are taken off it by force."""
    steps = plan(volume(MOVED), attachments=(VA, Attachment("x", "east-1", "local")))
    assert [type(s) for s in steps] == [MarkLost, Taint, DeletePod, DeleteVolumeAttachment]


def test_nothing_is_taken_by_force_from_another_drivers_volume() -> None:
    steps = plan(volume(MOVED), attachments=(VA, Attachment("y", "east-1")))
    assert [type(s) for s in steps] == [MarkLost, DeletePod, DeleteVolumeAttachment]


def emptied(silent_seconds: float, **more: Any) -> list[Any]:
    """The steps for a lost node from which everything was removed."""
    node = replace(EAST, marked=True, silent_seconds=silent_seconds)
    more = {"pods": (), "attachments": ()} | more
    return plan(volume(MOVED), nodes={**LOST, "east-1": node}, **more)


def test_a_lost_node_is_put_out_of_service_when_its_pods_live_elsewhere_for_a_while() -> None:
    """Kubernetes ends by name what it believes to be there; the name is used elsewhere by now."""
    assert waits_for(emptied(EMPTY_SECONDS - 1)[0]) == "Emptying"
    assert [(type(s), s.evicting) for s in emptied(EMPTY_SECONDS)] == [(Taint, True)]
    assert emptied(EMPTY_SECONDS, known=False) == []
    steps = emptied(EMPTY_SECONDS, attachments=(Attachment("x", "east-1", "local"),))
    assert not [s for s in steps if isinstance(s, Taint)]


def test_on_a_living_node_only_pods_that_hold_the_volume_open_are_ended() -> None:
    assert plan(volume(MOVED), nodes=WELL) == []
    steps = plan(volume(MOVED, in_use=True), nodes=WELL)
    assert [type(s) for s in steps] == [DeletePod]
    assert not steps[0].force


LET_GO = replace(DOWN, role=DrbdRole.SECONDARY)
SYNCED = replace(MOVED, in_sync=frozenset({"east-1", "west-1"}))


def back(*evidence: VolumeEvidence, **node: Any) -> list[Any]:
    """The steps for a node that was lost, is heard again, and is as ``node`` says."""
    nodes = {**WELL, "east-1": replace(ALIVE, **node)}
    return plan(*evidence, nodes=nodes, pods=(), attachments=())


def test_a_node_comes_back_when_it_has_let_go_and_been_well() -> None:
    out: dict[str, Any] = {"marked": True, "taints": frozenset(["NoSchedule"])}
    assert waits_for(back(volume(MOVED), **out, well_seconds=600)[0]) == "StillHolds"
    let_go = volume(SYNCED, east=LET_GO)
    assert waits_for(back(let_go, **out, well_seconds=5)[0]) == "NotStable"
    assert [type(s) for s in back(let_go, **out, well_seconds=61)] == [Untaint]


def test_nothing_is_sent_to_a_returned_node_before_its_volumes_are_in_sync() -> None:
    """A pod that prefers it would be sent there, and its volume refused."""
    behind, whole = volume(MOVED, east=LET_GO), volume(SYNCED, east=LET_GO, name="w")
    for left in ({"marked": True}, {"taints": frozenset(["NoSchedule"])}):
        (step,) = back(behind, whole, **left)
        assert isinstance(step, TaintResyncing)
        assert step.strict
        assert "there yet: v;" in step.message
    closed: dict[str, Any] = {"resyncing": frozenset(["NoSchedule"])}
    assert waits_for(back(behind, whole, **closed)[0]) == "Resyncing"
    assert [type(s) for s in back(volume(SYNCED, east=LET_GO), whole, **closed)] == [Untaint]


def test_a_resync_of_days_does_not_keep_a_node_empty() -> None:
    behind, late = volume(MOVED, east=LET_GO), RESYNCING_CLOSED_SECONDS
    closed = {"resyncing": frozenset(["NoSchedule"]), "resyncing_seconds": late}
    (step,) = back(behind, **closed)
    assert isinstance(step, TaintResyncing)
    assert not step.strict
    soft = {"resyncing": frozenset(["PreferNoSchedule"]), "resyncing_seconds": late}
    assert waits_for(back(behind, **soft)[0]) == "Resyncing"
    assert [type(s) for s in back(volume(SYNCED, east=LET_GO), **soft)] == [Untaint]


@pytest.mark.parametrize("expired", [False, True])
def test_a_node_that_left_every_pair_keeps_no_taint(expired: bool) -> None:
    steps = back(resyncing=frozenset(["NoSchedule"]), expired=expired)
    assert [type(s) for s in steps] == [Untaint]
    moved = replace(MOVED, nodes=frozenset({"west-1", "east-2"}))
    elsewhere = volume(moved, east=LET_GO)
    assert [type(s) for s in back(elsewhere, resyncing=frozenset(["NoSchedule"]))] == [Untaint]


def test_a_node_that_was_never_lost_is_not_closed_for_a_resync() -> None:
    assert back(volume(MOVED, east=LET_GO)) == []


def test_a_step_that_fails_again_and_again_says_what_and_what_to_do() -> None:
    steps = plan(volume()) + plan(volume(MOVED))
    for step in steps:
        text = describe_stuck(replace(step, retry=choose_retry(20)), "the API server said no")
        assert "failed 20 times: the API server said no" in text
        assert "see " in text or "kubectl" in text
    assert "is done" in describe_stuck(steps[0], "")


def test_retries_slow_down_and_say_so_in_the_end() -> None:
    waits = [choose_retry(n) for n in range(STUCK_AFTER_ATTEMPTS + 1)]
    assert [w.after_seconds for w in waits[:4]] == [0.25, 0.5, 1.0, 2.0]
    assert waits[-1].after_seconds == LONGEST_RETRY_SECONDS
    assert [w.stuck for w in waits[-2:]] == [False, True]


# -- switchover ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evidence", "nodes", "reason"),
    [
        (volume(published="west-1", west=ASIDE), WELL, "StillUsed"),
        (volume(published="west-1", east=ASIDE, west=ASIDE, in_use=True), WELL, "StillUsed"),
        (volume(published="west-1", east=None, west=ASIDE), WELL, "StillUsed"),
        (volume(ALONE, ASIDE, ASIDE, published="west-1"), WELL, "R2"),
        (volume(published="west-1", east=ASIDE, west=ASIDE), LOST, "PrimarySilent"),
        (volume(published="south-1", east=ASIDE), WELL, "NoReplica"),
        (
            volume(published="west-1", east=ASIDE, west=replace(ASIDE, disk=Disk.INCONSISTENT)),
            WELL,
            "TargetDisk",
        ),
    ],
)
def test_a_switchover_waits_until_it_costs_nothing(
    evidence: VolumeEvidence, nodes: dict[str, NodeEvidence], reason: str
) -> None:
    assert waits_for(switchover.plan_switchover(evidence, nodes)) == reason


def test_a_drained_volume_follows_its_pod_and_stays_in_sync() -> None:
    step = switchover.plan_switchover(volume(published="west-1", east=ASIDE, west=ASIDE), WELL)
    assert isinstance(step, Swap)
    assert step.after == ReplicationRecord(2, "west-1", BOTH.in_sync, 6)


def test_a_volume_that_is_where_its_pod_is_does_not_move() -> None:
    assert switchover.plan_switchover(volume(published="east-1"), WELL) is None
    assert switchover.plan_switchover(volume(), WELL) is None


# -- a person's word -------------------------------------------------------------------------------


def test_the_preview_says_what_is_safe_and_since_when_the_rest_is_not() -> None:
    volumes = (
        volume(name="b"),
        volume(ALONE, name="a", out_of_sync_since=NOW),
        volume(MOVED, name="c"),
    )
    assert switchover.preview_failover("east-1", volumes) == {
        "from": "east-1",
        "to": "west",
        "safe": ["b"],
        "notInSync": [{"volume": "a", "since": NOW}],
    }


def forced(evidence: VolumeEvidence, nodes: dict[str, NodeEvidence], snapshot: str = "s") -> object:
    return switchover.plan_force(evidence, nodes, snapshot=snapshot, now=NOW)


WEST_TYPED = ForcePrimary("west-1", "v")


def test_a_forced_promotion_wants_the_name_a_dead_primary_and_a_snapshot_in_this_order() -> None:
    assert forced(volume(ALONE), LOST) is None
    untyped = volume(ALONE, force=ForcePrimary("west-1", "w"))
    assert waits_for(forced(untyped, LOST)) == "TypedOut"
    typed = volume(ALONE, force=WEST_TYPED)
    assert waits_for(forced(typed, WELL)) == "StillUsed"
    assert waits_for(forced(typed, LOST, "")) == "SnapshotFirst"
    assert swaps_to(forced(typed, LOST)) == ("west-1", "Forced")


def test_a_forced_promotion_is_remembered_for_ever_and_done_once() -> None:
    step = forced(volume(ALONE, force=WEST_TYPED), LOST)
    assert isinstance(step, Swap)
    assert step.also["forcePrimaryUsed"] == "west-1"
    entry = step.also["forcedPromotions"][-1]
    assert entry["inSync"] == ["east-1"]
    assert (entry["epoch"], entry["snapshot"], entry["time"]) == (2, "s", NOW)
    again = volume(MOVED, force=WEST_TYPED, status=dict(step.also))
    assert forced(again, LOST) is None


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (replace(DOWN, disk=Disk.INCONSISTENT), "Bring east-1 back"),
        (replace(ASIDE, disk=Disk.INCONSISTENT), "kept on west-1 as resync-4c94485e0c21ae6c41ce-0"),
        (replace(DOWN, disk=Disk.DISKLESS), "repair its pool"),
        (None, "agent of west-1"),
    ],
)
def test_nobody_is_forced_who_could_never_serve(
    report: ReplicationStatus | None, says: str
) -> None:
    """Its node would refuse to stage it for ever, and the record would have moved."""
    step = forced(volume(ALONE, west=report, force=WEST_TYPED), LOST)
    assert waits_for(step) == "TargetDisk"
    assert isinstance(step, Wait)
    assert step.stuck
    assert says in step.message


@pytest.mark.parametrize("disk", [Disk.OUTDATED, Disk.CONSISTENT, Disk.UP_TO_DATE])
def test_an_old_but_whole_replica_may_be_forced(disk: Disk) -> None:
    step = forced(volume(ALONE, west=replace(DOWN, disk=disk), force=WEST_TYPED), LOST)
    assert swaps_to(step) == ("west-1", "Forced")


# -- leases ----------------------------------------------------------------------------------------


def read(before: LeaseWatch | None, renewal: str, at: float) -> LeaseWatch:
    return watch_lease(before, renewal, read_began=at, read_ended=at + 0.1, duration_seconds=5)


def test_a_lease_runs_out_only_by_a_read_that_began_late_enough() -> None:
    first = read(None, "r1", 100.0)
    assert not first.expired(5)
    assert not read(first, "r1", 105.0).expired(5)
    assert read(first, "r1", 105.2).expired(5)
    assert not read(first, "r2", 200.0).expired(5)


def test_an_operator_that_slept_sees_nobody_lost_by_that_alone() -> None:
    first = read(None, "r1", 100.0)
    assert not first.expired(5)  # however late it is now: nothing was read since
    woken = read(first, "r9", 500.0)
    assert not woken.expired(5)
    assert woken.well_seconds(5) == 0.0


def test_a_gap_begins_the_time_of_being_well_anew() -> None:
    watch = read(None, "r1", 100.0)
    for second in range(101, 110):
        watch = read(watch, f"r{second}", float(second))
    assert watch.well_seconds(5) == pytest.approx(9.0)
    watch = read(watch, "r116", 116.0)
    assert watch.well_seconds(5) == 0.0
