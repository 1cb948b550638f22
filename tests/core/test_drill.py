"""Drills: when they are, and their whole course with every ending."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.core.drill_courses import DAILY, NOW, condition, last, make, reasons, run
from tests.core.drill_world import START
from twinvault_core.drill import plan_drill
from twinvault_core.drill_state import format_time
from twinvault_core.drill_view import EvictPod

# -- when ------------------------------------------------------------------------------------------


def test_a_scheduled_drill_is_planned_announced_run_and_planned_again() -> None:
    world = make(DAILY)
    world.turn()
    assert world.status["nextDrill"]["time"] == "2026-03-01T02:00:00.000Z"
    assert "announced" not in world.status["nextDrill"]
    assert condition(world)["reason"] == "NeverDrilled"
    world.pass_time(1800)
    world.turn()
    assert reasons(world) == ["DrillAnnounced"]
    assert not world.status.get("drill")
    run(world)
    assert last(world)["result"] == "Succeeded"
    assert last(world)["time"].startswith("2026-03-01T02:00:0")
    assert reasons(world) == ["DrillAnnounced", "DrillStarted", "DrillSucceeded"]
    world.turn()
    assert world.status["nextDrill"]["scheduled"] == "2026-03-02T02:00:00.000Z"
    assert condition(world)["status"] == "True"
    assert world.results == ["Succeeded"]


def test_what_would_refuse_it_is_told_with_the_announcement() -> None:
    world = make(DAILY)
    world.turn()
    world.volumes["his"].in_sync = {"east-1"}
    world.pass_time(1800)
    world.turn()
    assert reasons(world) == ["DrillAnnounced", "DrillEndangered"]
    assert "his: west-1 is not in sync" in world.tells[-1].message


@pytest.mark.parametrize(
    ("away_minutes", "result"),
    [(40, "Succeeded"), (74, "Succeeded"), (80, "Missed"), (3000, "Missed")],
)
def test_an_operator_that_was_away_makes_up_for_it_only_inside_the_window(
    away_minutes: int, result: str
) -> None:
    """Announced at 01:30 for 02:00, with a window of 15 minutes."""
    world = make(DAILY)
    world.turn()
    world.pass_time(1800)
    world.turn()
    world.now = START + timedelta(minutes=away_minutes)
    run(world, 3600)
    assert last(world)["result"] == result
    world.turn()
    world.pass_time(1)
    world.turn()
    assert len(world.results) == 1


def test_an_announcement_that_came_late_keeps_the_promised_notice() -> None:
    world = make(DAILY)
    world.turn()
    world.pass_time(2400)  # 01:40 instead of 01:30
    world.turn()
    assert world.status["nextDrill"]["time"] == "2026-03-01T02:09:00.000Z"
    world.pass_time(28 * 60)
    world.turn()
    assert not world.status.get("drill")
    world.pass_time(61)
    world.turn()
    assert world.status["drill"]["phase"] == "Leaving"


def test_a_drill_that_could_not_be_announced_in_time_is_missed() -> None:
    world = make(DAILY)
    world.turn()
    world.pass_time(59 * 60)
    world.turn()
    assert last(world)["result"] == "Missed"
    assert not world.closed


def test_run_at_runs_once_however_often_the_manifest_is_applied() -> None:
    world = make(NOW)
    run(world)
    assert last(world)["result"] == "Succeeded"
    for _ in range(3):
        world.spec["drill"] = dict(NOW)
        world.turn()
        world.pass_time(5)
    assert world.results == ["Succeeded"]
    world.spec["drill"] = {**NOW, "runAt": format_time(world.now)}
    world.turn()
    assert world.status["drill"]["trigger"] == "RunAt"


def test_a_run_at_of_any_precision_is_planned_once() -> None:
    world = make({**NOW, "runAt": "2026-03-01T03:00:00.123456789+01:00"})
    for _ in range(3):
        world.turn()
    assert world.status["nextDrill"]["scheduled"] == "2026-03-01T02:00:00.123Z"
    assert len(world.tells) == 0


def test_a_run_at_that_was_long_over_when_it_was_first_seen_starts_nothing() -> None:
    world = make({**NOW, "runAt": format_time(START - timedelta(minutes=16))})
    world.turn()
    assert not world.status.get("drill")
    assert not world.status.get("nextDrill")
    assert "a time to come" in condition(world)["message"]


@pytest.mark.parametrize(
    ("drill", "reason", "says"),
    [
        ({"schedule": "0 25 * * *", "volumes": ["his"]}, "InvalidSchedule", "hour: 25"),
        ({"schedule": "0 2 * * *"}, "NothingChosen", "names no volume"),
        ({"schedule": "0 2 * * *", "volumes": []}, "NothingChosen", "names no volume"),
        ({"schedule": "0 0 30 2 *", "volumes": ["his"]}, "InvalidSchedule", "never comes"),
    ],
)
def test_a_spec_that_cannot_work_is_told_in_the_condition(
    drill: dict[str, Any], reason: str, says: str
) -> None:
    world = make(drill)
    world.turn()
    assert condition(world)["status"] == "False"
    assert condition(world)["reason"] == reason
    assert says in condition(world)["message"]
    world.spec["drill"] = DAILY
    world.turn()
    assert condition(world)["reason"] == "NeverDrilled"


def test_a_pair_that_asks_for_no_drill_is_told_nothing() -> None:
    world = make(DAILY)
    world.spec.pop("drill")
    world.turn()
    assert world.status == {}


def test_another_time_cancels_what_was_announced() -> None:
    world = make(DAILY)
    world.turn()
    world.pass_time(1800)
    world.turn()
    world.spec["drill"] = {**DAILY, "suspend": True}
    world.turn()
    assert reasons(world)[-1] == "DrillCancelled"
    assert "nextDrill" not in world.status


def test_a_status_that_somebody_broke_is_forgotten_and_moves_nothing() -> None:
    world = make(DAILY)
    world.status = {"drill": {"phase": "Dancing", "tainted": "east-1"}}
    world.closed = {"east-1": "metro"}
    world.turn()
    assert condition(world)["reason"] == "Unreadable"
    assert "drill" not in world.status
    assert not world.closed
    assert not [e for e in world.effects if isinstance(e, EvictPod)]


# -- the course ------------------------------------------------------------------------------------


def test_the_time_from_eviction_to_service_is_recorded_for_each_volume() -> None:
    world = make({**NOW, "volumes": ["emr", "his"]})
    world.turn()
    world.end_pods()
    world.start_pods()
    world.schedule()
    world.pass_time(3)
    world.turn()
    assert not world.closed  # both new pods are bound elsewhere
    world.attach()
    world.apps[1].pod = replace(world.apps[1].pod or world._new_pod(world.apps[1]), ready=False)
    world.turn()
    world.pass_time(2)
    world.attach()
    world.turn()
    assert world.status["drill"]["phase"] == "Away"
    assert condition(world)["reason"] == "Running"
    run(world)
    found = {v["volume"]: v["recoverySeconds"] for v in last(world)["volumes"]}
    assert found == {"his": 3.0, "emr": 5.0}
    assert last(world)["recoverySeconds"] == 5.0
    assert "5.0 s (emr)" in last(world)["message"]
    assert world.status["lastSuccessfulDrill"] == last(world)["ended"]
    assert {v.primary for v in world.volumes.values()} == {"east-1"}


def test_volumes_of_two_homes_are_moved_one_home_after_the_other() -> None:
    world = make({**NOW, "volumes": ["emr", "his"]}, his="east-1", emr="west-1")
    closed: list[frozenset[str]] = []
    for _ in range(200):
        world.turn()
        world.let_it_run()
        closed.append(frozenset(world.closed))
        world.pass_time(1)
    assert last(world)["result"] == "Succeeded"
    assert all(len(nodes) <= 1 for nodes in closed)
    assert [a.pod.node for a in world.apps if a.pod] == ["east-1", "west-1"]


def test_a_second_home_that_is_not_in_sync_any_more_is_not_begun() -> None:
    world = make({**NOW, "volumes": ["emr", "his"]}, his="east-1", emr="west-1")
    world.turn()
    world.volumes["emr"].in_sync = {"west-1"}
    run(world)
    assert last(world)["result"] == "Aborted"
    assert last(world)["reason"] == "NotInSync"
    moved = {v["volume"]: v.get("recoverySeconds") for v in last(world)["volumes"]}
    assert moved["his"] is not None
    assert moved["emr"] is None


def test_a_lost_node_ends_it_at_once_and_leaves_everything_to_the_failover() -> None:
    world = make(NOW)
    world.turn()
    assert world.closed == {"east-1": "metro"}
    world.lose("west-1")
    world.turn()
    assert last(world)["result"] == "Aborted"
    assert last(world)["reason"] == "NodeLost"
    assert not world.closed
    assert "drill" not in world.status


def test_a_pod_that_does_not_start_at_the_other_site_is_brought_home() -> None:
    world = make({**NOW, "deadlineSeconds": 60})
    world.apps[0].stuck = "west-1"
    run(world)
    assert last(world)["result"] == "Aborted"
    assert last(world)["reason"] == "TooLate"
    assert "does not become Ready on west-1" in last(world)["message"]
    assert "Every volume is at home" in last(world)["message"]
    assert not world.closed
    pod = world.apps[0].pod
    assert pod is not None
    assert (pod.node, pod.ready) == ("east-1", True)


def test_a_disruption_budget_that_never_allows_it_aborts_without_a_restart() -> None:
    world = make({**NOW, "deadlineSeconds": 60})
    world.budget_says_no = True
    before = world.apps[0].pod
    run(world)
    assert last(world)["result"] == "Aborted"
    assert "disruption budget" in last(world)["message"]
    assert world.apps[0].pod == before
    assert not world.closed


def test_it_is_stopped_by_suspend_and_everything_comes_home() -> None:
    world = make({**NOW, "holdSeconds": 5000})
    for _ in range(20):
        world.turn()
        world.let_it_run()
        world.pass_time(1)
    assert world.status["drill"]["phase"] == "Away"
    world.spec["drill"]["suspend"] = True
    run(world)
    assert last(world)["reason"] == "Stopped"
    assert world.volumes["his"].primary == "east-1"


def test_a_pod_that_comes_back_to_the_closed_node_is_not_evicted_for_ever() -> None:
    world = make({**NOW, "deadlineSeconds": 600})
    for _ in range(40):
        world.turn()
        world.end_pods()
        world.start_pods()
        for app in world.apps:
            if app.pod is not None and not app.pod.node:
                app.pod = replace(app.pod, node="east-1")  # somebody set spec.nodeName
        world.attach()
        world.pass_time(3)
        if world.results:
            break
    assert last(world)["reason"] == "CameBack"
    assert len([e for e in world.effects if isinstance(e, EvictPod)]) <= 4


def test_who_takes_over_in_the_middle_counts_from_what_the_api_server_says() -> None:
    world = make(NOW)
    world.turn()
    world.forget()
    world.pass_time(4)
    world.let_it_run()
    world.turn()
    run(world)
    assert last(world)["recoverySeconds"] == 4.0


def test_a_node_that_no_drill_wants_closed_is_opened() -> None:
    world = make(DAILY)
    world.closed = {"west-1": "metro"}
    world.turn()
    assert not world.closed


def test_steps_that_are_asked_for_twice_are_the_same() -> None:
    world = make(NOW)
    view = world.view(world.users())
    assert plan_drill(view) == plan_drill(view)
