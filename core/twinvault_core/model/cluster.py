"""StorageCluster, StorageNode and ReplicationPair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .meta import Meta, Object, conditions_of
from .pool import PoolSpec, PoolStatus


@dataclass(frozen=True)
class StorageCluster:
    meta: Meta
    match_labels: Mapping[str, str]
    pools: tuple[PoolSpec, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: Object) -> StorageCluster:
        spec = obj["spec"]
        return cls(
            meta=Meta.parse(obj),
            match_labels=dict(spec["nodeSelector"]["matchLabels"]),
            pools=tuple(PoolSpec.parse(p) for p in spec["pools"]),
            spec=spec,
            status=obj.get("status") or {},
        )

    def pool(self, name: str) -> PoolSpec | None:
        return next((p for p in self.pools if p.name == name), None)

    def selects(self, node_labels: Mapping[str, str]) -> bool:
        """Whether a Kubernetes node with these labels belongs to this cluster."""
        return all(node_labels.get(k) == v for k, v in self.match_labels.items())


@dataclass(frozen=True)
class NodeReplication:
    """What a node's agent says of replication there.

    ``message`` says what is missing and what to install while it is not ``available``. ``address``:
    where the other site reaches it unless the pair names a network; ``addresses`` are all
    (interface, address) pairs that the node has.
    """

    available: bool = False
    message: str = ""
    address: str = ""
    addresses: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> NodeReplication:
        raw = raw or {}
        return cls(
            available=bool(raw.get("available")),
            message=raw.get("message") or "",
            address=raw.get("address") or "",
            addresses=tuple(
                (str(a.get("interface") or ""), str(a["address"]))
                for a in raw.get("addresses") or ()
            ),
        )


@dataclass(frozen=True)
class StorageNode:
    """One node's pools; ``meta.name`` is the name of the Kubernetes node."""

    meta: Meta
    storage_cluster: str
    pools: tuple[PoolSpec, ...]
    erase_orphans: tuple[str, ...] = ()
    evacuate: bool = False
    lost_for_good: bool = False
    """A person typed the node's name: it will never come back."""
    orphans: tuple[str, ...] = ()
    """Ids of left-over data that its agent found."""
    pool_status: tuple[PoolStatus, ...] = ()
    max_volumes: int = 0
    replication: NodeReplication = NodeReplication()
    observed_generation: int = 0
    conditions: tuple[Mapping[str, Any], ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: Object) -> StorageNode:
        spec, status = obj["spec"], obj.get("status") or {}
        return cls(
            meta=Meta.parse(obj),
            storage_cluster=spec["storageCluster"],
            pools=tuple(PoolSpec.parse(p) for p in spec.get("pools") or ()),
            erase_orphans=tuple(spec.get("eraseOrphans") or ()),
            evacuate=bool(spec.get("evacuate")),
            lost_for_good=bool(spec.get("lost")) and spec["lost"] == obj["metadata"]["name"],
            orphans=tuple(str(o["volume"]) for o in status.get("orphans") or ()),
            pool_status=tuple(PoolStatus.parse(p) for p in status.get("pools") or ()),
            max_volumes=status.get("maxVolumes") or 0,
            replication=NodeReplication.parse(status.get("replication")),
            observed_generation=status.get("observedGeneration") or 0,
            conditions=conditions_of(obj),
            spec=spec,
            status=status,
        )

    @property
    def is_leaving(self) -> bool:
        """Nothing new is put here, and replicas that can be elsewhere go there."""
        return self.evacuate or self.lost_for_good

    def pool(self, name: str) -> PoolSpec | None:
        return next((p for p in self.pools if p.name == name), None)

    def pool_state(self, name: str) -> PoolStatus | None:
        return next((p for p in self.pool_status if p.name == name), None)


@dataclass(frozen=True)
class ReplicationPair:
    meta: Meta
    clusters: tuple[str, ...]
    mode: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, obj: Object) -> ReplicationPair:
        spec = obj["spec"]
        return cls(
            meta=Meta.parse(obj),
            clusters=tuple(spec["clusters"]),
            mode=spec["mode"],
            spec=spec,
            status=obj.get("status") or {},
        )
