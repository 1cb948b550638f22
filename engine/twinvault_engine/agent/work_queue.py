"""A bounded number of workers over keys: each key once, never twice at a time, retried on its own.

The queue holds what to look at, never what to do: whoever handles a key reads the newest state.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

from twinvault_core.errors import TwinvaultError

logger = logging.getLogger(__name__)


class Subject(StrEnum):
    NODE = "node"
    REPLICA = "replica"
    SNAPSHOT = "snapshot"
    REPLICATION = "replication"


class Key(NamedTuple):
    subject: Subject
    name: str


Handler = Callable[[Key], Awaitable[float | None]]
"""Handles one key; the answer is after how many seconds to look again, None for "when told"."""


class WorkQueue:
    """``add`` may be called as often as one likes: a key waits at most once.

    A handler that raises is repeated after a delay that doubles for that key from
    ``least_seconds`` to ``most_seconds``. A key that is added while it is handled is handled once
    more. All methods belong to the event loop's thread.
    """

    def __init__(
        self,
        handle: Handler,
        *,
        workers: int = 16,
        least_seconds: float = 0.2,
        most_seconds: float = 60.0,
    ) -> None:
        self._handle = handle
        self._workers = workers
        self._least_seconds, self._most_seconds = least_seconds, most_seconds
        self._waiting: deque[Key] = deque()
        self._known: set[Key] = set()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Semaphore(0)

    @property
    def depth(self) -> int:
        """Keys that wait for a worker or are with one; delayed ones are not counted."""
        return len(self._waiting) + len(self._running)

    def add(self, key: Key) -> None:
        """Handle ``key`` as soon as a worker is free; a delay that it waits for is cut short."""
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._known:
            self._known.add(key)
            self._waiting.append(key)
            self._wake.release()

    def add_after(self, key: Key, seconds: float) -> None:
        """Handle ``key`` after ``seconds``, or when it is added before that."""
        if key in self._known or key in self._again:
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(seconds, self._ring, key)

    def forget(self, key: Key) -> None:
        """The subject is gone: no retry and no memory of its failures."""
        self._failures.pop(key, None)
        self._cancel_timer(key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for key in list(self._timers):
                self._cancel_timer(key)

    def _ring(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _work(self) -> None:
        while True:
            await self._wake.acquire()
            key = self._waiting.popleft()
            self._known.discard(key)
            self._running.add(key)
            try:
                await self._handle_one(key)
            finally:
                self._running.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _handle_one(self, key: Key) -> None:
        try:
            again_after = await self._handle(key)
        except TwinvaultError as error:
            delay = self._next_delay(key)
            logger.warning(
                "%s %s: %s; trying again in %.1f s", key.subject, key.name, error.message, delay
            )
        except Exception:
            delay = self._next_delay(key)
            logger.exception("%s %s; trying again in %.1f s", key.subject, key.name, delay)
        else:
            self._failures.pop(key, None)
            if again_after is None:
                return
            delay = again_after
        # An ordinary add while it ran comes first; then the delay would only repeat it.
        self.add_after(key, delay)

    def _next_delay(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return float(min(self._most_seconds, self._least_seconds * 2 ** min(failures, 30)))
