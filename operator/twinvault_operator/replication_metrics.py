"""What Prometheus is told of replicated volumes."""

from __future__ import annotations

from collections.abc import Callable

from twinvault_core.model import ReplicationPair, Volume, VolumeReplica
from twinvault_core.pair_plan import count_volumes, find_weakness
from twinvault_core.replicated_status import is_in_sync, is_replicated
from twinvault_core.verify_plan import parse_time

from .metrics import Metrics
from .world import World


class ReplicationMetrics:
    """Frozen time is counted as it is heard of; everything else when somebody asks."""

    def __init__(self, world: World, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._world, self._metrics, self._monotonic = world, metrics, monotonic
        self._frozen: dict[str, float] = {}
        """Since when, by name of the replica."""

    def replica_changed(self, before: VolumeReplica | None, after: VolumeReplica | None) -> None:
        known = after or before
        if known is None:
            return
        report = after.replication_status if after is not None else None
        self._count(known)
        if report is not None and report.frozen:
            self._frozen.setdefault(known.meta.name, self._monotonic())
        else:
            self._frozen.pop(known.meta.name, None)

    def fill(self) -> None:
        """Before each scrape."""
        for name in list(self._frozen):
            replica = self._world.replicas.get(name)
            if replica is None:
                del self._frozen[name]
            else:
                self._count(replica)
        self._fill_pairs()

    def _count(self, replica: VolumeReplica) -> None:
        """Add the time since we last looked."""
        since, now = self._frozen.get(replica.meta.name), self._monotonic()
        if since is None:
            return
        self._frozen[replica.meta.name] = now
        volume = self._world.volumes.get(replica.volume)
        pair = volume.replication_pair if volume is not None else ""
        self._metrics.frozen_seconds.labels(pair, replica.volume).inc(now - since)

    def _fill_pairs(self) -> None:
        metrics, world = self._metrics, self._world
        for gauge in (
            metrics.volume_in_sync,
            metrics.volume_degraded,
            metrics.resync_remaining,
            metrics.resync_waiting,
            metrics.replicated,
            metrics.verify_ended,
            metrics.verify_different,
            metrics.verify_volumes,
        ):
            gauge.clear()
        for pair in world.pairs.values():
            name = pair.meta.name
            volumes = tuple(world.volumes.find("pair", name))
            for state, count in count_volumes(volumes).to_dict().items():
                metrics.replicated.labels(name, state).set(count)
            self._fill_verify(pair, volumes)
            for volume in volumes:
                if not is_replicated(volume):
                    continue
                labels = (name, volume.meta.name)
                metrics.volume_in_sync.labels(*labels).set(is_in_sync(volume))
                metrics.volume_degraded.labels(*labels).set(find_weakness(volume) is not None)
        for replica in world.replicas.values():
            self._fill_waiting(replica)
            report = replica.replication_status
            if report is not None and report.resync is not None:
                left = report.resync.remaining_bytes
                metrics.resync_remaining.labels(replica.volume).set(left)

    def _fill_waiting(self, replica: VolumeReplica) -> None:
        volume = self._world.volumes.get(replica.volume)
        if volume is not None and replica.replication and replica.replication.resync_hold:
            labels = (volume.replication_pair, replica.volume)
            self._metrics.resync_waiting.labels(*labels).set(1)

    def _fill_verify(self, pair: ReplicationPair, volumes: tuple[Volume, ...]) -> None:
        metrics, last = self._metrics, pair.status.get("lastVerify") or {}
        states = (("compared", "volumes"), ("left", "left"), ("different", "different"))
        for state, key in states if last else ():
            metrics.verify_volumes.labels(pair.meta.name, state).set(int(last.get(key) or 0))
        for volume in volumes:
            found = volume.status.get("lastVerify")
            if not found:
                continue
            labels = (pair.meta.name, volume.meta.name)
            different = int(found.get("differentBytes") or 0)
            metrics.verify_different.labels(*labels).set(different)
            if found.get("endedAt"):
                ended = parse_time(found["endedAt"]).timestamp()
                metrics.verify_ended.labels(*labels).set(ended)
