"""Which objects to look at again when something changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

from twinvault_core.actions import REPLICATION_PAIR, SNAPSHOT, STORAGE_CLUSTER, VOLUME
from twinvault_core.cluster_plan import KubeNode
from twinvault_core.model import (
    ReplicationPair,
    Snapshot,
    StorageCluster,
    StorageNode,
    Volume,
    VolumeReplica,
)
from twinvault_core.pair_plan import find_weakness

from .work_queue import Key, WorkQueue
from .world import World

WAITING = Key("Waiting", "")
"""Pseudo key: look again at every Volume that waits for space or nodes."""

ROLL_UP_SECONDS = 1.0
"""Sums of a cluster may lag this much: a burst of volumes is one write."""
PUBLISHED_SECONDS = 1.0
"""Publishing and staging follow one another: one write tells both."""
WAITING_SECONDS = 0.2
NUMBER_SECONDS = 1.0


class Triggers:
    """Connects the stores of a world with a queue. ``waiting`` is kept by the reconciler.

    ``on_volume``, ``on_replica`` and ``on_pair`` are for whoever must know at once (failover).
    """

    def __init__(self, world: World, queue: WorkQueue) -> None:
        self._world, self._queue = world, queue
        self.waiting: set[str] = set()
        self.on_volume: Callable[[Volume | None, Volume | None], None] = _ignore
        self.on_replica: Callable[[VolumeReplica | None, VolumeReplica | None], None] = _ignore
        self.on_pair: Callable[[], None] = _ignore
        world.volumes.on_change = self._volume
        world.replicas.on_change = self._replica
        world.snapshots.on_change = self._snapshot
        world.storage_nodes.on_change = self._storage_node
        world.clusters.on_change = self._cluster
        world.nodes.on_change = self._node
        world.pairs.on_change = self._pair
        world.numbers.on_change = self._number

    def add_everything(self) -> None:
        """At the start, and when the lead is taken over."""
        self.on_pair()
        world = self._world
        by_kind: list[tuple[str, list[str]]] = [
            (STORAGE_CLUSTER, world.clusters.names()),
            (REPLICATION_PAIR, world.pairs.names()),
            (VOLUME, world.volumes.names()),
            (VOLUME, sorted({r.volume for r in world.replicas.values()})),
            (VOLUME, sorted(world.numbers.volumes())),
            (SNAPSHOT, world.snapshots.names()),
        ]
        for kind, names in by_kind:
            for name in names:
                self._queue.add(Key(kind, name))

    def add_node(self, node: str) -> None:
        """The agent of a node fell silent or spoke again."""
        world = self._world
        known = world.storage_nodes.get(node)
        if known is not None:
            self._queue.add(Key(STORAGE_CLUSTER, known.storage_cluster))
        for replica in world.replicas.find("node", node):
            self._queue.add(Key(VOLUME, replica.volume))
            self._look_at_pair_of(replica)
        for snapshot in world.snapshots.find("node", node):
            self._queue.add(Key(SNAPSHOT, snapshot.meta.name))
        self.add_waiting()

    def add_waiting(self) -> None:
        if self.waiting:
            self._queue.add(WAITING, WAITING_SECONDS)

    def _volume(self, name: str, before: Volume | None, after: Volume | None) -> None:
        self.on_volume(before, after)
        if after is None:
            self.waiting.discard(name)
        delay = PUBLISHED_SECONDS if _only_published(before, after) else 0.0
        self._queue.add(Key(VOLUME, name), delay)
        self._roll_up_pairs(before, after)
        if not _same(before, after, lambda v: v.record):
            self._look_at_snapshots(name)
        if _same(before, after, lambda v: (v.phase, v.status_size_bytes, v.meta.deleting)):
            return
        self._look_at_snapshots(name)
        for clone in self._world.volumes.find("source", f"{VOLUME}/{name}"):
            if clone.meta.name in self.waiting:
                self._queue.add(Key(VOLUME, clone.meta.name))
        for volume in (before, after):
            if volume is not None and volume.source.volume:
                self._queue.add(Key(VOLUME, volume.source.volume))

    def _look_at_snapshots(self, volume: str) -> None:
        """Those that are not taken yet."""
        for snapshot in self._world.snapshots.find("volume", volume):
            if not snapshot.ready_to_use:
                self._queue.add(Key(SNAPSHOT, snapshot.meta.name))

    def _roll_up_pairs(self, before: Volume | None, after: Volume | None) -> None:
        """A pair counts its volumes, and which of them are degraded and why."""
        if _same(before, after, _what_its_pair_sees):
            return
        for volume in (before, after):
            if volume is not None and volume.replication_pair:
                self._queue.add(Key(REPLICATION_PAIR, volume.replication_pair), ROLL_UP_SECONDS)

    def _replica(
        self, name: str, before: VolumeReplica | None, after: VolumeReplica | None
    ) -> None:
        self._world.ledger.settle(name, after)
        self.on_replica(before, after)
        for replica in (before, after):
            if replica is not None:
                self._queue.add(Key(VOLUME, replica.volume))
        if not _same(before, after, _upkeep_sign):
            self._look_at_pair_of(after or before)
        if _same(before, after, lambda r: r.size_bytes):
            return
        known = after or before
        if known is not None:
            self._queue.add(Key(STORAGE_CLUSTER, known.storage_cluster), ROLL_UP_SECONDS)
        if after is None:
            self.add_waiting()

    def _look_at_pair_of(self, replica: VolumeReplica | None) -> None:
        """Whose resync runs and what is compared next hangs on what the agents report."""
        volume = self._world.volumes.get(replica.volume) if replica is not None else None
        if volume is not None and volume.replication_pair:
            self._queue.add(Key(REPLICATION_PAIR, volume.replication_pair), ROLL_UP_SECONDS)

    def add_pairs(self) -> None:
        """Time has passed: a schedule may be due, a hold be renewed, a link be down for so long
        that it is said why.
        """
        for name in self._world.pairs.names():
            self._queue.add(Key(REPLICATION_PAIR, name))
        for replica in self._world.replicas.values():
            report = replica.replication_status
            if report is not None and report.link_down:
                self._queue.add(Key(VOLUME, replica.volume))

    def _snapshot(self, name: str, before: Snapshot | None, after: Snapshot | None) -> None:
        self._queue.add(Key(SNAPSHOT, name))
        known = after or before
        if known is None:
            return
        if not _same(before, after, lambda s: (s.ready_to_use, s.meta.deleting)):
            for volume in self._world.volumes.find("source", f"{SNAPSHOT}/{name}"):
                if volume.meta.name in self.waiting:
                    self._queue.add(Key(VOLUME, volume.meta.name))
            rescued = self._world.volumes.get(known.volume)
            if rescued is not None and rescued.force_primary is not None:
                self._queue.add(Key(VOLUME, known.volume))
        if not _same(before, after, lambda s: ([h.state for h in s.holders], s.meta.deleting)):
            origin = self._world.volumes.get(known.volume)
            if origin is not None and origin.meta.deleting:
                self._queue.add(Key(VOLUME, known.volume))
            for cluster in {h.storage_cluster for h in known.holders}:
                self._queue.add(Key(STORAGE_CLUSTER, cluster), ROLL_UP_SECONDS)

    def _storage_node(
        self, name: str, before: StorageNode | None, after: StorageNode | None
    ) -> None:
        for cluster in self._world.clusters.names():
            self._queue.add(Key(STORAGE_CLUSTER, cluster), WAITING_SECONDS if after else 0.0)
        if not _same(before, after, _where_it_can_take):
            self.add_waiting()
        if before is not None and not _same(before, after, _what_its_volumes_see):
            for replica in self._world.replicas.find("node", name):
                self._queue.add(Key(VOLUME, replica.volume))
        if not _same(before, after, lambda n: n.replication):
            for pair in self._world.pairs.names():
                self._queue.add(Key(REPLICATION_PAIR, pair), ROLL_UP_SECONDS)

    def _cluster(
        self, name: str, before: StorageCluster | None, after: StorageCluster | None
    ) -> None:
        self._queue.add(Key(STORAGE_CLUSTER, name))
        if _same(before, after, lambda c: (c.spec, c.meta.deleting)):
            return
        for other in self._world.clusters.names():
            self._queue.add(Key(STORAGE_CLUSTER, other))
        for pair in self._world.pairs.values():
            self._queue.add(Key(REPLICATION_PAIR, pair.meta.name))
            if name in pair.clusters:
                self._tell_replicas(pair.meta.name)
        self.add_waiting()

    def _node(self, name: str, before: KubeNode | None, after: KubeNode | None) -> None:
        if before == after:
            return
        for cluster in self._world.clusters.names():
            self._queue.add(Key(STORAGE_CLUSTER, cluster))

    def _number(self, volume: str) -> None:
        """A device number was claimed or freed, maybe by an operator that did not get further."""
        self._queue.add(Key(VOLUME, volume), NUMBER_SECONDS)

    def _pair(
        self, name: str, before: ReplicationPair | None, after: ReplicationPair | None
    ) -> None:
        self._queue.add(Key(REPLICATION_PAIR, name))
        if not _same(before, after, lambda p: (p.spec, p.meta.deleting)):
            self.on_pair()
            self._tell_replicas(name)
        for volume in self._world.volumes.find("pair", name):
            if volume.meta.name in self.waiting:
                self._queue.add(Key(VOLUME, volume.meta.name))

    def _tell_replicas(self, pair: str) -> None:
        """What both halves of each volume are told hangs on the pair and on the pools."""
        for volume in self._world.volumes.find("pair", pair):
            self._queue.add(Key(VOLUME, volume.meta.name))


def _where_it_can_take(node: StorageNode) -> Any:
    """What decides whether a replica finds room here."""
    return node.pools, node.pool_status, node.replication, node.is_leaving, node.orphans


def _what_its_pair_sees(volume: Volume) -> Any:
    return volume.record, find_weakness(volume), volume.meta.deleting, volume.resync_priority


def _what_its_volumes_see(node: StorageNode) -> Any:
    return node.replication, node.evacuate, node.lost_for_good


def _ignore(*_: Any) -> None:
    """Nobody listens."""


def _same(before: Any, after: Any, look: Callable[[Any], Any]) -> bool:
    """Whether an object was there before and after and looks the same."""
    return before is not None and after is not None and look(before) == look(after)


def _upkeep_sign(replica: VolumeReplica) -> Hashable:
    """What of a replica the plans of its pair depend on; of a copy only each whole percent."""
    report = replica.replication_status
    if report is None:
        return None
    verify = (report.verify.request, report.verify.result) if report.verify is not None else None
    links = (report.connection, report.sync, report.peer_disk, report.frozen)
    done = int(report.resync.done_percent) if report.resync is not None else None
    return (*links, done, verify)


def _only_published(before: Volume | None, after: Volume | None) -> bool:
    if before is None or after is None or after.meta.deleting:
        return False
    if before.published_to == after.published_to or after.replication_pair:
        return False  # a replicated volume may have to change its primary for it, at once
    return replace(before, published_to=(), meta=after.meta) == replace(after, published_to=())
