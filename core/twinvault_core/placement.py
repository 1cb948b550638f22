"""Which node holds a new volume. A decision returns its reasons, one line a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from . import reasons
from .model import PoolSpec, PoolState, PoolStatus, StorageCluster, StorageNode
from .sizing import format_bytes, pool_available_bytes, pool_promisable_bytes

MAX_REASONS = 20
"""How many lines the Volume's status keeps."""


@dataclass(frozen=True)
class PoolUse:
    """What VolumeReplicas already ask of one pool of one node."""

    promised_bytes: int = 0
    volumes: int = 0


NO_USE = PoolUse()


@dataclass(frozen=True)
class Candidate:
    """One node with its pools. ``silent`` says why its agent does not count as alive; empty: it
    does. ``lost``: it was silent for as long as its Lease lasts. ``internal_ip``: as Kubernetes
    knows it.
    """

    node: StorageNode
    use: Mapping[str, PoolUse]
    silent: str = ""
    lost: bool = False
    internal_ip: str = ""

    @property
    def name(self) -> str:
        return self.node.meta.name

    def pool_use(self, pool: str) -> PoolUse:
        return self.use.get(pool, NO_USE)


@dataclass(frozen=True)
class Wish:
    """What is to be placed. ``pinned`` None: anywhere; else only where the source's data is.
    ``refused`` says of nodes why they cannot take it for a reason of the caller's.
    """

    size_bytes: int
    pool: str
    storage_cluster: str = ""
    requisite: tuple[str, ...] = ()
    preferred: tuple[str, ...] = ()
    pinned: frozenset[str] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """``share``: of what the pool may promise, with this volume in it; to compare choices."""

    node: str
    storage_cluster: str
    reasons: tuple[str, ...]
    share: Fraction = Fraction(0)


@dataclass(frozen=True)
class Refusal:
    """``reason`` is one of Placed=False in reasons.py; ``message`` tells what to do next."""

    reason: str
    message: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Verdict:
    """Of one node: ``refused`` is a reason, or empty for a node that fits."""

    name: str
    refused: str
    line: str
    rank: tuple[int, Fraction, int, str] = (0, Fraction(0), 0, "")


def candidate_available_bytes(candidate: Candidate, pool: str) -> int:
    """The largest volume that ``pool`` of the node may still take, in bytes."""
    spec, seen = candidate.node.pool(pool), candidate.node.pool_state(pool)
    if spec is None or seen is None:
        return 0
    return pool_available_bytes(
        seen.size_bytes,
        seen.used_bytes,
        candidate.pool_use(pool).promised_bytes,
        spec.reserve_percent,
        spec.over_provisioning_percent,
    )


def choose_node(
    wish: Wish, clusters: Mapping[str, StorageCluster], candidates: Iterable[Candidate]
) -> Choice | Refusal:
    """The node for ``wish``; the same for the same input, in whatever order it comes.

    Preferred nodes first, then the pool that will be promised least, then fewest volumes.
    """
    refusal = _refuse_unknown(wish, clusters)
    if refusal is not None:
        return refusal
    by_name = {c.name: c for c in candidates}
    judged = [_judge(wish, clusters, by_name[name]) for name in sorted(by_name)]
    fits = sorted((v for v in judged if not v.refused), key=lambda v: v.rank)
    refused = [v for v in judged if v.refused]
    if fits:
        chosen, *others = fits
        lines = [f"{chosen.name}: chosen, {chosen.line}"]
        lines += [f"{v.name}: possible, {v.line}" for v in others]
        lines += [f"{v.name}: no, {v.line}" for v in refused]
        cluster = by_name[chosen.name].node.storage_cluster
        return Choice(chosen.name, cluster, tuple(lines), chosen.rank[1])
    return _refuse(wish, refused)


def shorten_reasons(lines: tuple[str, ...]) -> list[str]:
    """At most MAX_REASONS lines; the last one says how many are missing."""
    if len(lines) <= MAX_REASONS:
        return list(lines)
    kept = MAX_REASONS - 1
    return [*lines[:kept], f"and {len(lines) - kept} more nodes"]


def _refuse_unknown(wish: Wish, clusters: Mapping[str, StorageCluster]) -> Refusal | None:
    if wish.storage_cluster and wish.storage_cluster not in clusters:
        return Refusal(
            reasons.CLUSTER_UNKNOWN,
            f"StorageCluster {wish.storage_cluster} does not exist; there are:"
            f" {_names(clusters)}. Create it, or make the volume again with another one",
        )
    allowed = [clusters[wish.storage_cluster]] if wish.storage_cluster else clusters.values()
    if any(cluster.pool(wish.pool) for cluster in allowed):
        return None
    known = {pool.name for cluster in allowed for pool in cluster.pools}
    where = f"StorageCluster {wish.storage_cluster}" if wish.storage_cluster else "any cluster"
    return Refusal(
        reasons.POOL_UNKNOWN,
        f"no pool {wish.pool} in {where}; pools are: {_names(known)}."
        " Add it to a StorageCluster, or use another name in the StorageClass",
    )


