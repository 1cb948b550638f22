"""Which two nodes hold a new replicated volume: one in each StorageCluster of its pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from . import reasons
from .model import ReplicationPair, StorageCluster
from .placement import Candidate, Choice, Refusal, Wish, choose_node
from .replication_network import find_address, is_same_family, refuse_node


@dataclass(frozen=True)
class PairChoice:
    """``first`` begins as primary. ``addresses``: of each node, in the replication network."""

    first: Choice
    second: Choice
    addresses: Mapping[str, str]

    @property
    def nodes(self) -> tuple[str, str]:
        return self.first.node, self.second.node


def choose_pair_nodes(
    wish: Wish,
    pair: ReplicationPair,
    clusters: Mapping[str, StorageCluster],
    candidates: tuple[Candidate, ...],
) -> PairChoice | Refusal:
    """Both nodes for ``wish``, or why there are not two. Each site is judged by itself.

    The first is at the site that the pod wants, else at the volume's own storageCluster, else at
    the pair's preferredCluster, else where the pool is emptier. Topology and source bind only the
    first one: the other is by its nature somewhere else, and becomes equal by the first sync.
    """
    refusal = _refuse_pair(wish, pair, clusters)
    if refusal is not None:
        return refusal
    able = _only_able(wish, pair, candidates)
    sites = _order_sites(able, pair, candidates)
    here = {site: choose_node(_at(able, site), clusters, candidates) for site in sites}
    chosen = [c for c in (here[s] for s in sites) if isinstance(c, Choice)]
    if not chosen:
        return next(r for r in (here[s] for s in sites) if isinstance(r, Refusal))
    first = chosen[0] if _is_decided(able, pair, candidates) else min(chosen, key=_emptiness)
    away = next(site for site in pair.clusters if site != first.storage_cluster)
    second = choose_node(_free(_at(able, away)), clusters, candidates)
    if isinstance(second, Refusal):
        return replace(second, message=f"for the second replica: {second.message}")
    return _with_addresses(pair, candidates, first, second)


def _emptiness(choice: Choice) -> tuple[object, str]:
    return choice.share, choice.storage_cluster


def _refuse_pair(
    wish: Wish, pair: ReplicationPair, clusters: Mapping[str, StorageCluster]
) -> Refusal | None:
    name = pair.meta.name
    if pair.mode != "Sync":
        return Refusal(
            reasons.PAIR_NOT_IMPLEMENTED,
            f"ReplicationPair {name} has mode {pair.mode}, which this version of twinvault does not"
            " have yet; use a pair with mode Sync",
        )
    if pair.meta.deleting:
        return Refusal(reasons.PAIR_UNKNOWN, f"ReplicationPair {name} is being deleted")
    unknown = _refuse_unknown(pair, clusters)
    if unknown is not None:
        return unknown
    if wish.storage_cluster and wish.storage_cluster not in pair.clusters:
        return Refusal(
            reasons.CLUSTER_UNKNOWN,
            f"StorageCluster {wish.storage_cluster} is not one of ReplicationPair {name}"
            f" ({', '.join(pair.clusters)}); make the volume again with one of them",
        )
    return refuse_pool(wish.pool, pair, clusters)


def _refuse_unknown(
    pair: ReplicationPair, clusters: Mapping[str, StorageCluster]
) -> Refusal | None:
    unknown = [site for site in pair.clusters if site not in clusters]
    if not unknown:
        return None
    return Refusal(
        reasons.CLUSTER_UNKNOWN,
        f"StorageCluster {unknown[0]} of ReplicationPair {pair.meta.name} does not exist:"
        " create it",
    )


def refuse_pool(
    pool: str, pair: ReplicationPair, clusters: Mapping[str, StorageCluster]
) -> Refusal | None:
    """Why no volume of ``pool`` can have a replica at each site; None when it can.

    The size of sectors is no reason: every image is attached with 4096 bytes, or not at all.
    """
    unknown = _refuse_unknown(pair, clusters)
    if unknown is not None:
        return unknown
    found = {site: clusters[site].pool(pool) for site in pair.clusters}
    missing = [site for site, spec in found.items() if spec is None]
    if missing:
        return Refusal(
            reasons.POOL_UNKNOWN,
            f"StorageCluster {missing[0]} has no pool {pool}, and a volume of ReplicationPair"
            f" {pair.meta.name} needs it at both sites: add it there, or use another pool",
        )
    kinds = {site: spec.filesystem for site, spec in found.items() if spec is not None}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{kind} in {site}" for site, kind in kinds.items())
        return Refusal(
            reasons.POOLS_DIFFER,
            f"pool {pool} is {told}: a replicated volume needs the same kind at both sites",
        )
    return None


def _only_able(wish: Wish, pair: ReplicationPair, candidates: tuple[Candidate, ...]) -> Wish:
    refused = {c.name: refuse_node(pair, c.node, c.internal_ip) for c in candidates}
    return replace(wish, refused={name: why for name, why in refused.items() if why})


def _at(wish: Wish, site: str) -> Wish:
    return replace(wish, storage_cluster=site)


def _free(wish: Wish) -> Wish:
    """For the second replica."""
    return replace(wish, requisite=(), preferred=(), pinned=None)


def _wanted_sites(
    wish: Wish, pair: ReplicationPair, candidates: tuple[Candidate, ...]
) -> tuple[str, ...]:
    """Sites of the nodes that the pod, or the volume, asks for; best first, none twice."""
    if wish.storage_cluster:
        return (wish.storage_cluster,)
    site_of = {c.name: c.node.storage_cluster for c in candidates}
    wanted = [site_of[node] for node in wish.preferred if node in site_of]
    return tuple(dict.fromkeys(site for site in wanted if site in pair.clusters))


def _is_decided(wish: Wish, pair: ReplicationPair, candidates: tuple[Candidate, ...]) -> bool:
    return bool(_wanted_sites(wish, pair, candidates) or pair.spec.get("preferredCluster"))


def _order_sites(
    wish: Wish, pair: ReplicationPair, candidates: tuple[Candidate, ...]
) -> tuple[str, ...]:
    """Where the first replica may go, best first. A site that was asked for by name is the only
    one.
    """
    wanted = _wanted_sites(wish, pair, candidates)
    if wish.storage_cluster:
        return wanted
    preferred = str(pair.spec.get("preferredCluster") or "")
    rest = (preferred, *pair.clusters) if preferred in pair.clusters else pair.clusters
    return tuple(dict.fromkeys((*wanted, *rest)))


def _with_addresses(
    pair: ReplicationPair, candidates: tuple[Candidate, ...], first: Choice, second: Choice
) -> PairChoice | Refusal:
    known = {c.name: find_address(pair, c.node, c.internal_ip) for c in candidates}
    addresses = {choice.node: known[choice.node] for choice in (first, second)}
    if is_same_family(*addresses.values()):
        return PairChoice(first, second, addresses)
    told = " and ".join(f"{node} has {address}" for node, address in addresses.items())
    return Refusal(
        reasons.NO_REPLICATION,
        f"{told}: both sites need addresses of one family; name a network in ReplicationPair"
        f" {pair.meta.name}",
    )
