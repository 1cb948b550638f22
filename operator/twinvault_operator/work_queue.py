"""Keys to reconcile: each at most once in the queue, each by one worker at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LEAST_BACKOFF_SECONDS = 0.1
MOST_BACKOFF_SECONDS = 10.0


@dataclass(frozen=True, order=True)
class Key:
    kind: str
    name: str


class WorkQueue:
    """Level-triggered: a key says "look at it again", never what happened.

    1. A key that is added while it is being worked on is worked on once more afterwards.
    2. A key with a failure behind it comes back after a delay that doubles.
    """

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_work = float("-inf")

    @property
    def depth(self) -> int:
        return len(self._ready) + len(self._active)

    def add(self, key: Key, delay_seconds: float = 0.0) -> None:
        """Now, or once after a delay; an earlier time wins over a later one."""
        if delay_seconds > 0:
            self._add_later(key, delay_seconds)
            return
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._idle.clear()
            self._wake.set()

    def _add_later(self, key: Key, delay_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if key in self._queued or (known and known.when() <= loop.time() + delay_seconds):
            return
        if known is not None:
            known.cancel()
        self._timers[key] = loop.call_later(delay_seconds, self.add, key)

    def clear(self) -> None:
        """Forget what is waiting: another process does it now."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._ready.clear()
        self._queued.clear()
        self._again.clear()
        self._failures.clear()
        self._tell_idle()

    async def wait_idle(self, timeout_seconds: float) -> None:
        """Until nothing is due, but not longer than that."""
        await self.wait_quiet(0.0, timeout_seconds)

    async def wait_quiet(self, quiet_seconds: float, timeout_seconds: float) -> None:
        """Until nothing was due for that long, but not longer than the timeout."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
                while (missing := self._last_work + quiet_seconds - time.monotonic()) > 0:
                    await asyncio.sleep(missing)
                    await self._idle.wait()
        except TimeoutError:
            return

    async def work(self, handle: Callable[[Key], Awaitable[bool]]) -> None:
        """One worker, until cancelled. ``handle`` answers whether it succeeded and never raises."""
        while True:
            while not self._ready:
                self._wake.clear()
                await self._wake.wait()
            key = self._ready.popleft()
            self._queued.discard(key)
            self._active.add(key)
            done = False
            try:
                done = await handle(key)
            finally:
                self._active.discard(key)
                self._finish(key, done)

    def _finish(self, key: Key, done: bool) -> None:
        again = key in self._again
        self._again.discard(key)
        if done:
            self._failures.pop(key, None)
            if again:
                self.add(key)
        else:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            delay = min(MOST_BACKOFF_SECONDS, LEAST_BACKOFF_SECONDS * 2 ** min(failures, 10))
            self.add(key, delay)
        self._tell_idle()

    def _tell_idle(self) -> None:
        if not self._ready and not self._active:
            self._idle.set()
            self._last_work = time.monotonic()
