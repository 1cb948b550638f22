"""A network between the sites that lets nothing through: said of volumes and of their pair."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.builders import cluster
from tests.core.pair_rig import EAST, NODES, WEST, Rig
from tests.core.test_cluster_plan import ABLE
from tests.core.test_replicated_volume import condition, placed, side, view
from twinvault_core import reasons
from twinvault_core.actions import Plan
from twinvault_core.link_check import UNREACHABLE_SECONDS, find_unreachable, judge_link
from twinvault_core.pair_plan import PairView, plan_pair
from twinvault_core.volume_plan import plan_volume

SINCE = "2026-01-01T00:00:00Z"
SOON = "2026-01-01T00:00:29Z"
THEN = "2026-01-01T00:00:30Z"
CALLING = {"connection": "WFConnection", "disconnectedSince": SINCE}
NEW = {"sizeBytes": 0, "phase": "Creating"}
WORDS = ("east-1 (10.0.0.1)", "west-1 (10.0.0.2)", "TCP port 7000", "7000 to 9799", "firewall")


def sides(east: dict[str, Any] = CALLING, west: dict[str, Any] = CALLING) -> tuple[Any, Any]:
    return side("east-1", report=east), side("west-1", report=west)


def judged(in_sync: tuple[str, ...], now: str, *, new: bool = False, **more: Any) -> Plan:
    of = placed(in_sync, status=NEW if new else {})
    return plan_volume(view(of, **{"replicas": sides(), **more}), now=now)


def test_the_time_that_is_waited_is_the_one_that_these_tests_mean() -> None:
    assert UNREACHABLE_SECONDS == 30


def test_a_first_sync_that_nothing_gets_through_for_names_addresses_and_ports() -> None:
    told = condition(judged(("east-1",), THEN, new=True), "Progressing")
    assert told["reason"] == reasons.FIRST_SYNC
    for words in WORDS:
        assert words in told["message"]
    early = condition(judged(("east-1",), SOON, new=True), "Progressing")
    assert "firewall" not in early["message"]


@pytest.mark.parametrize(
    ("in_sync", "reason"),
    [(NODES, reasons.LINK_DOWN), (("east-1",), reasons.PEER_NOT_IN_SYNC)],
)
def test_a_degraded_volume_says_that_the_network_may_be_why(
    in_sync: tuple[str, ...], reason: str
) -> None:
    told = condition(judged(in_sync, THEN), "Degraded")
    assert told["reason"] == reason
    for words in WORDS:
        assert words in told["message"]
    assert "firewall" not in condition(judged(in_sync, SOON), "Degraded")["message"]


@pytest.mark.parametrize(
    ("east", "west"),
    [
        (CALLING, {"connection": "Connected"}),
        (CALLING, {**CALLING, "connection": "StandAlone"}),
        (CALLING, {**CALLING, "disk": "Diskless"}),
        (CALLING, {**CALLING, "disconnectedSince": "2026-01-01T00:00:10Z"}),
        (CALLING, {"connection": "WFConnection"}),
    ],
)
def test_the_network_is_not_blamed_for_what_is_something_elses_doing(
    east: dict[str, Any], west: dict[str, Any]
) -> None:
    assert find_unreachable(placed(), sides(east, west), {}, now=THEN) == ""
    assert find_unreachable(placed(), sides(west, east), {}, now=THEN) == ""


def test_a_silent_node_or_a_replica_that_leaves_says_nothing_about_the_network() -> None:
    both = sides()
    assert judge_link(placed(), both, {"west-1": "silent"}, now=THEN) is None
    assert judge_link(placed(), both[:1], {}, now=THEN) is None
    spec = both[0].replication
    leaving = replace(both[0], replication=replace(spec, peer_leaves=True))
    assert judge_link(placed(), (leaving, both[1]), {}, now=THEN) is None


# -- the pair --------------------------------------------------------------------------------------


def ready(rig: Rig) -> tuple[str, str]:
    known = {"east": cluster("east"), "west": cluster("west")}
    seen = rig.observe()
    made = plan_pair(PairView(seen.pair, known, seen.volumes, ABLE, seen.upkeep), now=rig.now_text)
    found = condition(made, "Ready")
    return found["reason"], found["message"]


def cut(rig: Rig, name: str) -> None:
    for node in NODES:
        rig.report(name, node, connection="WFConnection", disconnectedSince=rig.now_text)


def test_a_pair_is_unreachable_only_when_no_volume_gets_through_and_both_nodes_are_heard() -> None:
    rig = Rig(("a", "b"))
    cut(rig, "a")
    rig.pass_time(UNREACHABLE_SECONDS)
    assert ready(rig)[0] == reasons.READY  # b is connected
    cut(rig, "b")
    assert ready(rig)[0] == reasons.READY  # not for long
    rig.pass_time(UNREACHABLE_SECONDS)
    reason, message = ready(rig)
    assert reason == reasons.NETWORK_UNREACHABLE
    assert "TCP ports 7000 to 9799" in message
    rig.lost[WEST] = "silent"
    assert ready(rig)[0] == reasons.READY
    rig.lost.clear()
    rig.report("b", EAST, connection="Connected", disconnectedSince=None)
    assert ready(rig)[0] == reasons.READY
