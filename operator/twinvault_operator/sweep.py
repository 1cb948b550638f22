"""Lists of everything: at the start, after kopf listed anew, and once in a while.

A watch that starts again from a list does not tell what vanished in between. So each list that
kopf makes is followed by one of ours, which knows what is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from twinvault_core.errors import TwinvaultError
from twinvault_kube.client import KubeClient
from twinvault_kube.informer import Backoff

from .store import Store

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 1.0


class Sweeper:
    """Keeps the stores free of objects whose deletion nobody told us."""

    def __init__(
        self, client: KubeClient, stores: Mapping[str, Store[Any]], every_seconds: float
    ) -> None:
        self._client, self._stores, self._every_seconds = client, stores, every_seconds
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()

    def ask(self, kind: str) -> None:
        """kopf has listed ``kind``: list it too."""
        self._wanted.add(kind)
        self._wake.set()

    async def fill(self) -> None:
        """A list of every kind; tries until the API server and the CRDs are there."""
        backoff = Backoff()
        for kind in self._stores:
            while True:
                try:
                    await self._list(kind)
                    break
                except TwinvaultError as error:
                    logger.warning(
                        "cannot list %s yet: %s. Are the CRDs and roles of the chart installed?",
                        self._stores[kind].kind.plural,
                        error.message,
                    )
                    await asyncio.sleep(backoff.next_seconds())

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._wake.wait()
            except TimeoutError:
                self._wanted.update(self._stores)
            await asyncio.sleep(SETTLE_SECONDS)
            self._wake.clear()
            for kind in sorted(self._wanted):
                await self._sweep(kind)

    async def _sweep(self, kind: str) -> None:
        self._wanted.discard(kind)
        try:
            await self._list(kind)
        except TwinvaultError as error:
            logger.warning("cannot list %s: %s", kind, error.message)
            self.ask(kind)

    async def _list(self, kind: str) -> None:
        store = self._stores[kind]
        items, version = await self._client.list(store.kind)
        store.replace_all(items, version)
