"""Random courses through the model, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from .agent import Decisions
from .events import Action
from .kernel import NODES
from .world import ViolationError, World

FAULTS = frozenset(
    {
        *("cut", "power_cut", "stop", "api_down", "kill_agent", "operator_down", "break_disk"),
        *("latch", "rot", "readdress", "delete", "touch", "lose_write", "hold", "ask_verify"),
    }
)
REPAIRS = frozenset(
    {"mend", "power", "continue", "api_up", "start_agent", "replace_disk", "operator_up", "turn"}
)
WRITES = frozenset({"write0", "write1", "write2", "write3"})
RARE = {
    "delete": 0.15,
    "hold": 0.5,
    "ask_verify": 0.5,
    "break_disk": 0.2,
    "lose_write": 0.2,
    "latch": 5.0,
    "end_pod": 0.2,
    "tick": 0.5,
    **dict.fromkeys(WRITES, 2.0),
}


@dataclass(frozen=True)
class Course:
    """What kind of course: how long, which actions only (empty: all), how likely some are."""

    steps: int = 250
    only: frozenset[str] = frozenset()
    weights: dict[str, float] = field(default_factory=dict)
    nodes: tuple[str, ...] = NODES

    def weigh(self, action: Action, fault_rate: float) -> float:
        name = action[0]
        if self.only and name not in self.only:
            return 0.0
        weight = self.weights.get(name, RARE.get(name, 1.0))
        if name in FAULTS:
            return weight * fault_rate
        if name in REPAIRS:
            return weight * 0.3
        return weight


ANYTHING = Course()

LATE_WRITES = Course(
    steps=120,
    only=frozenset(
        {
            *("cut", "mend", "lose", "meet", "copy"),
            *("loop", "fence", "deliver", "write3", "complete"),
        }
    ),
    weights={"cut": 3.0, "mend": 3.0, "deliver": 0.15},
)
"""The link comes and goes while writes of the record are slow."""


LOST_SITES = Course(
    steps=400,
    weights={
        **dict.fromkeys(WRITES, 0.4),
        **dict.fromkeys(("power", "continue", "mend", "operator_up"), 2.0),
        **dict.fromkeys(("start_agent", "api_up"), 6.0),
        **dict.fromkeys(("cut", "stop"), 2.0),
        **dict.fromkeys(("readdress", "rot", "break_disk"), 0.05),
        "loop": 2.0,
        "stage": 3.0,
        "deliver": 3.0,
        "sync": 2.0,
        "leases": 2.0,
        "report": 2.0,
        "act": 2.0,
        "tick": 1.5,
        "end_pod": 0.05,
        "delete": 0.02,
    },
)
"""Nodes, links and the API go and come back, often together: failover upon failover."""


MOVES = Course(
    steps=400,
    nodes=("a", "b", "c"),
    weights={
        **dict.fromkeys(WRITES, 0.4),
        **dict.fromkeys(("power", "continue", "mend", "operator_up"), 2.0),
        **dict.fromkeys(("start_agent", "api_up"), 6.0),
        **dict.fromkeys(("readdress", "rot", "break_disk"), 0.05),
        **dict.fromkeys(("loop", "stage", "deliver", "sync", "leases", "act", "hear"), 3.0),
        **dict.fromkeys(("evacuate", "say_gone"), 0.3),
        **dict.fromkeys(("stay", "unpair"), 0.1),
        **dict.fromkeys(("hold", "ask_verify"), 0.02),
        "pair": 0.5,
        "meet": 3.0,
        "copy": 2.0,
        "end_pod": 0.05,
    },
)
"""A third node: replicas are moved, taken away and added while all of that fails."""


MOVES_BACK = Course(
    steps=700,
    nodes=MOVES.nodes,
    weights={
        **MOVES.weights,
        **dict.fromkeys(WRITES, 0.6),
        **dict.fromkeys(("power_cut", "stop", "cut", "api_down"), 0.3),
        **dict.fromkeys(("say_gone", "kill_agent"), 3.0),
        **dict.fromkeys(("unpair", "stay", "end_pod", "latch", "touch"), 0.05),
        "evacuate": 0.6,
        "tick": 2.0,
        "start_agent": 1.0,
        "operator_down": 0.2,
    },
)
"""Nodes are given up while their kernels live on, and get a replica again later."""


def walk(seed: int, decisions: Decisions | None = None, course: Course = ANYTHING) -> World:
    """One course; ViolationError when an invariant breaks, also while healing at the end."""
    chance = random.Random(seed)
    ready = bool(course.only) or seed % 8 != 0
    world = World(decisions, ready=ready, nodes=course.nodes, manual=seed % 5 == 4)
    fault_rate = chance.choice((0.02, 0.05, 0.15))
    for _ in range(course.steps):
        actions = world.actions()
        weights = [course.weigh(action, fault_rate) for action in actions]
        world.do(chance.choices(actions, weights)[0])
    world.heal()
    return world


def find_violation(
    seeds: range,
    decisions: Decisions | None = None,
    course: Course = ANYTHING,
    kind: str = "",
) -> tuple[int, str] | None:
    """(seed, what broke) of the first course that breaks an invariant, or one of that kind."""
    for seed in seeds:
        try:
            walk(seed, decisions, course)
        except ViolationError as error:
            if kind in str(error):
                return seed, str(error)
    return None
