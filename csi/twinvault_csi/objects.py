"""What the controller knows of the cluster: informers first, the API server where they miss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twinvault_core.errors import NotFoundError, UnavailableError
from twinvault_core.ids import is_valid_id
from twinvault_core.model import (
    ReplicationPair,
    Snapshot,
    StorageCluster,
    StorageNode,
    Volume,
)
from twinvault_kube.client import KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import (
    REPLICATION_PAIRS,
    SNAPSHOTS,
    STORAGE_CLUSTERS,
    STORAGE_NODES,
    VOLUMES,
    Kind,
)

from .topology import Clusters

Json = dict[str, Any]
Done = Callable[[Json | None], bool]
"""Whether an object (None: it is gone) is what a call waits for; may raise to end the wait."""


@dataclass(frozen=True)
class Objects:
    """Local copies of the kinds that CSI speaks about, and the client that writes them."""

    client: KubeClient
    volumes: Informer
    snapshots: Informer
    clusters: Informer
    nodes: Informer
    pairs: Informer

    @classmethod
    def watching(cls, client: KubeClient) -> Objects:
        return cls(
            client=client,
            volumes=Informer(client, VOLUMES, index={"publishedTo": _published_to}),
            snapshots=Informer(client, SNAPSHOTS, index={"volume": _source_volume}),
            clusters=Informer(client, STORAGE_CLUSTERS),
            nodes=Informer(client, STORAGE_NODES),
            pairs=Informer(client, REPLICATION_PAIRS),
        )

    @property
    def informers(self) -> tuple[Informer, ...]:
        return (self.volumes, self.snapshots, self.clusters, self.nodes, self.pairs)

    @property
    def synced(self) -> bool:
        return all(informer.synced for informer in self.informers)

    def require_synced(self) -> None:
        """UnavailableError until every kind was listed once."""
        if not self.synced:
            raise UnavailableError(
                "the controller has not read the cluster's objects yet; if this lasts, check the"
                " API server, the CRDs and the controller's role"
            )

    def known_volume(self, volume_id: str) -> Volume | None:
        """From the local copy alone; None says only that it is not known here."""
        obj = self.volumes.store.get(volume_id)
        return None if obj is None else Volume.parse(obj)

    def known_snapshot(self, snapshot_id: str) -> Snapshot | None:
        """From the local copy alone, as ``known_volume``."""
        obj = self.snapshots.store.get(snapshot_id)
        return None if obj is None else Snapshot.parse(obj)

    async def find_volume(self, volume_id: str) -> Volume | None:
        obj = await self._find(self.volumes, VOLUMES, volume_id)
        return None if obj is None else Volume.parse(obj)

    async def find_snapshot(self, snapshot_id: str) -> Snapshot | None:
        obj = await self._find(self.snapshots, SNAPSHOTS, snapshot_id)
        return None if obj is None else Snapshot.parse(obj)

    async def find_node(self, name: str) -> StorageNode | None:
        obj = await self._find(self.nodes, STORAGE_NODES, name)
        return None if obj is None else StorageNode.parse(obj)

    async def read_volume(self, volume_id: str) -> Volume | None:
        """From the API server, whatever is known here: for answers that say "nothing to do"."""
        try:
            obj = await self.client.get(VOLUMES, volume_id)
        except NotFoundError:
            return None
        self.volumes.saw(obj)
        return Volume.parse(obj)

    async def require_volume(self, volume_id: str) -> Volume:
        volume = await self.find_volume(volume_id)
        if volume is None:
            raise NotFoundError(f"volume {volume_id!r} does not exist")
        return volume

    async def _find(self, informer: Informer, kind: Kind, name: str) -> Json | None:
        """The store may lag behind what another controller wrote: "missing" is asked for again."""
        known = informer.store.get(name)
        if known is not None:
            return known
        if kind is not STORAGE_NODES and not is_valid_id(name):
            return None
        try:
            obj = await self.client.get(kind, name)
        except NotFoundError:
            return None
        informer.saw(obj)
        return obj

    def node_clusters(self) -> Clusters:
        """StorageCluster by name of the node, of every node that stores data."""
        return {name: obj["spec"]["storageCluster"] for name, obj in self.nodes.store.items()}

    def find_pair(self, name: str) -> ReplicationPair | None:
        obj = self.pairs.store.get(name)
        return None if obj is None else ReplicationPair.parse(obj)

    def all_clusters(self) -> list[StorageCluster]:
        return [StorageCluster.parse(obj) for _, obj in sorted(self.clusters.store.items())]

    def pool_names(self) -> list[str]:
        return sorted({pool.name for cluster in self.all_clusters() for pool in cluster.pools})


def _published_to(obj: Json) -> str:
    return next(iter(obj["spec"].get("publishedTo") or ()), "")


def _source_volume(obj: Json) -> str:
    return str(obj["spec"]["volume"])
