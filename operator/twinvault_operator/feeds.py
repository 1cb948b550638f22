"""Lists and watches for the kinds that change most and that nobody handles as an object of its own.

VolumeReplicas, StorageNodes and Nodes only lead to other objects being looked at again, so they
go straight into their stores; kopf would start a task for each object and build its causes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from twinvault_core.errors import NotFoundError, TwinvaultError, UnavailableError
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ExpiredError
from twinvault_kube.informer import Backoff

from .store import Store

logger = logging.getLogger(__name__)


class Feed:
    """Keeps one store current. Unlike an Informer it keeps no copy of the raw objects."""

    def __init__(self, client: KubeClient, store: Store[Any]) -> None:
        self._client, self._store = client, store
        self._version = ""
        self._synced = asyncio.Event()

    async def wait_synced(self) -> None:
        """Until the first list is in the store; ``run`` logs what keeps it from coming."""
        await self._synced.wait()

    async def run(self) -> None:
        """List and watch until cancelled; every failure is logged once and retried."""
        backoff, plural = Backoff(), self._store.kind.plural
        while True:
            try:
                if not self._version:
                    await self._list()
                    backoff.reset()
                await self._watch(backoff)
            except ExpiredError:
                self._version = ""
            except (UnavailableError, NotFoundError) as error:
                delay = backoff.next_seconds()
                logger.warning("%s: %s; trying again in %.1f s", plural, error.message, delay)
                await asyncio.sleep(delay)
            except TwinvaultError as error:
                self._version = ""
                logger.error("%s: %s; listing again", plural, error.message)
                await asyncio.sleep(backoff.next_seconds())

    async def _list(self) -> None:
        """What vanished while nothing was watched is gone from the store afterwards."""
        items, version = await self._client.list(self._store.kind)
        self._store.replace_all(items, version)
        self._version = version
        self._synced.set()

    async def _watch(self, backoff: Backoff) -> None:
        async for event, obj in self._client.watch(self._store.kind, self._version):
            if event == "DELETED":
                self._store.removed(obj)
            elif event != "BOOKMARK":
                self._store.put(obj)
            self._version = obj["metadata"]["resourceVersion"]
            backoff.reset()
