from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from types import FrameType

import pytest

from tests.uml import kernels
from tests.uml.metro import Metro

TEST_SECONDS = 900
"""No test takes half of it; one that hangs says where and fails, and the next one begins."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A last deadline for whatever a test, its fixtures or the driver below wait for."""

    def give_up(_signal: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        raise TimeoutError(f"{item.nodeid} is not over after {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = ""
    if os.geteuid() != 0:
        missing = "needs root: kernels, taps and a network namespace are made"
    elif shutil.which("mmdebstrap") is None or shutil.which("gcc") is None:
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
