"""The course of a failover, put together from what the API told."""

from __future__ import annotations

from typing import Any

from e2e.faults.timeline import FIRST_WRITE, Seen, choose_phases, find_moments
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


def test_objects_come_whole_out_of_a_stream_cut_anywhere() -> None:
    text = '{"type":"ADDED","object":{"a":1}}\n{\n "type": "MODIFIED"}\n'
    for cut in range(len(text)):
        first, rest = decode_objects(text[:cut])
        second, rest = decode_objects(rest + text[cut:])
        assert [o["type"] for o in first + second] == ["ADDED", "MODIFIED"]
        assert rest == ""
