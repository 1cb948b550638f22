"""Events written in the background, so that telling never delays doing."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from twinvault_kube.client import Json
from twinvault_kube.events import EventRecorder

logger = logging.getLogger(__name__)

MAX_WAITING = 500


@dataclass(frozen=True)
class Note:
    """One Event to be: the object it is about, why, and what a person should read."""

    obj: Json
    reason: str
    message: str
    warning: bool = False


class EventQueue:
    """``tell`` returns at once; the oldest note is dropped when too many wait."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._waiting: deque[Note] = deque()
        self._wake = asyncio.Event()

    def tell(self, obj: Json, reason: str, message: str, *, warning: bool = False) -> None:
        if len(self._waiting) >= MAX_WAITING:
            dropped = self._waiting.popleft()
            logger.warning("event %s dropped: too many wait", dropped.reason)
        self._waiting.append(Note(obj, reason, message, warning))
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. One at a time: Events give way to statuses."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                note = self._waiting.popleft()
                await self._recorder.record(
                    note.obj, note.reason, note.message, warning=note.warning
                )
