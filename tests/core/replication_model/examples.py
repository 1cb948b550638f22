"""Courses told step by step, for what chance reaches too seldom: a primary that stands still.

Each takes the decisions under test and raises ViolationError when they break an invariant.
"""

from __future__ import annotations

from .agent import Decisions
from .kernel import other
from .operator import EXPIRED_TICKS
from .world import World

ROUNDS = 40


def give_up_a_primary(decisions: Decisions) -> tuple[World, str, str]:
    """(world, who was primary and stands still, who is primary by the record now)."""
    world = World(decisions)
    old = world.api.record.primary
    new = other(old)
    world.do(("stop", old))
    world.do(("lose", new))
    for name in ("report", "report", "renew"):
        world.do((name, new))
    world.do(("leases", 0))
    for _ in range(EXPIRED_TICKS):
        world.do(("tick", 0))
    world.do(("renew", new))
    operate(world)
    assert world.api.record.primary == new
    return world, old, new


def operate(world: World) -> None:
    for name in ("leases", "sync", "act"):
        world.do((name, 0))
    deliver(world)


def deliver(world: World) -> None:
    while world.api.flight:
        world.do(("deliver", 0))


def serve(world: World, node: str) -> None:
    """The pod comes to the new primary."""
    operate(world)
    world.do(("schedule", node))
    for _ in range(ROUNDS):
        asked = world.drbd.kernels[node].question is not None
        world.do(("fence" if asked else "stage", node))
        deliver(world)
    assert world.app[node]


def wake(world: World, node: str) -> None:
    world.do(("cut", 0))
    world.do(("continue", node))
    world.do(("lose", node))


def work(world: World, node: str, name: str) -> None:
    for _ in range(ROUNDS):
        world.do((name, node))
        deliver(world)
        world.do(("kubelet", node))


def ask_after_the_other_serves(decisions: Decisions) -> None:
    """1. East stands still, west takes over and serves. 2. East goes on, and its kernel asks."""
    world, old, new = give_up_a_primary(decisions)
    serve(world, new)
    wake(world, old)
    work(world, old, "fence")
    world.heal()


def meet_after_frozen_io(decisions: Decisions) -> None:
    """1. East stands still and is given up. 2. It goes on, its frozen I/O ends, it lets go. 3. West
    serves. 4. The link is back.
    """
    world, old, new = give_up_a_primary(decisions)
    wake(world, old)
    operate(world)
    work(world, old, "loop")
    serve(world, new)
    world.do(("mend", 0))
    world.heal()


def let_go_after_the_other_serves(decisions: Decisions) -> None:
    """1. East stands still, west takes over and serves. 2. East goes on and must let go."""
    world, old, new = give_up_a_primary(decisions)
    serve(world, new)
    wake(world, old)
    world.heal()


def act_on_an_old_view(decisions: Decisions) -> None:
    """1. An operator sees that east was given up, and stands still. 2. East is back, and a pod that
    runs there made it primary again. 3. The operator goes on with what it saw.
    """
    world, old, _ = give_up_a_primary(decisions)
    world.do(("leases", 1))
    world.do(("sync", 1))
    for _ in range(EXPIRED_TICKS):
        world.do(("tick", 0))
    world.do(("leases", 1))
    world.do(("sync", 1))
    late = world.operators.pop()
    for _ in range(ROUNDS):
        world.heal()
        if world.api.record.primary == old and world.app[old]:
            break
        world.do(("end_pod", 0))
        world.drbd.next()
    assert world.api.record.primary == old
    world.operators.append(late)
    world.do(("act", 1))
