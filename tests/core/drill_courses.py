"""Drills from their beginning to their end in the world of ``drill_world``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.core.drill_world import START, World
from twinvault_core.drill_report import DRILL_SUCCEEDED
from twinvault_core.drill_state import format_time

DAILY = {"schedule": "0 2 * * *", "volumes": ["emr", "his"], "announceMinutes": 30}
NOW = {"runAt": format_time(START), "volumes": ["his"], "holdSeconds": 10}


def make(drill: dict[str, Any], **homes: str) -> World:
    world = World(drill)
    for name, node in (homes or {"his": "east-1", "emr": "east-1"}).items():
        world.add(name, node)
    return world


def run(world: World, seconds: float = 3600.0) -> None:
    """Kubernetes and the operator, by turns, until nothing is planned or under way."""
    end = world.now + timedelta(seconds=seconds)
    while world.now < end:
        slept = world.turn()
        world.let_it_run()
        if not world.status.get("drill") and world.status.get("lastDrill"):
            return
        world.pass_time(min(slept, 60.0) or 0.1)


def condition(world: World) -> dict[str, Any]:
    found = world.status.get("conditions") or ()
    return next((c for c in found if c["type"] == DRILL_SUCCEEDED), {})


def reasons(world: World) -> list[str]:
    return [tell.reason for tell in world.tells if tell.kind == "ReplicationPair"]


def last(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.status["lastDrill"]
    return found
