from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.root.rig import Rig

_CLONE_NEWNS = 0x20000
_PRIVATE = ctypes.c_ulong(1 << 18 | 1 << 14)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is marked root; without root, or loop devices, it is skipped and says so."""
    missing = ""
    if os.geteuid() != 0:
        missing = "needs root: loop devices and mounts are made"
    elif not Path("/dev/loop-control").exists():
        missing = "needs loop devices: /dev/loop-control is not there"
    for item in items:
        if Path(__file__).parent in Path(str(item.fspath)).parents:
            item.add_marker(pytest.mark.root)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session", autouse=True)
def own_mounts() -> None:
    """A mount namespace of our own: other processes that make one do not copy our mounts into it
    and keep them busy, and nothing stays mounted however the tests end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    try:
        yield made
    finally:
        made.close()
