"""The operator's picture of the cluster, and the immutable views that plans are made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from twinvault_core.actions import (
    NODE,
    REPLICATION_PAIR,
    SNAPSHOT,
    STORAGE_CLUSTER,
    STORAGE_NODE,
    VOLUME,
    VOLUME_REPLICA,
)
from twinvault_core.cluster_plan import ClusterView, KubeNode
from twinvault_core.failover_phases import is_unknown, parse_moment
from twinvault_core.failover_view import NodeEvidence
from twinvault_core.ids import holder_label
from twinvault_core.member_plan import Change, find_change
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
from twinvault_core.names import (
    ANNOTATION_LOST,
    LABEL_REPLICA_PREFIX,
    TAINT_LOST,
    TAINT_OUT_OF_SERVICE,
    TAINT_RESYNCING,
    TAINT_VALUE,
)
from twinvault_core.numbers import number_of, number_of_port, numbers_of
from twinvault_core.pair_plan import PairView
from twinvault_core.pair_volume import PairVolume
from twinvault_core.placement import Candidate
from twinvault_core.replicated_plan import rescue_name
from twinvault_core.replication_network import find_address
from twinvault_core.snapshot_plan import SnapshotView
from twinvault_core.source_check import SourceView
from twinvault_core.volume_view import VolumeView, placed_nodes
from twinvault_kube import kinds

from .attachments import Attachments
from .ledger import Ledger
from .liveness import AgentState, Liveness
from .numbers import Numbers
from .store import Store

LEASE_SECONDS = 4.0
"""Of a pair that does not say."""
_OUR_TAINTS = (TAINT_LOST, TAINT_OUT_OF_SERVICE, TAINT_RESYNCING)


def parse_kube_node(obj: Mapping[str, Any]) -> KubeNode:
    """What matters of a Kubernetes node: labels, whether it is Ready, address, taints."""
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    conditions, taints = status.get("conditions") or (), spec.get("taints") or ()
    addresses = status.get("addresses") or ()
    meta = obj["metadata"]
    resyncing = [t for t in taints if is_our_taint(t) and t["key"] == TAINT_RESYNCING]
    return KubeNode(
        meta["name"],
        dict(meta.get("labels") or {}),
        ready=any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions),
        internal_ip=next((a["address"] for a in addresses if a.get("type") == "InternalIP"), ""),
        taints=frozenset(
            str(t.get("effect") or "")
            for t in taints
            if is_our_taint(t) and t["key"] == TAINT_OUT_OF_SERVICE
        ),
        unschedulable=bool(spec.get("unschedulable")),
        every_taint=tuple(
            (str(t["key"]), str(t.get("value") or ""), str(t.get("effect") or "")) for t in taints
        ),
        resyncing=frozenset(str(t.get("effect") or "") for t in resyncing),
        resyncing_since=min((str(t.get("timeAdded") or "") for t in resyncing), default=""),
    )


def is_our_taint(taint: Mapping[str, Any]) -> bool:
    """Whether the operator put this taint on a node; others' of the same key stay."""
    return taint.get("key") in _OUR_TAINTS and taint.get("value") == TAINT_VALUE


def _source_of(volume: Volume) -> tuple[str, ...]:
    source = volume.source
    if source.snapshot:
        return (f"{SNAPSHOT}/{source.snapshot}",)
    return (f"{VOLUME}/{source.volume}",) if source.volume else ()


