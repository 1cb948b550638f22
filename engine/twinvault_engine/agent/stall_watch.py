"""Looks for replicated volumes whose I/O stands still without being frozen, and tells of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from ..drbd_kernel import observe_minors
from ..drbd_stall import Stalls
from ..drbd_state import ProcMinor
from .drbd_feed import DrbdFeed

LOOK_SECONDS = 3.0


class StallWatch:
    """``on_change`` hears all volumes that stand still now, when they are others than before."""

    def __init__(
        self,
        feed: DrbdFeed,
        on_change: Callable[[frozenset[str]], None],
        *,
        observe: Callable[[], Mapping[int, ProcMinor]] = observe_minors,
        look_seconds: float = LOOK_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed, self._on_change, self._observe = feed, on_change, observe
        self._look_seconds, self._now = look_seconds, now
        self._stalls = Stalls()
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Until cancelled. Reading /proc/drbd waits for nothing."""
        await self._feed.wait_wanted()
        while True:
            minors = self._stalls.look(self._observe(), self._now())
            volumes = frozenset(self._feed.volume_of_minor(minor) for minor in minors) - {""}
            if volumes != self._told:
                self._told = volumes
                self._on_change(volumes)
            await asyncio.sleep(self._look_seconds)
