"""What a decision about drills looks at, and the steps that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .actions import Tell
from .cluster_plan import KubeNode
from .failover_view import NodeEvidence, Policy, VolumeEvidence
from .model import ReplicationPair


@dataclass(frozen=True)
class DrillPod:
    """A pod that has not ended. ``node`` is empty while it is not scheduled.

    ``controller``: kind of the object that makes another one in its place; empty: nobody does.
    ``volumes``: of ours; ``foreign``: claims on volumes of other drivers; ``ephemeral``: volumes of
    ours that are deleted with the pod. ``deleting_since``: when its end was asked for, as the API
    server says (whole seconds). ``placement``: its spec, for tolerations, selector and affinity.
    """

    namespace: str
    name: str
    uid: str
    node: str = ""
    controller: str = ""
    volumes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    ephemeral: tuple[str, ...] = ()
    ready: bool = False
    deleting: bool = False
    deleting_since: datetime | None = None
    placement: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class DrillUsers:
    """Who uses the chosen volumes, as the API server said just now.

    ``claims``: namespace/name of the claim of each volume that has one.
    """

    pods: tuple[DrillPod, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)

    def of(self, volume: str) -> tuple[DrillPod, ...]:
        return tuple(p for p in self.pods if volume in p.volumes)


@dataclass(frozen=True)
class DrillView:
    """One pair at one moment. ``now`` is in UTC. ``by_claim``: the pair's volumes by the
    namespace/name of the claim that they were made for.

    ``volumes``: the chosen ones, and those of a drill under way, that exist. ``kube_nodes``: the
    nodes of Kubernetes; ``closed``: those that have our drill taint. ``users`` None: not asked for
    yet. ``users_problem``: they were asked for and the API server did not answer. ``snapshots``:
    volumes of which a snapshot is being taken. ``others``: pairs with a drill under way.
    ``evictions``: when this process evicted a pod, by UID; ``tried``: when it last asked to;
    ``blocked``: what the API server answered instead.
    """

    pair: ReplicationPair
    now: datetime
    policy: Policy = Policy.AUTOMATIC
    by_claim: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, VolumeEvidence] = field(default_factory=dict)
    nodes: Mapping[str, NodeEvidence] = field(default_factory=dict)
    kube_nodes: Mapping[str, KubeNode] = field(default_factory=dict)
    closed: frozenset[str] = frozenset()
    users: DrillUsers | None = None
    users_problem: str = ""
    snapshots: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    evictions: Mapping[str, datetime] = field(default_factory=dict)
    tried: Mapping[str, datetime] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """List who uses these volumes, then ask again. ``claims``: known already, by volume; a volume
    that is not among them is looked for in the PersistentVolumes.
    """

    volumes: tuple[str, ...]
    claims: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Remember:
    """Merge ``status`` into the pair's, by compare-and-swap on what the view had; then tell.

    ``ended``: the result of a drill that ends by this write.
    """

    status: Mapping[str, Any]
    tells: tuple[Tell, ...] = ()
    ended: str = ""


@dataclass(frozen=True)
class CloseNode:
    """Put our drill taint on: nothing new is scheduled there. What runs there goes on."""

    node: str


@dataclass(frozen=True)
class EvictPod:
    """Through the eviction API, by UID: PodDisruptionBudgets are respected."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Sleep:
    """Nothing to do before that, unless something changes."""

    seconds: float
    message: str = ""


DrillStep = Look | Remember | CloseNode | EvictPod | Sleep
