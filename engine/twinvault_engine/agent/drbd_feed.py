"""What DRBD does on this node, as it happens: one child process for all volumes, or none.

Nothing runs on a node that has no replicated volume.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from twinvault_core.errors import TwinvaultError
from twinvault_core.replication_state import DrbdState

from ..drbd_config import volume_of_resource
from ..drbd_events import DrbdEvents, OnChange
from ..drbd_state import Resource
from .replication_storage import ReplicationStorage
from .storage import StorageThreads

logger = logging.getLogger(__name__)

MODULE_SECONDS = 15.0
"""How long to wait until the missing module is tried again."""


class DrbdSource(Protocol):
    """``DrbdEvents``, or a stand-in for it."""

    async def run(self) -> None: ...


class DrbdFeed:
    """``on_change`` hears the id of each of our volumes whose state changed. Event loop only."""

    def __init__(
        self,
        storage: ReplicationStorage,
        threads: StorageThreads,
        on_change: Callable[[str], None],
        *,
        make_events: Callable[[OnChange], DrbdSource] = DrbdEvents,
    ) -> None:
        self._storage, self._threads, self._on_change = storage, threads, on_change
        self._make_events = make_events
        self._wanted = asyncio.Event()
        self._resources: dict[str, Resource] = {}
        self._frozen_at: dict[str, float] = {}

    @property
    def wanted(self) -> bool:
        return self._wanted.is_set()

    def want(self) -> None:
        """There is, or will be, a replicated volume here: begin to listen."""
        self._wanted.set()

    async def wait_wanted(self) -> None:
        await self._wanted.wait()

    def state(self, volume_id: str) -> DrbdState | None:
        """As last told; None when the kernel has no such resource, or before anything was told."""
        resource = self._resources.get(volume_id)
        return resource.state if resource else None

    def volume_of_minor(self, minor: int) -> str:
        """Which of our volumes has that device; empty for none."""
        return next((v for v, r in self._resources.items() if r.minor == minor), "")

    def is_frozen(self, volume_id: str) -> bool:
        return volume_id in self._frozen_at

    def frozen_seconds(self, volume_id: str) -> float:
        """For how long it has been seen frozen; 0 when it is not."""
        since = self._frozen_at.get(volume_id)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    async def run(self) -> None:
        """Listen from when it is wanted, until cancelled."""
        await self._wanted.wait()
        while True:
            try:
                version = await self._threads.run("ensure_drbd", self._storage.ensure_module)
                break
            except TwinvaultError as error:
                logger.warning("no replication: %s", error.message)
                await asyncio.sleep(MODULE_SECONDS)
        logger.info("following DRBD %s", version)
        await self._make_events(self._heard).run()

    def _heard(self, name: str, resource: Resource | None) -> None:
        volume_id = volume_of_resource(name)
        if not volume_id:
            return
        if resource is None:
            self._resources.pop(volume_id, None)
        else:
            self._resources[volume_id] = resource
        if resource is not None and resource.state.frozen:
            self._frozen_at.setdefault(volume_id, asyncio.get_running_loop().time())
        else:
            self._frozen_at.pop(volume_id, None)
        self._on_change(volume_id)