class World:
    """Stores of all kinds; ``observe_`` methods take what one decision needs."""

    def __init__(self, liveness: Liveness, wall: Callable[[], float] = time.time) -> None:
        self.liveness, self.wall = liveness, wall
        self.ledger = Ledger()
        self.numbers = Numbers()
        self.failover_waits: dict[str, str] = {}
        """Why the loss of a volume's primary was not answered yet, by volume."""
        self.failover_stuck: dict[tuple[str, str], str] = {}
        """Which step of a failover fails again and again, by volume and node."""
        self.pair_news: dict[str, dict[str, Any]] = {}
        """What failovers add to the status of a ReplicationPair, by its name."""
        self.attachments = Attachments()
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
        silence = self.describe_silence(name)
        return Candidate(node, self.ledger.use_of(name), silence, lost, self._internal_ip(name))

    def _internal_ip(self, node: str) -> str:
        known = self.nodes.get(node)
        return known.internal_ip if known is not None else ""

    def _find_addresses(self, pair: ReplicationPair, nodes: tuple[str, ...]) -> dict[str, str]:
        """In the replication network, of those of ``nodes`` that have one now."""
        found = {}
        for name in nodes:
            node = self.storage_nodes.get(name)
            address = find_address(pair, node, self._internal_ip(name)) if node else ""
            if address:
                found[name] = address
        return found

    def _choose_free_number(self) -> int | None:
        """Beside the claims, what volumes and replicas say counts too: a claim may be removed."""
        used = {n for v in self.volumes.values() for n in numbers_of(v.device)}
        for replica in self.replicas.values():
            spec = replica.replication
            if spec is not None:
                used |= {number_of(spec.minor), number_of_port(spec.port)}
        return self.numbers.choose_free(used)

    def observe_volume(self, name: str) -> VolumeView:
        volume = self.volumes.get(name)
        replicas = tuple(self.replicas.find("volume", name))
        placed = set(placed_nodes(volume)) if volume is not None else set()
        lost = self.find_lost({r.node for r in replicas} | placed)
        claims = self.numbers.find(name)
        label = LABEL_REPLICA_PREFIX + name
        labelled = frozenset(n.name for n in self.nodes.values() if label in n.labels)
        if volume is None:
            known: dict[str, Any] = {"lost": lost, "claims": claims, "labelled": labelled}
            return VolumeView(name, None, replicas, **known)
        pair = self.pairs.get(volume.replication_pair) if volume.replication_pair else None
        leaving = frozenset(n for n in placed if self._has(n, lambda node: node.is_leaving))
        changes = find_change(volume, leaving) is not Change.NONE
        number = pair is not None and (changes or volume.device is None)
        return VolumeView(
            name=name,
            volume=volume,
            replicas=replicas,
            clusters={c.meta.name: c for c in self.clusters.values()},
            candidates=self.candidates() if changes else self._candidates_for(volume, replicas),
            source=self._observe_source(volume),
            pair=pair,
            lost=lost,
            readers=self._find_readers(name),
            addresses=self._find_addresses(pair, placed_nodes(volume)) if pair else {},
            claims=claims,
            free_number=self._choose_free_number() if number else None,
            failover=self.failover_waits.get(name, ""),
            stuck=next(
                (t for n in sorted(placed) if (t := self.failover_stuck.get((name, n)))), ""
            ),
            nodes={n: self.observe_node(n) for n in placed} if pair or len(placed) > 1 else {},
            rescue=self._find_rescue(volume),
            leaving=leaving,
            labelled=labelled,
            gone=frozenset(
                r.node for r in replicas if self._has(r.node, lambda node: node.lost_for_good)
            ),
        )

    def _has(self, node: str, what: Callable[[StorageNode], bool]) -> bool:
        known = self.storage_nodes.get(node)
        return known is not None and what(known)

    def _find_rescue(self, volume: Volume) -> str:
        """The Snapshot that was taken before a forced promotion, once it is ready."""
        if volume.force_primary is None:
            return ""
        snapshot = self.snapshots.get(rescue_name(volume))
        return snapshot.meta.name if snapshot is not None and snapshot.ready_to_use else ""

    def lease_seconds(self, node: str) -> float:
        """How long the node may be silent before it counts as lost: the least of its pairs'."""
        known = self.storage_nodes.get(node)
        site = known.storage_cluster if known is not None else ""
        found = [
            float((p.spec.get("failover") or {}).get("leaseDurationSeconds") or LEASE_SECONDS)
            for p in self.pairs.values()
            if site in p.clusters
        ]
        return min(found, default=LEASE_SECONDS)

    def observe_node(self, node: str) -> NodeEvidence:
        """One node as this process has watched it."""
        known, kube = self.storage_nodes.get(node), self.nodes.get(node)
        seconds, liveness = self.lease_seconds(node), self.liveness
        return NodeEvidence(
            name=node,
            storage_cluster=known.storage_cluster if known is not None else "",
            expired=liveness.is_expired(node, seconds),
            silent_seconds=liveness.silent_seconds(node),
            well_seconds=liveness.well_seconds(node, seconds),
            marked=known is not None and ANNOTATION_LOST in known.meta.annotations,
            taints=kube.taints if kube is not None else frozenset(),
            resyncing=kube.resyncing if kube is not None else frozenset(),
            resyncing_seconds=self._find_age(kube.resyncing_since) if kube is not None else 0.0,
        )

    def _find_age(self, since: str) -> float:
        """Seconds since then, as far as the clocks of two operators agree; nothing safe hangs on
        it. What nobody dated is old.
        """
        moment = parse_moment(since)
        return float("inf") if is_unknown(moment) else self.wall() - moment

    def _candidates_for(
        self, volume: Volume, replicas: tuple[VolumeReplica, ...]
    ) -> tuple[Candidate, ...]:
        """All nodes to place it, its own to make a replica there or to grow, none otherwise."""
        placed = placed_nodes(volume)
        if not placed:
            return self.candidates()
        unmade = set(placed) - {r.node for r in replicas}
        if all(r.size_bytes >= volume.size_bytes for r in replicas) and not unmade:
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
        clusters = {c.meta.name: c for c in self.clusters.values()}
        nodes = tuple(
            self._candidate(node)
            for site in pair.clusters
            for node in self.storage_nodes.find("cluster", site)
        )
        volumes = tuple(self.volumes.find("pair", name))
        upkeep = tuple(self._observe_upkeep(volume) for volume in volumes)
        return PairView(pair, clusters, volumes, nodes, upkeep, self.pair_news.get(name, {}))

    def _observe_upkeep(self, volume: Volume) -> PairVolume:
        """What is done to the volumes of a pair in turn looks at this."""
        name, uid = volume.meta.name, volume.meta.uid
        members = placed_nodes(volume)
        found = (r for r in self.replicas.find("volume", name) if r.volume_uid == uid)
        replicas = tuple(r for r in found if r.node in members)
        snapshotting = any(
            h.state is HolderState.PENDING
            for s in self.snapshots.find("volume", name)
            for h in s.holders
        )
        lost = self.find_lost({r.node for r in replicas})
        return PairVolume(volume, replicas, lost, snapshotting)
