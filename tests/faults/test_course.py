"""A fault strikes in the step that it is about, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.faults.course import (
    COMING,
    GROWING,
    LEAVING,
    choose_target,
    find_coming_step,
    find_growing_step,
    find_leaving_step,
    find_resync_share,
    find_taking_step,
)

_SYNCING = """version: 8.4.11 (api:1/proto:86-101)
 1000: cs:SyncTarget ro:Secondary/Primary ds:Inconsistent/UpToDate C r-----
    ns:0 nr:4096 dw:4096 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:94208
\t[>....................] sync'ed: 12.5% (94208/98304)K
 1001: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----
    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
"""


def volume(primary: str, spec_bytes: int = 10, bytes_: int = 10) -> dict[str, Any]:
    return {
        "spec": {"sizeBytes": spec_bytes},
        "status": {"replication": {"primary": primary}, "sizeBytes": bytes_},
    }


def replica(role: str, *, used: bool = False, bytes_: int = 10) -> dict[str, Any]:
    return {"status": {"replication": {"role": role}, "inUse": used, "sizeBytes": bytes_}}


def pod(node: str, *, runs: bool = False) -> dict[str, Any]:
    status: dict[str, Any] = {
        "containerStatuses": [{"state": {"running": {}} if runs else {"waiting": {}}}]
    }
    return {"spec": {"nodeName": node}, "status": status}


def test_a_volume_is_being_left_from_the_end_of_its_pod_until_the_record_moves() -> None:
    east = volume("east-1")
    assert find_leaving_step("east-1", east, replica("Primary"), pod("east-1", runs=True)) == ""
    assert find_leaving_step("east-1", east, replica("Primary"), None) == LEAVING[0]
    assert find_leaving_step("east-1", east, replica("Secondary"), pod("west-1")) == LEAVING[1]
    assert find_leaving_step("east-1", volume("west-1"), replica("Secondary"), None) == ""
    assert find_leaving_step("east-1", None, None, None) == ""


def test_a_volume_comes_from_the_record_on_until_its_pod_runs() -> None:
    west, waiting = volume("west-1"), pod("west-1")
    courses = [
        find_coming_step("west-1", volume("east-1"), replica("Secondary"), waiting, False),
        find_coming_step("west-1", west, replica("Secondary"), waiting, False),
        find_coming_step("west-1", west, replica("Secondary"), waiting, True),
        find_coming_step("west-1", west, replica("Primary"), waiting, True),
        find_coming_step("west-1", west, replica("Primary", used=True), waiting, True),
        find_coming_step("west-1", west, replica("Primary", used=True), pod("west-1", runs=True),
                         True),
    ]  # fmt: skip
    assert courses == ["", *COMING, ""]


@pytest.mark.parametrize(
    ("spec_bytes", "bytes_", "images", "step"),
    [
        (10, 10, (10, 10), ""),
        (20, 10, (10, 10), GROWING[0]),
        (20, 10, (20, 10), GROWING[1]),
        (20, 10, (20, 20), GROWING[2]),
        (20, 20, (20, 20), ""),
    ],
)
def test_a_volume_grows_until_its_status_has_the_size(
    spec_bytes: int, bytes_: int, images: tuple[int, int], step: str
) -> None:
    replicas = [replica("", bytes_=size) for size in images]
    assert find_growing_step(20, volume("", spec_bytes, bytes_), replicas) == step


def test_a_snapshot_is_being_taken_until_it_is_ready() -> None:
    pending, cloned = {"state": "Pending"}, {"state": "Pending", "reason": "Cloned"}
    assert find_taking_step(None) == ""
    assert find_taking_step({"status": {}}) == "asked for"
    assert find_taking_step({"status": {"holders": [pending, pending]}}) == "being taken"
    assert find_taking_step({"status": {"holders": [pending, cloned]}}) == "one copy made"
    assert find_taking_step({"status": {"readyToUse": True, "holders": [cloned]}}) == ""


def test_a_resync_is_told_of_its_own_minor_only() -> None:
    assert find_resync_share(_SYNCING, 1000) == 0.125
    assert find_resync_share(_SYNCING, 1001) is None
    assert find_resync_share("", 1000) is None


def test_seeds_are_spread_over_all_steps() -> None:
    chosen = {choose_target(COMING, n / 100) for n in range(101)}
    assert chosen == set(range(len(COMING)))
