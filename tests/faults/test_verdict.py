"""A run passes only when the world is whole again and what happened may happen."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import pytest

from e2e.faults.acknowledged import Pause
from e2e.faults.programs_facts import BLOCK_COUNT
from e2e.faults.result import RunResult, parse_results, render_summary
from e2e.faults.scene import plan_objects
from e2e.faults.table import GOES_ON_HERE, GOES_ON_THERE, WAITS
from e2e.faults.verdict import (
    choose_percentile,
    choose_recovery,
    explain_silence,
    find_silent,
    find_unsettled,
    judge_course,
    tell_conditions,
)


def volume(phase: str = "Ready", degraded: str = "False", in_sync: int = 2) -> dict[str, Any]:
    condition = {"type": "Degraded", "status": degraded, "reason": "LinkDown", "message": "cut"}
    record = {"inSync": ["east-1", "west-1"][:in_sync]}
    status = {"phase": phase, "conditions": [condition], "replication": record}
    return {"metadata": {"name": "v"}, "status": status}


def node(ready: str = "True", **spec: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": "east-1"}, "spec": spec, "status": status}


def test_all_is_well_only_with_every_node_and_every_replica() -> None:
    assert find_unsettled([node()], [volume()], 2) == []
    assert find_unsettled([node()], [volume(in_sync=1)], 1) == []
    for nodes, volumes in (
        ([node("False")], [volume()]),
        ([node(unschedulable=True)], [volume()]),
        ([node(taints=[{"key": "node.kubernetes.io/out-of-service"}])], [volume()]),
        ([node(taints=[{"key": "twinvault.io/resyncing"}])], [volume()]),
        ([node()], [volume(phase="Degraded")]),
        ([node()], [volume(degraded="True")]),
        ([node()], [volume(in_sync=1)]),
    ):
        assert len(find_unsettled(nodes, volumes, 2)) == 1


def test_all_is_well_only_with_every_standby() -> None:
    meta = {"name": "twinvault-operator"}
    deployment = {"kind": "Deployment", "metadata": meta, "spec": {"replicas": 2}}
    daemons = {"kind": "DaemonSet", "metadata": meta, "spec": {}}
    for program, status in (
        (deployment, {"readyReplicas": 2}),
        (daemons, {"desiredNumberScheduled": 2, "numberReady": 2}),
    ):
        whole = {**program, "status": status}
        assert find_unsettled([node()], [volume()], 2, [whole]) == []
        lacking = {**status, list(status)[-1]: 1}
        assert find_unsettled([node()], [volume()], 2, [{**program, "status": lacking}]) == [
            "twinvault-operator: 1 of 2 are ready"
        ]
    assert find_unsettled([], [], 2, [{**deployment, "status": {}}])


def test_standing_still_is_a_problem_after_a_minute_that_nothing_explains() -> None:
    assert find_silent("rows", 59.0) == ""
    assert "no condition" in find_silent("rows", 61.0)


def test_a_volume_tells_what_is_wrong_and_nothing_when_all_is_well() -> None:
    assert tell_conditions(volume()) == ""
    assert "LinkDown" in tell_conditions(volume(degraded="True"))


def served(ready: str = "True", reason: str = "Ready", primary: str = "east-1") -> dict[str, Any]:
    conditions = [
        {"type": "Degraded", "status": "True", "reason": "LinkDown", "message": "cut"},
        {"type": "Progressing", "status": "True", "reason": "Moving", "message": "waits"},
        {"type": "Ready", "status": ready, "reason": reason, "message": "told"},
    ]
    return {"status": {"conditions": conditions, "replication": {"primary": primary}}}


def user(state: dict[str, Any], node: str = "east-1", reason: str = "") -> dict[str, Any]:
    status = {
        "conditions": [{"type": "Ready", "status": "False", "reason": reason}],
        "containerStatuses": [{"state": state}],
    }
    return {"spec": {"nodeName": node}, "status": status}


RUNNING: dict[str, Any] = {"running": {}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}


def test_silence_of_a_volume_that_says_it_is_ready_is_not_explained_by_degraded() -> None:
    told = explain_silence(served(), user(RUNNING))
    assert told == ""
    assert explain_silence(served(), user(RUNNING, reason="ContainersNotReady")) == ""
    assert explain_silence(served(), None) == ""
    assert explain_silence(None, user(NO_IMAGE)) == ""


@pytest.mark.parametrize("reason", ["Frozen", "Stalled", "NodeLost", "ApprovalNeeded"])
def test_silence_is_explained_by_a_volume_that_is_not_ready_with_a_reason(reason: str) -> None:
    assert explain_silence(served("False", reason), user(RUNNING)) == f"{reason}: told"
    assert explain_silence(served("False", ""), user(RUNNING)) == ""
    assert explain_silence(served("Unknown", reason), user(NO_IMAGE)) == ""


def test_silence_is_explained_by_a_pod_that_does_not_run_where_the_volume_may_be_written() -> None:
    assert "no image" in explain_silence(served(), user(NO_IMAGE))
    unplaced = user({}, node="", reason="Unschedulable")
    assert "Unschedulable" in explain_silence(served(), unplaced)
    assert explain_silence(served(), user({})) == ""
    assert explain_silence(served(primary="west-1"), user(NO_IMAGE)) == ""


@pytest.mark.parametrize(
    ("expectation", "went_on", "after", "problems"),
    [
        (GOES_ON_THERE, True, "west-1", 0),
        (GOES_ON_THERE, True, "east-1", 1),
        (GOES_ON_THERE, False, "west-1", 1),
        (GOES_ON_HERE, True, "east-1", 0),
        (GOES_ON_HERE, True, "west-1", 1),
        (GOES_ON_HERE, True, "", 0),
        (WAITS, False, "west-1", 0),
    ],
)
def test_where_and_whether_writes_went_on_is_judged(
    expectation: Any, went_on: bool, after: str, problems: int
) -> None:
    found = judge_course(expectation, went_on=went_on, before="east-1", after=after)
    assert len(found) == problems


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 21)]
    assert choose_percentile(values, 0.5) == 10.0
    assert choose_percentile(values, 0.95) == 19.0
    assert choose_percentile(values, 1.0) == 20.0
    assert choose_percentile([3.0], 0.95) == 3.0


def test_recovery_counts_from_the_fault_not_from_the_last_acknowledgement() -> None:
    assert choose_recovery(Pause(9.0, 18.0), 10.0) == 8.0
    assert choose_recovery(Pause(3.0, 4.0), 10.0) == 0.0
    assert choose_recovery(Pause(9.0, inf), 10.0) == inf


def test_a_result_is_one_line_of_json_and_a_row_of_the_table() -> None:
    good = RunResult(1, "link-cut", True, pauses={"rows": 1.5, "blocks": 1.25}, hit=True)
    bad = RunResult(2, "link-cut", True, recoveries={"rows": inf}, problems=["lost"], hit=False)
    assert "\n" not in good.to_json()
    assert json.loads(good.to_json())["passed"] is True
    assert json.loads(bad.to_json())["recoveries"] == {"rows": None}
    text = render_summary([good, bad])
    assert "link-cut  2     1       1/2  1.50/1.50/1.50" in text
    assert "never/never/never" in text
    assert "2 runs, 1 failed" in text
    assert "1 missed the state" in text
    assert "link-cut  1     0       -  " in render_summary([RunResult(1, "link-cut", True)])


def test_every_writer_reports_over_the_channel_of_its_own_node() -> None:
    objects = plan_objects("twinvault-metro", {"east-1": "10.0.0.1", "west-1": "10.0.0.2"})
    [programs] = [o for o in objects if o["kind"] == "ConfigMap"]
    assert "east-1) OBSERVER=10.0.0.1;;" in programs["data"]["start"]
    assert {"desk.py", "blocks.py", "start"} == set(programs["data"])
    classes = [
        template["spec"]["storageClassName"]
        for o in objects
        if o["kind"] == "StatefulSet"
        for template in o["spec"]["volumeClaimTemplates"]
    ]
    assert classes == ["twinvault-metro"] * 2
    assert BLOCK_COUNT * 4096 <= 64 << 20


def test_results_of_several_series_make_one_table_and_a_run_that_was_repeated_counts_once() -> None:
    failed = RunResult(2, "link-cut", True, recoveries={"rows": inf}, problems=["lost"])
    again = RunResult(2, "link-cut", True, recoveries={"rows": 1.25})
    other = RunResult(3, "drained", True, pauses={"rows": 4.0}, phases={"mounted": 2.0})
    lines = [result.to_json() for result in (failed, other, again)]
    assert parse_results(lines[:1]) == [failed]
    assert sorted(parse_results(lines), key=lambda r: r.seed) == [again, other]
    with pytest.raises(ValueError, match="Expecting"):
        parse_results(["no result"])
