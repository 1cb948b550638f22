"""A node loses its power while PostgreSQL commits: every acknowledged patient is still there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from e2e import deploy
from e2e.hospital import Desk, Hospital
from e2e.lab.api import Lab
from e2e.leftovers import find_leftovers, wait_no_leftovers

pytestmark = pytest.mark.e2e

CUTS = 3
AWAY_SECONDS = 2.0


@pytest.fixture
def hospital(lab: Lab) -> Iterator[Hospital]:
    """The example hospital; removed afterwards with its volume, unless it ran before."""
    before = find_leftovers(lab)
    ran_before = "his" in lab.kubectl("get", "namespaces", "-o", "name").replace("/", " ").split()
    deploy.apply_example(lab, "his-postgresql.yaml")
    running = Hospital(lab)
    running.wait_ready()
    yield running
    for node in lab.nodes:
        if not node.is_running():
            node.start()
    if not ran_before:
        lab.kubectl(
            "delete",
            "namespace",
            "his",
            "--timeout=180s",
            "--ignore-not-found",
            timeout_seconds=200,
        )
        wait_no_leftovers(lab, before)


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
