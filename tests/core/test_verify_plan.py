"""Comparing both replicas by a schedule: one volume at a time, put off, repeated, told."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.core.pair_rig import EAST, WEST, Rig

HOURLY = {"schedule": "0 * * * *"}
DRILL = {
    "started": "2026-01-01T00:59:00Z",
    "scheduled": "2026-01-01T00:59:00Z",
    "trigger": "RunAt",
    "phase": "Away",
    "since": "2026-01-01T00:59:30Z",
    "volumes": [{"volume": "a", "home": EAST, "away": WEST, "claim": "his/a"}],
}
FIRST, SECOND = "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"


def rig(*names: str, **more: Any) -> Rig:
    made = Rig(names, verify=HOURLY, **more)
    made.plan()
    return made


def begun(*names: str) -> Rig:
    made = rig(*names)
    made.pass_time(3600)
    made.plan()
    return made


def asked(of: Rig) -> list[str]:
    return sorted(
        n for n, r in of.replicas.items() if r["spec"]["replication"].get("verifyRequest")
    )


def finish(of: Rig, name: str, node: str = EAST, different: int = 0, **more: Any) -> None:
    report = {
        "request": of.spec_of(name, node)["verifyRequest"],
        "result": "Different" if different else "Equal",
        "endedAt": of.now_text,
        "differentBytes": different,
        **more,
    }
    of.report(name, node, verify=report)


def test_nothing_is_compared_before_its_time_and_the_time_is_told() -> None:
    made = rig("a")
    assert asked(made) == []
    assert made.status["nextVerify"] == {"schedule": "0 * * * *", "time": FIRST}
    assert made.condition("Verified")["reason"] == "NotYet"


def test_one_volume_after_the_other_is_asked_by_the_round_s_time() -> None:
    made = begun("a", "b")
    assert asked(made) == ["a.east-1"]
    assert made.spec_of("a")["verifyRequest"] == FIRST
    assert made.status["lastVerify"]["current"] == "a"
    made.plan()
    assert asked(made) == ["a.east-1"], "asking again changes nothing"
    finish(made, "a")
    made.plan()
    assert asked(made) == ["b.east-1"]
    finish(made, "b")
    made.plan()
    assert asked(made) == []
    last = made.status["lastVerify"]
    assert (last["volumes"], last["left"], last["endedAt"]) == (2, 0, made.now_text)
    assert made.condition("Verified")["status"] == "True"
    assert made.volumes["a"]["status"]["lastVerify"]["result"] == "Equal"
    before = dict(made.status)
    assert made.plan().actions == ()
    assert made.status == before


def test_a_new_round_begins_with_the_volume_that_was_compared_longest_ago() -> None:
    made = begun("a", "b")
    for name in ("a", "b"):
        finish(made, name)
        made.plan()
    made.add("c")
    made.pass_time(3600)
    made.plan()
    assert asked(made) == ["c.east-1"]
    assert "endedAt" not in made.status["lastVerify"]
    assert made.spec_of("c")["verifyRequest"] == SECOND


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("degraded", "it is degraded"),
        ("link", "the link is down"),
        ("resync", "it resyncs"),
        ("snapshot", "a snapshot of it is being taken"),
        ("silent", "node east-1 is silent"),
        ("growing", "it grows"),
        ("drill", "a drill moves it"),
    ],
)
def test_a_volume_that_cannot_be_compared_is_put_off_with_the_reason(what: str, why: str) -> None:
    made = rig("a", "b")
    match what:
        case "degraded":
            made.degrade("a")
        case "link":
            made.report("a", connection="Connecting")
        case "resync":
            made.report("a", sync="SyncSource")
        case "snapshot":
            made.snapshotting.add("a")
        case "silent":
            made.lost = {EAST: "is silent"}
        case "drill":
            made.status["drill"] = DRILL
        case _:
            made.volumes["a"]["spec"]["sizeBytes"] *= 2
    made.pass_time(3600)
    made.plan()
    assert asked(made) == ([] if what == "silent" else ["b.east-1"])
    assert f"a: {why}" in made.status["lastVerify"]["message"]


def test_a_resync_of_any_volume_goes_first() -> None:
    made = rig("a", "b")
    made.degrade("b")
    made.report("b", sync="SyncSource", resync={"donePercent": 1, "remainingBytes": 5})
    made.pass_time(3600)
    made.plan()
    assert asked(made) == []
    assert "b: it is degraded" in made.status["lastVerify"]["message"]


def test_a_resync_that_only_a_lost_node_tells_of_keeps_nobody_waiting() -> None:
    made = rig("a", "b")
    made.degrade("b")
    made.report("b", connection="Connecting", resync={"donePercent": 1, "remainingBytes": 5})
    made.pass_time(3600)
    made.plan()
    assert asked(made) == ["a.east-1"]


def test_a_pass_of_the_last_round_that_still_runs_is_waited_for() -> None:
    made = begun("a", "b")
    made.report("a", sync="VerifyS")
    made.pass_time(3600)
    made.plan()
    assert asked(made) == []
    assert any("a: no time was left" in t.message for t in made.told)
    made.report("a", sync="Established")
    made.plan()
    assert asked(made) == ["a.east-1"]
    assert made.spec_of("a")["verifyRequest"] == SECOND


def test_what_the_link_cut_off_is_taken_back_and_asked_again_when_it_is_in_sync() -> None:
    made = begun("a", "b")
    made.report("a", connection="Connecting", sync="Off")
    made.degrade("a")
    made.plan()
    assert asked(made) == ["b.east-1"]
    made.report("a", connection="Connected", sync="Established")
    made.restore("a")
    made.plan()
    assert asked(made) == ["b.east-1"], "still one at a time"
    finish(made, "b")
    made.plan()
    assert made.spec_of("a")["verifyRequest"] == FIRST


def test_a_snapshot_in_the_middle_does_not_stop_it() -> None:
    made = begun("a")
    made.snapshotting.add("a")
    made.plan()
    assert asked(made) == ["a.east-1"]


def test_the_question_follows_the_primary_and_the_answer_of_the_old_one_counts() -> None:
    made = begun("a")
    made.move("a")
    made.report("a", WEST)
    made.plan()
    assert asked(made) == ["a.west-1"]
    made.report("a", EAST, verify={"request": FIRST, "result": "Equal", "differentBytes": 0})
    made.plan()
    assert made.status["lastVerify"]["left"] == 0


def test_a_difference_is_told_to_a_person_and_stays_in_the_status() -> None:
    made = begun("a", "b")
    where = [{"offsetBytes": 4096, "lengthBytes": 8192}]
    finish(made, "a", different=8192, ranges=where)
    made.plan()
    made.plan()
    events = [t for t in made.told if t.reason == "VerifyFound"]
    assert len(events) == 1
    assert events[0].warning
    assert "8Ki differed" in events[0].message
    assert "4096+8192" in events[0].message
    assert "east-1" in events[0].message
    assert made.condition("Verified")["status"] == "False"
    assert made.condition("Verified")["reason"] == "Different"
    assert made.volumes["a"]["status"]["lastVerify"]["differentBytes"] == 8192
    assert made.status["lastVerify"]["differentBytes"] == 8192


def test_what_a_round_did_not_reach_is_told_when_the_next_begins() -> None:
    made = rig("a")
    made.degrade("a")
    made.pass_time(3600)
    made.plan()
    made.pass_time(3600)
    made.plan()
    skipped = [t for t in made.told if t.reason == "VerifySkipped"]
    assert len(skipped) == 1
    assert "a: it is degraded" in skipped[0].message
    assert made.status["lastVerify"]["time"] == SECOND


def test_rounds_that_an_absent_operator_missed_become_one() -> None:
    made = rig("a")
    made.pass_time(5 * 3600)
    made.plan()
    assert made.spec_of("a")["verifyRequest"] == FIRST
    assert made.status["nextVerify"]["time"] == "2026-01-01T06:00:00Z"


def test_another_schedule_is_followed_at_once_and_none_takes_the_question_back() -> None:
    made = begun("a")
    made.pair["spec"]["verify"] = {"schedule": "30 3 * * *"}
    made.plan()
    assert made.status["nextVerify"]["time"] == "2026-01-01T03:30:00Z"
    assert asked(made) == ["a.east-1"], "the round that runs goes on"
    made.pair["spec"].pop("verify")
    made.plan()
    assert asked(made) == []
    assert "nextVerify" not in made.status


def test_a_schedule_that_is_none_is_told_and_breaks_nothing_else() -> None:
    made = Rig(("a",), verify={"schedule": "61 * * * *"})
    made.plan()
    found = made.condition("Verified")
    assert (found["status"], found["reason"]) == ("Unknown", "Invalid")
    assert "spec.verify.schedule" in found["message"]


def test_without_a_schedule_nothing_is_said() -> None:
    made = Rig(("a",))
    made.plan()
    assert made.condition("Verified") == {}
    assert "nextVerify" not in made.status


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_happens_one_volume_is_compared_at_a_time_and_every_one_in_the_end(
    data: st.DataObject,
) -> None:
    names = ("a", "b", "c")
    made = begun(*names)
    for _ in range(data.draw(st.integers(0, 25))):
        name = data.draw(st.sampled_from(names))
        match data.draw(st.sampled_from(["cut", "mend", "move", "finish", "plan", "snapshot"])):
            case "cut":
                made.degrade(name)
                for node in (EAST, WEST):
                    made.report(name, node, connection="Connecting", sync="Off")
            case "mend":
                _mend(made, name)
            case "move":
                made.move(name, data.draw(st.sampled_from([EAST, WEST])))
            case "finish":
                _finish_asked(made)
            case "snapshot":
                made.snapshotting ^= {name}
            case _:
                made.plan()
        assert len(asked(made)) <= 1
    made.snapshotting.clear()
    for name in names:
        _mend(made, name)
    for _ in range(2 * len(names) + 1):
        made.plan()
        _finish_asked(made)
    made.plan()
    assert made.status["lastVerify"]["left"] == 0
    assert all(v["status"]["lastVerify"]["time"] == FIRST for v in made.volumes.values())
    assert asked(made) == []


def _mend(made: Rig, name: str) -> None:
    made.restore(name)
    for node in (EAST, WEST):
        made.report(name, node, connection="Connected", sync="Established")


def _finish_asked(made: Rig) -> None:
    for full in asked(made):
        name, _, node = full.partition(".")
        report = made.replicas[full]["status"]["replication"]
        if report["connection"] == "Connected":
            finish(made, name, node)
