"""What a fault interrupted must have ended whole; a planned move harms nothing."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.faults.judge import find_size_problems, judge_move, judge_snapshot, parse_quantity


def volume(epoch: int, primary: str, degraded: str = "False", in_sync: int = 2) -> dict[str, Any]:
    record = {"epoch": epoch, "primary": primary, "inSync": ["east-1", "west-1"][:in_sync]}
    condition = {"type": "Degraded", "status": degraded, "reason": "LinkDown", "message": "cut"}
    return {
        "metadata": {"name": "v"},
        "status": {"replication": record, "conditions": [condition]},
    }


def replica(*, frozen: bool) -> dict[str, Any]:
    return {
        "metadata": {"name": "v.east-1"},
        "spec": {"volume": "v"},
        "status": {"replication": {"frozen": frozen}},
    }


def node(taint: str) -> dict[str, Any]:
    return {"metadata": {"name": "east-1"}, "spec": {"taints": [{"key": taint}]}}


def judge(**seen: list[dict[str, Any]]) -> list[str]:
    whole = {"Volume": [volume(3, "east-1"), volume(4, "west-1")], "VolumeReplica": [], "Node": []}
    return judge_move(["v"], "east-1", "west-1", {**whole, **seen})


def test_a_move_is_one_switchover_of_a_whole_volume() -> None:
    assert judge() == []
    assert judge(Node=[node("node.kubernetes.io/unschedulable")]) == []
    assert judge(VolumeReplica=[replica(frozen=False)]) == []


@pytest.mark.parametrize(
    "seen",
    [
        {"Volume": [volume(3, "east-1")]},
        {"Volume": [volume(3, "east-1"), volume(5, "west-1")]},
        {"Volume": [volume(3, "east-1"), volume(4, "west-1"), volume(5, "east-1")]},
        {"Volume": [volume(3, "east-1", degraded="True"), volume(4, "west-1")]},
        {"Volume": [volume(3, "east-1"), volume(4, "west-1", in_sync=1)]},
        {"Volume": []},
        {"VolumeReplica": [replica(frozen=True)]},
        {"Node": [node("node.kubernetes.io/out-of-service")]},
    ],
)
def test_a_move_that_fences_freezes_or_degrades_is_a_problem(
    seen: dict[str, list[dict[str, Any]]],
) -> None:
    assert len(judge(**seen)) == 1


def test_sizes_that_were_asked_for_are_there_to_the_byte() -> None:
    assert parse_quantity("80Mi") == 80 << 20
    assert parse_quantity("83886080") == 80 << 20
    assert find_size_problems("rows", 20, {"image at east-1": 20}) == []
    assert "image at west-1" in find_size_problems("rows", 20, {"image at west-1": 10})[0]


def test_a_snapshot_ends_ready_with_ours_or_failed_with_a_reason() -> None:
    meta = {"name": "s"}
    ready = {"metadata": meta, "status": {"readyToUse": True}}
    failed = {"metadata": meta, "status": {"readyToUse": False, "error": {"message": "no room"}}}
    assert judge_snapshot(ready, [ready]) == []
    assert judge_snapshot(failed, []) == []
    assert len(judge_snapshot(ready, [])) == 1
    assert len(judge_snapshot(ready, [failed])) == 1
    assert len(judge_snapshot({"metadata": meta}, [])) == 1
