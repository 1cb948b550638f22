"""A short seeded series of faults; `make faults` runs as many as one likes."""

from __future__ import annotations

import os

import pytest

from e2e.deploy import get_json
from e2e.faults.__main__ import parse_options, run_all
from e2e.lab.api import Lab

pytestmark = pytest.mark.e2e

# These three: power cut of the primary's site, of its node, and the link.
SEED = os.environ.get("TWINVAULT_FAULT_SEED", "3039")
RUNS = os.environ.get("TWINVAULT_FAULT_RUNS", "3")
METRO = "twinvault-metro"


def test_nothing_acknowledged_is_lost_whatever_fails(lab: Lab) -> None:
    if RUNS == "0":
        pytest.skip("TWINVAULT_FAULT_RUNS is 0")
    classes = {c["metadata"]["name"] for c in get_json(lab, "storageclasses")["items"]}
    if METRO not in classes:
        pytest.skip(f"class {METRO} is not enabled in this chart")
    options = parse_options(
        ["--seed", SEED, "--runs", RUNS, "--storage-class", METRO, "--no-deploy"]
    )
    assert run_all(lab, options) == 0
