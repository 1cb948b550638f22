"""How much room there is, from what the operator says in StorageCluster.status. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from twinvault_core.model import PoolState, StorageCluster


@dataclass(frozen=True)
class Room:
    """``available_bytes`` in all; ``largest_bytes`` is the largest volume that fits one pool."""

    available_bytes: int
    largest_bytes: int


def _pools(
    clusters: Iterable[StorageCluster], pool: str, nodes: Collection[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    for cluster in clusters:
        for node in cluster.status.get("nodes") or ():
            if nodes is not None and node["name"] not in nodes:
                continue
            for entry in node.get("pools") or ():
                # Of a silent node the last word about its pool may still be "Ready".
                alive = node.get("ready") or entry.get("availableBytes")
                ready = entry.get("state") == PoolState.READY and alive
                if ready and pool in ("", entry["name"]):
                    yield node["name"], entry


def observe_room(
    clusters: Iterable[StorageCluster], pool: str, nodes: Collection[str] | None
) -> Room:
    """Room in ``pool`` (empty: in every pool) on ``nodes`` (None: on every node)."""
    sizes = [int(entry.get("availableBytes") or 0) for _, entry in _pools(clusters, pool, nodes)]
    return Room(sum(sizes), max(sizes, default=0))


def observe_pair_room(
    clusters: Iterable[StorageCluster],
    pair: Collection[str],
    pool: str,
    nodes: Collection[str] | None,
) -> Room:
    """Room for volumes with a replica at each site of ``pair``, one of them on ``nodes``.

    Both replicas are whole and lie in pools of one name, so the tighter site decides.
    """
    sites = [cluster for cluster in clusters if cluster.meta.name in pair]
    if len(sites) != 2:
        return Room(0, 0)
    shared = {one.name for one in sites[0].pools} & {one.name for one in sites[1].pools}
    available, largest = 0, 0
    for name in sorted(shared & {pool} if pool else shared):
        ways = [_tighter(name, nodes, *order) for order in (sites, sites[::-1])]
        available += max(way.available_bytes for way in ways)
        largest = max(largest, *(way.largest_bytes for way in ways))
    return Room(available, largest)


def _tighter(
    pool: str, nodes: Collection[str] | None, near: StorageCluster, far: StorageCluster
) -> Room:
    """Room when one replica goes to ``nodes`` of ``near`` and the other anywhere in ``far``."""
    here, there = observe_room([near], pool, nodes), observe_room([far], pool, None)
    return Room(
        min(here.available_bytes, there.available_bytes),
        min(here.largest_bytes, there.largest_bytes),
    )


def growth_bytes(
    clusters: Iterable[StorageCluster], pool: str, homes: Collection[str]
) -> int | None:
    """By how much a volume with replicas on ``homes`` may grow: the tightest of its pools.

    None while one of them is not known to be ready.
    """
    room = {
        node: int(entry.get("availableBytes") or 0) for node, entry in _pools(clusters, pool, homes)
    }
    return min(room.values()) if homes and set(room) == set(homes) else None
