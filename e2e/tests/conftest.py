"""The lab with twinvault on it, a namespace a test, and a check that nothing is left over."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from e2e import deploy
from e2e.lab.api import Lab
from e2e.leftovers import find_leftovers, wait_no_leftovers
from e2e.workload import Namespace, remove_namespaces_of_earlier_runs


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The running lab; ``make e2e`` has brought it up."""
    running = Lab()
    deploy.install_chart(running)
    deploy.apply_example(running, "two-sites.yaml")
    deploy.wait_sites(running)
    remove_namespaces_of_earlier_runs(running)
    return running


@pytest.fixture
def namespace(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of the test's own; afterwards no volume, mount, device or file of it is left."""
    before = find_leftovers(lab)
    short = request.node.name.removeprefix("test_").replace("_", "-")[:50].rstrip("-")
    mine = Namespace(lab, f"t-{short}")
    mine.delete()
    mine.create()
    yield mine
    if os.environ.get("TWINVAULT_KEEP"):
        return
    mine.delete()
    wait_no_leftovers(lab, before)
