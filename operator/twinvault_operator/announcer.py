"""Kubernetes Events, written when nothing more urgent is to be done."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from twinvault_core.actions import POD, Tell
from twinvault_core.names import API_VERSION
from twinvault_kube.events import EventRecorder

from .metrics import Metrics

MAX_WAITING = 2000
REPEAT_SECONDS = 600.0
MAX_REMEMBERED = 4096


class Announcer:
    """A bounded queue: when it is full the oldest Event is dropped, and counted."""

    def __init__(
        self,
        recorder: EventRecorder,
        metrics: Metrics,
        *,
        pause: Callable[[], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorder, self._metrics, self._pause = recorder, metrics, pause
        self._monotonic = monotonic
        self._waiting: deque[Tell] = deque()
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def tell(self, event: Tell) -> None:
        """Queue it, unless the same was told a short while ago."""
        key = (event.meta.uid, event.reason, event.message)
        now = self._monotonic()
        if now - self._told.get(key, float("-inf")) < REPEAT_SECONDS:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self._metrics.events_dropped.inc()
        self._waiting.append(event)

    async def run(self) -> None:
        """Write them one by one until cancelled; ``pause`` waits for a quiet moment."""
        while True:
            await self._pause()
            if self._waiting:
                await self.write_one()

    async def write_one(self) -> None:
        event = self._waiting.popleft()
        obj = {
            "apiVersion": "v1" if event.kind == POD else API_VERSION,
            "kind": event.kind,
            "metadata": {
                "name": event.meta.name,
                "namespace": event.meta.namespace,
                "uid": event.meta.uid,
            },
        }
        self._metrics.events.labels(event.kind, event.reason).inc()
        await self._recorder.record(obj, event.reason, event.message, warning=event.warning)
