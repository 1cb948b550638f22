"""Drills in any order of events: the operator dies anywhere, writes are lost, nodes are lost.

``drill_world`` refuses what must never happen while it happens; here is what must hold afterwards.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import twinvault_core.drill_course as course
from tests.core.drill_world import NODES, START, BrokenRuleError, World
from twinvault_core.drill_state import format_time
from twinvault_core.drill_view import EvictPod

SPEC = {
    "runAt": format_time(START),
    "volumes": ["emr", "his", "lab"],
    "holdSeconds": 5,
    "deadlineSeconds": 60,
}

KUBERNETES = ("end_pods", "start_pods", "schedule", "attach")
EVENTS = (
    "turn",
    "turn",
    "turn",
    "die",
    *KUBERNETES,
    *KUBERNETES,
    "time",
    "long",
    "lose east-1",
    "lose west-1",
    "repair",
    "budget",
    "stuck",
    "lost write",
    "silent api",
    "suspend",
    "resume",
    "unbound",
)


def make() -> World:
    world = World(SPEC)
    world.add("his", "east-1")
    world.add("emr", "west-1")
    world.add("lab", "east-1")
    world.add("bystander", "east-1")
    return world


def happen(world: World, event: str, number: int) -> None:
    if event == "turn":
        world.turn()
    elif event == "die":
        for done, _ in enumerate(world.rounds()):
            if done == number:
                break  # killed right after this step
        world.forget()
    elif event in KUBERNETES:
        getattr(world, event)()
    elif event in ("time", "long"):
        world.pass_time(number if event == "time" else 61)
    elif event.startswith("lose"):
        world.lose(event.partition(" ")[2])
    elif event == "repair":
        world.repair()
    else:
        _break(world, event, number)


def _break(world: World, event: str, number: int) -> None:
    if event == "budget":
        world.budget_says_no = not world.budget_says_no
    elif event == "stuck":
        world.apps[number % 3].stuck = NODES[number % 2]
    elif event == "lost write":
        world.lose_writes = 1 + number % 2
    elif event == "silent api":
        world.cannot_list = not world.cannot_list
    elif event in ("suspend", "resume"):
        world.spec["drill"]["suspend"] = event == "suspend"
    else:
        app = world.apps[number % 3]
        if app.pod is not None and not app.pod.ready:
            app.pod = replace(app.pod, deleting=True)  # somebody deleted it before it ran


def check(world: World) -> None:
    """Between any two events, after a turn of the operator."""
    drill = world.status.get("drill") or {}
    assert set(world.closed) <= {drill.get("tainted")}, "a node is closed that no drill wants"
    lost = [n for n in NODES if world.nodes[n].expired]
    assert not (lost and drill), "a drill goes on although a node is lost"


def calm(world: World) -> None:
    """All faults are gone and time passes: what is under way must come to its end by itself."""
    world.repair()
    world.spec["drill"].pop("suspend", None)
    for _ in range(400):
        world.turn()
        world.let_it_run()
        world.pass_time(1)
        if world.results and not world.status.get("drill"):
            break


def live(events: Iterable[tuple[str, int]]) -> World:
    """A course of ``events`` to its end, with everything that must hold then."""
    world = make()
    for event, number in events:
        happen(world, event, number)
        if event == "turn" and not world.lose_writes:
            world.turn()
            check(world)
    calm(world)
    assert not world.status.get("drill")
    assert not world.closed
    assert len(world.results) == 1, "it ran once, or was refused once"
    last = world.status["lastDrill"]
    assert last["message"]
    for _ in range(3):
        world.let_it_run()
    for app in world.apps:
        assert app.pod is not None
        assert app.pod.ready, f"{app.volumes} does not run"
    if last["result"] == "Succeeded":
        assert [v["recoverySeconds"] >= 0 for v in last["volumes"]] == [True] * 3
    return world


def choose_events(seed: int) -> list[tuple[str, int]]:
    walk = random.Random(seed)
    return [(walk.choice(EVENTS), walk.randint(0, 9)) for _ in range(walk.randint(0, 60))]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 9)), max_size=60))
def test_whatever_happens_a_drill_ends_and_leaves_nothing(events: list[tuple[str, int]]) -> None:
    live(events)


def test_long_courses_end_in_every_way() -> None:
    """TWINVAULT_SEEDS=6000 runs it for longer."""
    seeds = range(int(os.environ.get("TWINVAULT_SEEDS") or 200))
    found = {live(choose_events(seed)).results[0] for seed in seeds}
    assert found == {"Succeeded", "Refused", "Aborted"}


STEPS = st.tuples(st.sampled_from(("turn", "die", *KUBERNETES)), st.integers(0, 9))


def test_a_volume_that_a_failover_moved_is_no_drills_success() -> None:
    """It was lost and back before the operator looked: nobody timed a way out."""
    world = live([("die", 2), ("lose east-1", 0)])
    assert world.results == ["Aborted"]
    assert world.status["lastDrill"]["reason"] == "Moving"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=40))
def test_an_operator_that_only_dies_costs_no_drill(events: list[tuple[str, int]]) -> None:
    world = live(events)
    assert world.results == ["Succeeded"], world.status["lastDrill"]["message"]
    assert world.volumes["his"].primary == "east-1"
    assert world.volumes["emr"].primary == "west-1"
    evicted = [e for e in world.effects if isinstance(e, EvictPod)]
    assert len({e.uid for e in evicted}) == 6, "each pod out and back, and nobody else"


def _walk(*events: tuple[str, int]) -> None:
    world = make()
    for event, number in events:
        happen(world, event, number)


def _evict_all(view: Any, drill: Any, uses: Any) -> tuple[EvictPod, ...]:
    pods = {p.uid: p for use in uses.values() for p in use.staying}
    return tuple(EvictPod(p.namespace, p.name, p.uid) for p in pods.values())


def test_the_world_notices_an_eviction_that_was_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This and the next two: else the tests above would prove nothing."""
    monkeypatch.setattr(course, "_advance", lambda view, drill, one, use: one)
    monkeypatch.setattr(course, "_plan_evictions", _evict_all)
    with pytest.raises(BrokenRuleError, match="before that was remembered"):
        _walk(("turn", 0))


def test_the_world_notices_an_eviction_from_an_open_node(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = World.view

    def lie(world: World, *args: Any) -> Any:
        return replace(seen(world, *args), closed=frozenset({"east-1"}))

    monkeypatch.setattr(World, "view", lie)
    with pytest.raises(BrokenRuleError, match="which is open"):
        _walk(("turn", 0))


def test_the_world_notices_a_drill_that_goes_on_after_a_node_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(course, "_find_stop", lambda *_: None)
    until_closed = 3
    with pytest.raises(BrokenRuleError, match="is not in sync"):
        _walk(("die", until_closed), ("lose west-1", 0), ("turn", 0))
