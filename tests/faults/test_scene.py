"""Which objects a scene has."""

from __future__ import annotations

from e2e.faults.acknowledged import BLOCKS, ROWS
from e2e.faults.scene import plan_objects


def kinds(*services: str) -> set[tuple[str, str]]:
    objects = plan_objects("twinvault-metro", {"east-1": "10.79.0.1"}, services)
    return {(o["kind"], o["metadata"]["name"]) for o in objects}


def test_a_scene_has_only_what_its_services_need() -> None:
    shared = {("Namespace", "faults"), ("ConfigMap", "programs")}
    rows = {("Service", "database"), ("StatefulSet", "database"), ("DaemonSet", "desk")}
    blocks = {("StatefulSet", "blocks")}
    assert kinds(ROWS) == shared | rows
    assert kinds(BLOCKS) == shared | blocks
    assert kinds(ROWS, BLOCKS) == shared | rows | blocks


def test_everything_but_the_namespace_is_in_it() -> None:
    for one in plan_objects("twinvault-metro", {"east-1": "10.79.0.1"}):
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "faults"
