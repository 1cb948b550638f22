"""The return of an old primary, its agent ended at each step of it: the next agent goes on."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.metro_world import WEST, MetroWorld
from twinvault_engine import steps

KILLS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 28)


class Killer:
    """Rings at the n-th step."""

    def __init__(self, number: int) -> None:
        self._number, self._count = number, 0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self.rung = asyncio.Event()

    def __call__(self, name: str) -> None:
        with self._lock:
            self._count += 1
            if self._count == self._number:
                self._loop.call_soon_threadsafe(self.rung.set)


@pytest.fixture
def metro() -> Iterator[MetroWorld]:
    with tempfile.TemporaryDirectory(prefix="tv-") as directory:
        try:
            yield MetroWorld(Path(directory))
        finally:
            steps.install(None)


@pytest.mark.parametrize("number", KILLS)
async def test_an_old_primary_returns_whenever_its_agent_ends(
    metro: MetroWorld, number: int
) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.east.stage()
            metro.pair.write("east-1")
            metro.east.wire.cut = True
            metro.pair.cut()
            await metro.until(lambda: metro.pair.kernel("east-1").frozen, "the freeze")
            await metro.fail_over(WEST)
            await metro.west.stage()
            assert metro.pair.acknowledges(WEST)
            killer = Killer(number)
            steps.install(killer)
            metro.east.wire.cut = False
            metro.pair.heal()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await killer.rung.wait()
        steps.install(None)
        async with metro.east.running():
            await metro.until_in_sync()
            assert metro.pair.images_are_equal()
            assert metro.record.primary == WEST
            late = [a for a in metro.pair.acknowledged if a[0] == "a" and a[2]]
            assert late == []
