"""Whatever happens in whatever order: no acknowledged write is lost, and in the end all is well.

The world is in ``replication_model``. More and longer courses: TWINVAULT_SEEDS=20000.
"""

from __future__ import annotations

import os

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.core.replication_model.events import Action
from tests.core.replication_model.kernel import other
from tests.core.replication_model.walk import (
    FAULTS,
    LATE_WRITES,
    LOST_SITES,
    MOVES,
    MOVES_BACK,
    REPAIRS,
    WRITES,
    find_violation,
    walk,
)
from tests.core.replication_model.world import World
from twinvault_core.replication_view import StepKind

SEEDS = int(os.environ.get("TWINVAULT_SEEDS", "0"))
COURSES = SEEDS or 100
EXAMPLES = SEEDS // 10 or 60
CHUNKS = 5

AGENTS = frozenset({"loop", "fence", "stage", "report", "renew", "kubelet"})


NEVER_IN_THE_MODEL = {StepKind.START_FULL_SYNC, StepKind.HOLD, StepKind.RESTART_SYNC}
"""Both replicas are blank at first, they never diverge, and the last one is too rare."""


class Interleavings(RuleBasedStateMachine):
    """Hypothesis chooses, and finds the shortest course when something breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def _do_one(self, actions: list[Action], choice: int) -> None:
        if actions:
            self.world.do(actions[choice % len(actions)])

    @rule(choice=st.integers(0, 63))
    def somebody_works(self, choice: int) -> None:
        others = FAULTS | AGENTS | WRITES
        self._do_one([a for a in self.world.actions() if a[0] not in others], choice)

    @rule(choice=st.integers(0, 15), times=st.integers(1, 5))
    def an_agent_works(self, choice: int, times: int) -> None:
        for _ in range(times):
            self._do_one([a for a in self.world.actions() if a[0] in AGENTS], choice)

    @rule(choice=st.integers(0, 7))
    def a_pod_writes(self, choice: int) -> None:
        self._do_one([a for a in self.world.actions() if a[0] in WRITES], choice)

    @rule(choice=st.integers(0, 31))
    def something_fails(self, choice: int) -> None:
        self._do_one([a for a in self.world.actions() if a[0] in FAULTS], choice)

    def teardown(self) -> None:
        self.world.heal()


Interleavings.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=60,
    derandomize=not SEEDS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_no_order_of_events_that_hypothesis_finds_breaks_a_rule = Interleavings.TestCase


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_course_of_faults_loses_an_acknowledged_write_or_ends_stuck(chunk: int) -> None:
    each = COURSES // CHUNKS
    assert find_violation(range(chunk * each, (chunk + 1) * each)) is None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_failover_upon_failover_loses_nothing(chunk: int) -> None:
    each = COURSES // CHUNKS
    seeds = range(chunk * each, (chunk + 1) * each)
    assert find_violation(seeds, course=LOST_SITES) is None


def test_no_late_write_of_the_record_puts_a_replica_in_sync_that_is_not() -> None:
    assert find_violation(range(COURSES // 2), course=LATE_WRITES) is None


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_moving_removing_and_adding_replicas_loses_nothing(chunk: int) -> None:
    each = COURSES // CHUNKS
    seeds = range(chunk * each, (chunk + 1) * each)
    assert find_violation(seeds, course=MOVES) is None


def test_a_node_that_was_given_up_and_gets_a_replica_again_loses_nothing() -> None:
    assert find_violation(range(COURSES // 2), course=MOVES_BACK) is None


def test_what_a_verify_finds_is_copied_from_the_primary() -> None:
    world = World()
    aside = other(world.api.record.primary)
    right = dict(world.drbd.images[aside].blocks)
    world.do(("rot", aside))
    assert world.drbd.images[aside].blocks != right
    world.do(("ask_verify", 0))
    for _ in range(20):
        for node in world.nodes:
            world.do(("loop", node))
        for name in ("deliver", "meet"):
            for action in [a for a in world.actions() if a[0] == name]:
                world.do(action)
        world.do(("verified", 0))
        world.do(("copy", 0))
    assert StepKind.COPY_MARKED in world.steps
    assert world.drbd.images[aside].blocks == right
    assert world.api.record.in_sync == {*world.nodes}
    world.heal()


def test_the_courses_reach_what_they_are_meant_to_reach() -> None:
    """A model in which nothing happens would prove nothing."""
    worlds = [walk(seed) for seed in range(80)]
    worlds += [walk(seed, course=LOST_SITES) for seed in range(40)]
    worlds += [walk(seed, course=MOVES) for seed in range(40)]
    reached = {name for world in worlds for name, _ in world.trace}
    assert reached >= {*FAULTS, *REPAIRS, *AGENTS, *WRITES, "meet", "copy", "lose", "deliver"}
    steps = {step for world in worlds for step in world.steps}
    assert steps >= set(StepKind) - NEVER_IN_THE_MODEL
    assert max(world.api.record.epoch for world in worlds) >= 3
    assert reached >= {"approve", "take_back"}
    assert reached >= {"evacuate", "say_gone", "pair", "unpair"}
    assert {"ab", "ac"} <= {"".join(world.members()) for world in worlds}
