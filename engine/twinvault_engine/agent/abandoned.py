"""Replicas in this node's kernel that no object speaks of any more: laid to rest, their data kept.

1. The node is cut off; its replica moves to another node, and a person says that this one is lost
   for good: the VolumeReplica goes without us.
2. The node was not dead: its kernel still has the replica, maybe frozen, maybe below a mount.
3. It comes back. The record does not name it, and nobody listens at its port, so it can neither
   write nor meet anybody; but its pods hang, and its data cannot be erased as an orphan.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

from twinvault_core.errors import InUseError, NotFoundError, TwinvaultError
from twinvault_core.ids import replica_name
from twinvault_core.model import Volume
from twinvault_kube.client import KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import VOLUME_REPLICAS, VOLUMES

from .node_view import NodeView
from .replication_storage import ReplicationStorage
from .requests import BY_VOLUME
from .storage import StorageThreads

logger = logging.getLogger(__name__)


class Abandoned:
    """``sweep`` may be called at any time, one call at a time."""

    def __init__(
        self,
        node: str,
        client: KubeClient,
        replicas: Informer,
        storage: ReplicationStorage,
        threads: StorageThreads,
        view: NodeView,
    ) -> None:
        self._node, self._client, self._replicas = node, client, replicas
        self._storage, self._threads, self._view = storage, threads, view

    async def sweep(self, volumes: Iterable[str]) -> None:
        """``volumes``: those that the kernel may have, by what lies on the disk."""
        if not self._replicas.synced or not self._view.looked:
            return
        for volume_id in volumes:
            if self._replicas.find(BY_VOLUME, volume_id):
                continue
            try:
                if not await self._is_spoken_of(volume_id):
                    work = partial(self._lay_to_rest, volume_id)
                    await self._threads.run("lay_to_rest", work)
            except TwinvaultError as error:
                logger.warning("what is left of %s here: %s", volume_id, error.message)

    async def _is_spoken_of(self, volume_id: str) -> bool:
        """Asked of the API server itself: the informer may be behind."""
        for kind, name in (
            (VOLUME_REPLICAS, replica_name(volume_id, self._node)),
            (VOLUMES, volume_id),
        ):
            try:
                found = await self._client.get(kind, name)
            except NotFoundError:
                continue
            if kind is VOLUME_REPLICAS:
                return True
            record = Volume.parse(found).record
            if record is not None and self._node in {record.primary, *record.in_sync}:
                return True
        return False

    def _lay_to_rest(self, volume_id: str) -> None:
        for pool in self._view.ready_pools():
            try:
                facts = self._storage.observe_replica(pool, volume_id)
            except NotFoundError:
                continue
            if facts.resource is not None and facts.resource.state.frozen:
                logger.warning("%s: given up: frozen I/O here ends in errors", volume_id)
                self._storage.fail_frozen_io(pool, volume_id)
            try:
                self._storage.remove_replica(pool, volume_id)
            except InUseError as error:
                logger.info("%s: given up, but %s", volume_id, error.message)
            else:
                logger.warning("%s: given up: its data is kept here as an orphan", volume_id)
