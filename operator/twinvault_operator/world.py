"""The operator's picture of the cluster, and the immutable views that plans are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinvault_core.actions import (
    REPLICATION_PAIR,
    SNAPSHOT,
    STORAGE_CLUSTER,
    STORAGE_NODE,
    VOLUME,
    VOLUME_REPLICA,
)
from twinvault_core.cluster_plan import ClusterView, KubeNode
from twinvault_core.ids import holder_label
from twinvault_core.model import (
    HolderState,
    Phase,
    ReplicationPair,
    Snapshot,
    StorageCluster,
    StorageNode,
    Volume,
    VolumeReplica,
)
from twinvault_core.pair_plan import PairView
from twinvault_core.placement import Candidate
from twinvault_core.snapshot_plan import SnapshotView
from twinvault_core.source_check import SourceView
from twinvault_core.volume_view import VolumeView, placed_nodes
from twinvault_kube import kinds

from .ledger import Ledger
from .liveness import AgentState, Liveness
from .store import Store

NODE = "Node"


def parse_kube_node(obj: Mapping[str, Any]) -> KubeNode:
    """What matters of a Kubernetes node: labels, and whether it is Ready."""
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
    meta = obj["metadata"]
    return KubeNode(meta["name"], dict(meta.get("labels") or {}), ready)


def _source_of(volume: Volume) -> tuple[str, ...]:
    source = volume.source
    if source.snapshot:
        return (f"{SNAPSHOT}/{source.snapshot}",)
    return (f"{VOLUME}/{source.volume}",) if source.volume else ()


class World:
    """Stores of all kinds; ``observe_`` methods take what one decision needs."""

    def __init__(self, liveness: Liveness) -> None:
        self.liveness = liveness
        self.ledger = Ledger()
        self.clusters = Store(kinds.STORAGE_CLUSTERS, StorageCluster.parse)
        self.storage_nodes = Store(
            kinds.STORAGE_NODES, StorageNode.parse, {"cluster": lambda n: (n.storage_cluster,)}
        )
        self.volumes = Store(
            kinds.VOLUMES,
            Volume.parse,
            {
                "source": _source_of,
                "pair": lambda v: (v.replication_pair,) if v.replication_pair else (),
            },
        )
        self.replicas = Store(
            kinds.VOLUME_REPLICAS,
            VolumeReplica.parse,
            {"volume": lambda r: (r.volume,), "node": lambda r: (r.node,)},
        )
        self.snapshots = Store(
            kinds.SNAPSHOTS,
            Snapshot.parse,
            {"volume": lambda s: (s.volume,), "node": lambda s: [h.node for h in s.holders]},
        )
        self.pairs = Store(kinds.REPLICATION_PAIRS, ReplicationPair.parse)
        self.nodes = Store(kinds.NODES, parse_kube_node)
        self.stores: Mapping[str, Store[Any]] = {
            STORAGE_CLUSTER: self.clusters,
            STORAGE_NODE: self.storage_nodes,
            VOLUME: self.volumes,
            VOLUME_REPLICA: self.replicas,
            SNAPSHOT: self.snapshots,
            REPLICATION_PAIR: self.pairs,
            NODE: self.nodes,
        }

    def node_names(self) -> list[str]:
        """Every node that has, or holds, something of ours."""
        names = set(self.storage_nodes.names())
        names.update(r.node for r in self.replicas.values())
        return sorted(names)

    def describe_silence(self, node: str) -> str:
        """Why nothing new is put on a node now; empty while its agent is alive."""
        state = self.liveness.state(node)
        if state is AgentState.SILENT:
            return f"its agent {self.liveness.describe_silence(node)}"
        if state is AgentState.UNKNOWN:
            known = self.nodes.get(node)
            if known is None or not known.ready:
                return "its agent has not been heard of yet and Kubernetes says NotReady"
        return ""

    def find_lost(self, nodes: set[str]) -> dict[str, str]:
        """Those of ``nodes`` whose agent is silent, with since when."""
        return {
            node: self.liveness.describe_silence(node)
            for node in nodes
            if self.liveness.state(node) is AgentState.SILENT
        }

    def candidates(self) -> tuple[Candidate, ...]:
        return tuple(self._candidate(node) for node in self.storage_nodes.values())

    def _candidate(self, node: StorageNode) -> Candidate:
        name = node.meta.name
        lost = self.liveness.state(name) is AgentState.SILENT
        return Candidate(node, self.ledger.use_of(name), self.describe_silence(name), lost)

    def observe_volume(self, name: str) -> VolumeView:
        volume = self.volumes.get(name)
        replicas = tuple(self.replicas.find("volume", name))
        lost = self.find_lost({r.node for r in replicas})
        if volume is None:
            return VolumeView(name, None, replicas, lost=lost)
        pair = self.pairs.get(volume.replication_pair) if volume.replication_pair else None
        return VolumeView(
            name=name,
            volume=volume,
            replicas=replicas,
            clusters={c.meta.name: c for c in self.clusters.values()},
            candidates=self._candidates_for(volume, replicas),
            source=self._observe_source(volume),
            pair=pair,
            lost=lost,
            readers=self._find_readers(name),
        )

    def _candidates_for(
        self, volume: Volume, replicas: tuple[VolumeReplica, ...]
    ) -> tuple[Candidate, ...]:
        """All nodes to place it, the node itself to grow it, none otherwise."""
        placed = placed_nodes(volume)
        if not placed:
            return self.candidates()
        if all(r.size_bytes >= volume.size_bytes for r in replicas) and replicas:
            return ()
        known = (self.storage_nodes.get(node) for node in placed)
        return tuple(self._candidate(node) for node in known if node is not None)

    def _observe_source(self, volume: Volume) -> SourceView:
        if volume.source.snapshot:
            return SourceView(snapshot=self.snapshots.get(volume.source.snapshot))
        name = volume.source.volume
        if not name:
            return SourceView()
        return SourceView(
            volume=self.volumes.get(name), replicas=tuple(self.replicas.find("volume", name))
        )

    def _find_readers(self, name: str) -> tuple[str, ...]:
        clones = (
            f"Volume {v.meta.name}"
            for v in self.volumes.find("source", f"{VOLUME}/{name}")
            if placed_nodes(v) and not v.status_size_bytes and not v.meta.deleting
            if v.phase is not Phase.FAILED
        )
        snapshots = (
            f"Snapshot {s.meta.name}"
            for s in self.snapshots.find("volume", name)
            if any(h.state is HolderState.PENDING for h in s.holders) and not s.meta.deleting
        )
        return (*clones, *snapshots)

    def observe_snapshot(self, name: str) -> SnapshotView | None:
        snapshot = self.snapshots.get(name)
        if snapshot is None:
            return None
        return SnapshotView(
            snapshot,
            self.volumes.get(snapshot.volume),
            tuple(self.replicas.find("volume", snapshot.volume)),
            self.find_lost({h.node for h in snapshot.holders}),
        )

    def observe_cluster(self, name: str) -> ClusterView | None:
        cluster = self.clusters.get(name)
        if cluster is None:
            return None
        return ClusterView(
            cluster,
            tuple(self.clusters.values()),
            tuple(self.nodes.values()),
            self.candidates(),
            {node: self._find_held(node) for node in self.storage_nodes.names()},
        )

    def _find_held(self, node: str) -> tuple[str, ...]:
        """Volumes and snapshots on a node, by name."""
        volumes = [r.volume for r in self.replicas.find("node", node)]
        label = holder_label(node)
        snapshots = [
            s.meta.name
            for s in self.snapshots.find("node", node)
            if label in s.meta.labels
            and any(h.node == node and h.state is not HolderState.ERASED for h in s.holders)
        ]
        return (*volumes, *snapshots)

    def observe_pair(self, name: str) -> PairView | None:
        pair = self.pairs.get(name)
        if pair is None:
            return None
        volumes = tuple(v.meta.name for v in self.volumes.find("pair", name))
        return PairView(pair, {c.meta.name: c for c in self.clusters.values()}, volumes)
