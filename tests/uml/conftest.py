from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.uml import kernels
from tests.uml.metro import Metro


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = ""
    if os.geteuid() != 0:
        missing = "needs root: kernels, taps and a network namespace are made"
    elif shutil.which("mmdebstrap") is None:
        missing = "needs the packages of `make host`"
    for item in items:
        if missing and "tests/uml/" in str(item.fspath):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="module")
def metro() -> Iterator[Metro]:
    """Two kernels for all tests of a module: each has volumes of its own and heals the link. There
    is one pair of kernels at a time.
    """
    with kernels.running() as running:
        made = Metro(running)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def faulty() -> Iterator[Metro]:
    """Two kernels of a test's own: their disks may fail and their power be cut."""
    with kernels.running() as running:
        made = Metro(running)
        try:
            yield made
        finally:
            made.close()
