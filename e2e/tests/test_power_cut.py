"""A node loses its power while PostgreSQL commits: every acknowledged patient is still there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import yaml

from e2e import deploy
from e2e.hospital import Desk, Hospital
from e2e.lab.api import Lab
from e2e.workload import Namespace, Object

pytestmark = pytest.mark.e2e

CUTS = 3
AWAY_SECONDS = 2.0


def _example_in(namespace: str) -> list[Object]:
    """examples/his-postgresql.yaml, in a namespace beside the demo's."""
    text = (
        (deploy.EXAMPLES / "his-postgresql.yaml")
        .read_text()
        .replace(".his.svc", f".{namespace}.svc")
    )
    objects: list[Object] = list(yaml.safe_load_all(text))
    for obj in objects:
        if obj["kind"] != "Namespace":
            obj["metadata"]["namespace"] = namespace
    return [obj for obj in objects if obj["kind"] != "Namespace"]


@pytest.fixture
def hospital(lab: Lab, namespace: Namespace) -> Iterator[Hospital]:
    """The example hospital with one replica."""
    namespace.apply(*_example_in(namespace.name))
    running = Hospital(lab, "his", namespace.name)
    running.wait_ready()
    yield running
    for node in lab.nodes:
        if not node.is_running():
            node.start()


def test_every_acknowledged_patient_survives_power_cuts(lab: Lab, hospital: Hospital) -> None:
    home = hospital.node()
    elsewhere = "west" if home.startswith("east") else "east"
    desk = Desk(hospital, "night-desk", elsewhere)
    desk.close()
    desk.open()
    try:
        for _ in range(CUTS):
            known = len(desk.acknowledged())
            desk.wait_acknowledged(known + 100)
            lab.node(home).kill()
            promised = desk.acknowledged()
            time.sleep(AWAY_SECONDS)
            lab.node(home).start()
            desk.wait_acknowledged(len(promised) + 20, timeout_seconds=240)
            told = desk.check(promised)
            assert f"checked {len(promised)}, missing 0, changed 0" in told
        numbers = desk.acknowledged()
        assert numbers == sorted(set(numbers)), "a desk's numbers rise by one and repeat never"
        assert "missing 0, changed 0" in desk.check(numbers)
    finally:
        desk.close()
