"""The course of a failover, put together from what the API told."""

from __future__ import annotations

from typing import Any

from e2e.faults.timeline import (
    FIRST_WRITE,
    Moment,
    Seen,
    choose_moments_of,
    choose_phases,
    find_moments,
    split_phases,
)
from e2e.faults.watch import decode_objects


def volume(primary: str, in_sync: list[str], epoch: int = 1) -> dict[str, Any]:
    record = {"primary": primary, "inSync": in_sync, "epoch": epoch}
    return {
        "kind": "Volume",
        "metadata": {"name": "v", "uid": "v1"},
        "status": {"replication": record},
    }


def pod(uid: str, node: str = "", ready: bool = False, ending: bool = False) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "database-0", "uid": uid}
    if ending:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: dict[str, Any] = {}
    if ready:
        status = {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"state": {"running": {}}}],
        }
    return {"kind": "Pod", "metadata": meta, "spec": {"nodeName": node}, "status": status}


def test_a_failover_is_told_in_order_with_what_changed() -> None:
    seen = [
        Seen(0.0, "ADDED", volume("east-1", ["east-1", "west-1"])),
        Seen(0.0, "ADDED", pod("a", "east-1", ready=True)),
        Seen(16.0, "MODIFIED", volume("west-1", ["west-1"], 2)),
        Seen(16.2, "MODIFIED", pod("a", "east-1", ready=True, ending=True)),
        Seen(16.3, "DELETED", pod("a", "east-1")),
        Seen(16.4, "ADDED", pod("b")),
        Seen(16.5, "MODIFIED", pod("b", "west-1")),
        Seen(19.0, "MODIFIED", pod("b", "west-1", ready=True)),
    ]
    moments = [m for m in find_moments(seen) if m.at > 0]
    assert [m.what for m in moments] == [
        "primary moved",
        "in sync",
        "pod told to end",
        "pod gone",
        "pod made",
        "pod scheduled",
        "pod running",
        "pod ready",
    ]
    assert moments[0].detail == "to west-1, epoch 2"
    phases = choose_phases(moments, 10.0, 19.5)
    assert phases["primary moved"] == 6.0
    assert phases["pod ready"] == 9.0
    assert phases[FIRST_WRITE] == 9.5


def test_a_watch_that_begins_anew_tells_nothing_twice() -> None:
    same = volume("east-1", ["east-1"])
    assert find_moments([Seen(1.0, "ADDED", same), Seen(2.0, "ADDED", same)]) == []


def test_what_came_after_service_was_back_is_no_phase_of_the_failover() -> None:
    moments = find_moments([Seen(5.0, "ADDED", pod("a")), Seen(9.0, "MODIFIED", pod("a", "w"))])
    assert choose_phases(moments, 4.0, 6.0) == {"pod made": 1.0, FIRST_WRITE: 2.0}
    assert FIRST_WRITE not in choose_phases(moments, 4.0, float("inf"))


def replica(connection: str, role: str, in_use: bool) -> dict[str, Any]:
    return {
        "kind": "VolumeReplica",
        "metadata": {"name": "v.west-1", "uid": "r1"},
        "spec": {"nodeName": "west-1"},
        "status": {"inUse": in_use, "replication": {"connection": connection, "role": role}},
    }


def test_a_survivor_tells_of_the_link_the_promotion_and_the_mount() -> None:
    seen = [
        Seen(0.0, "ADDED", replica("Connected", "Secondary", False)),
        Seen(1.5, "MODIFIED", replica("WFConnection", "Secondary", False)),
        Seen(7.0, "MODIFIED", replica("WFConnection", "Primary", False)),
        Seen(7.1, "MODIFIED", replica("WFConnection", "Primary", True)),
        Seen(9.0, "MODIFIED", replica("Connected", "Primary", True)),
    ]
    found = [(m.at, m.what, m.detail) for m in find_moments(seen)]
    assert found == [
        (1.5, "link lost", "seen at west-1"),
        (7.0, "promoted", "at west-1"),
        (7.1, "mounted", "at west-1"),
    ]


def test_a_course_is_of_one_pod_and_its_volume() -> None:
    mine = [
        Moment(1.0, "primary moved", "v", "to west-1, epoch 2"),
        Moment(2.0, "pod made", "database-0"),
        Moment(3.0, "attached", "csi-1", "v to west-1"),
        Moment(4.0, "promoted", "v.west-1", "at west-1"),
        Moment(5.0, "node not Ready", "east-1"),
    ]
    others = [
        Moment(0.5, "primary moved", "v2", "to west-1, epoch 2"),
        Moment(0.6, "pod made", "blocks-0"),
        Moment(0.7, "attached", "csi-2", "v2 to west-1"),
        Moment(0.8, "mounted", "v2.west-1", "at west-1"),
    ]
    assert choose_moments_of([*others, *mine], "v", "database-0") == mine


def test_what_phases_took_adds_up_to_the_whole() -> None:
    phases = {"primary moved": 6.0, "pod gone": 5.0, "pod made": 6.5, FIRST_WRITE: 9.0}
    took = split_phases(phases)
    assert took == {"pod gone": 5.0, "primary moved": 1.0, "pod made": 0.5, FIRST_WRITE: 2.5}
    assert list(took) == ["pod gone", "primary moved", "pod made", FIRST_WRITE]


def test_objects_come_whole_out_of_a_stream_cut_anywhere() -> None:
    text = '{"type":"ADDED","object":{"a":1}}\n{\n "type": "MODIFIED"}\n'
    for cut in range(len(text)):
        first, rest = decode_objects(text[:cut])
        second, rest = decode_objects(rest + text[cut:])
        assert [o["type"] for o in first + second] == ["ADDED", "MODIFIED"]
        assert rest == ""
