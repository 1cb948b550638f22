"""Who works on which volume or snapshot: shared by the reconcilers and the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from twinvault_core.errors import BusyError


def volume_key(volume_id: str) -> str:
    return f"volume {volume_id}"


def record_key(volume_id: str) -> str:
    """For reading the replication record, deciding, and writing it: moments, never slow work."""
    return f"record of volume {volume_id}"


def snapshot_key(snapshot_id: str) -> str:
    return f"snapshot {snapshot_id}"


class VolumeLocks:
    """Takes several keys at once or none, so no order of taking can block two holders for ever."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}
        self._freed: dict[str, list[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def hold(
        self, keys: Iterable[str], doing: str, *, wait_seconds: float | None = None
    ) -> AsyncIterator[None]:
        """Hold ``keys`` inside the block; ``doing`` is what others are told about it.

        Waits at most ``wait_seconds`` (None: as long as it takes), then BusyError.
        """
        wanted = sorted(set(keys))
        await self._acquire(wanted, doing, wait_seconds)
        try:
            yield
        finally:
            for key in wanted:
                del self._held[key]
                for waiter in self._freed.pop(key, ()):
                    if not waiter.done():
                        waiter.set_result(None)

    async def _acquire(self, wanted: list[str], doing: str, wait_seconds: float | None) -> None:
        taken = ""
        try:
            async with asyncio.timeout(wait_seconds):
                while taken := next((key for key in wanted if key in self._held), ""):
                    waiter = asyncio.get_running_loop().create_future()
                    self._freed.setdefault(taken, []).append(waiter)
                    await waiter
                for key in wanted:
                    self._held[key] = doing
        except TimeoutError:
            raise BusyError(
                f"{taken} is busy: {self._held.get(taken, 'another call')}; try again"
            ) from None