def _judge(wish: Wish, clusters: Mapping[str, StorageCluster], candidate: Candidate) -> _Verdict:
    name, node = candidate.name, candidate.node
    refused = _refuse_topology(wish, clusters, node)
    if refused:
        return _Verdict(name, reasons.NO_NODE, refused)
    spec, seen = node.pool(wish.pool), node.pool_state(wish.pool)
    refused = _refuse_state(wish.pool, candidate, seen)
    if refused or spec is None or seen is None:
        return _Verdict(name, reasons.POOL_NOT_READY, refused)
    if name in wish.refused:
        return _Verdict(name, reasons.NO_REPLICATION, wish.refused[name])
    available = candidate_available_bytes(candidate, wish.pool)
    free = f"room for {format_bytes(available)}"
    if available < wish.size_bytes:
        return _Verdict(name, reasons.NO_CAPACITY, free if available else "full")
    return _Verdict(name, "", free, _rank(wish, candidate, spec, seen))


def _refuse_topology(wish: Wish, clusters: Mapping[str, StorageCluster], node: StorageNode) -> str:
    name, cluster = node.meta.name, clusters.get(node.storage_cluster)
    if wish.storage_cluster and node.storage_cluster != wish.storage_cluster:
        return f"is in StorageCluster {node.storage_cluster}"
    if node.meta.deleting or cluster is None or cluster.meta.deleting:
        return "is leaving its StorageCluster"
    if node.is_leaving:
        return "is being emptied (spec.evacuate or spec.lost)"
    if node.pool(wish.pool) is None:
        return f"has no pool {wish.pool}"
    if wish.requisite and name not in wish.requisite:
        return "not among the nodes that the volume may live on"
    if wish.pinned is not None and name not in wish.pinned:
        return "does not hold the source"
    return ""


def _refuse_state(pool: str, candidate: Candidate, seen: PoolStatus | None) -> str:
    if candidate.silent:
        return candidate.silent
    if seen is None:
        return f"its agent has not reported pool {pool} yet"
    if seen.state is not PoolState.READY:
        return f"pool {pool} is {seen.state.value}: {seen.message or seen.reason}"
    return ""


def _rank(
    wish: Wish, candidate: Candidate, spec: PoolSpec, seen: PoolStatus
) -> tuple[int, Fraction, int, str]:
    """Smaller is better."""
    preferred = {name: index for index, name in reversed(list(enumerate(wish.preferred)))}
    promisable = pool_promisable_bytes(
        seen.size_bytes, spec.reserve_percent, spec.over_provisioning_percent
    )
    use = candidate.pool_use(wish.pool)
    share = Fraction(use.promised_bytes + wish.size_bytes, max(1, promisable))
    position = preferred.get(candidate.name, len(wish.preferred))
    return position, share, use.volumes, candidate.name


def _refuse(wish: Wish, refused: list[_Verdict]) -> Refusal:
    """The reason nearest to success: a pool that is full, then one that is not ready."""
    lines = tuple(f"{v.name}: no, {v.line}" for v in refused)
    found = {v.refused for v in refused}
    told = "; ".join(shorten_reasons(lines)) or "there is no StorageNode"
    size = format_bytes(wish.size_bytes)
    if reasons.NO_CAPACITY in found:
        return Refusal(
            reasons.NO_CAPACITY,
            f"no pool {wish.pool} may promise {size} more ({told})."
            " Delete volumes or snapshots, add a node, or raise overProvisioningPercent",
            lines,
        )
    if reasons.POOL_NOT_READY in found:
        return Refusal(
            reasons.POOL_NOT_READY,
            f"no pool {wish.pool} is ready ({told})."
            " See kubectl describe storagenodes; the volume is made as soon as one is",
            lines,
        )
    if reasons.NO_REPLICATION in found:
        return Refusal(
            reasons.NO_REPLICATION,
            f"no node with pool {wish.pool} can replicate ({told})."
            " Volumes without the parameter replicationPair go on working",
            lines,
        )
    return Refusal(
        reasons.NO_NODE,
        f"no node fits ({told}). Check the topology that the pod asks for and the"
        " nodeSelector of the StorageClusters",
        lines,
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
