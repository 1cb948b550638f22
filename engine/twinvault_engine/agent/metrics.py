"""What Prometheus sees of one agent. Gauges are read when they are scraped."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twinvault_core.model import PoolState, VolumeReplica
from twinvault_kube.informer import Informer

from .node_view import NodeView

SECTOR_BYTES = 512
"""Unit of /sys/block/*/stat, whatever the device's sectors are (Documentation/block/stat.rst)."""
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)


class OperationMetrics:
    """Counts and times the engine's operations; thread-safe, as prometheus_client is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "twinvault_agent_operations", "Operations of the engine.", ["kind"], registry=registry
        )
        self._failed = Counter(
            "twinvault_agent_operations_failed",
            "Operations of the engine that failed, by error code.",
            ["kind", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "twinvault_agent_operation_duration_seconds",
            "How long operations of the engine take.",
            ["kind"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def observe_operation(self, kind: str, seconds: float, code: str) -> None:
        self._total.labels(kind).inc()
        self._seconds.labels(kind).observe(seconds)
        if code:
            self._failed.labels(kind, code).inc()


class NodeCollector(Collector):
    """Pools, replicas, snapshots, queue and volumes' devices as they are at the scrape."""

    def __init__(
        self,
        view: NodeView,
        replicas: Informer,
        snapshots: Informer,
        *,
        queue_depth: Callable[[], int],
        lease_failures: Callable[[], int],
        sys_block: Path = Path("/sys/block"),
    ) -> None:
        self._view, self._replicas, self._snapshots = view, replicas, snapshots
        self._queue_depth, self._lease_failures = queue_depth, lease_failures
        self._sys_block = sys_block

    def collect(self) -> Iterator[Metric]:
        yield from self._pools()
        yield from self._objects()
        yield from self._volumes()

    def _pools(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("twinvault_pool_ready", "1 when usable.", labels=["pool"])
        families = {
            name: GaugeMetricFamily(f"twinvault_pool_{name}", text, labels=["pool"])
            for name, text in (
                ("size_bytes", "Size of the pool's filesystem."),
                ("used_bytes", "Bytes of the pool that hold data."),
                ("free_bytes", "Bytes of the pool that are free."),
            )
        }
        for pool in self._view.pools.values():
            ready.add_metric([pool.name], float(pool.state is PoolState.READY))
            for name, family in families.items():
                family.add_metric([pool.name], getattr(pool, name))
        yield ready
        yield from families.values()

    def _objects(self) -> Iterator[Metric]:
        states = Tally(
            (obj.get("status") or {}).get("state") or "Pending"
            for obj in self._replicas.store.values()
        )
        replicas = GaugeMetricFamily(
            "twinvault_replicas", "VolumeReplicas of this node.", labels=["state"]
        )
        for state, count in sorted(states.items()):
            replicas.add_metric([state], count)
        yield replicas
        yield GaugeMetricFamily(
            "twinvault_snapshots", "Snapshots held here.", value=len(self._snapshots.store)
        )
        yield GaugeMetricFamily(
            "twinvault_agent_queue_depth", "Objects to look at.", value=self._queue_depth()
        )
        yield CounterMetricFamily(
            "twinvault_agent_lease_renewals_failed",
            "Renewals of the node's Lease that failed.",
            value=self._lease_failures(),
        )

    def _volumes(self) -> Iterable[Metric]:
        allocated = GaugeMetricFamily(
            "twinvault_volume_allocated_bytes", "Bytes of the pool it holds.", labels=["volume"]
        )
        labels = ["volume", "direction"]
        operations = CounterMetricFamily(
            "twinvault_volume_io_operations", "Completed requests.", labels=labels
        )
        moved = CounterMetricFamily("twinvault_volume_io_bytes", "Bytes moved.", labels=labels)
        seconds = CounterMetricFamily(
            "twinvault_volume_io_seconds", "Time that requests took in all.", labels=labels
        )
        for obj in list(self._replicas.store.values()):
            replica = VolumeReplica.parse(obj)
            allocated.add_metric([replica.volume], replica.allocated_bytes)
            counters = self._read_counters(replica.device_path)
            for direction, (count, sectors, milliseconds) in counters.items():
                key = [replica.volume, direction]
                operations.add_metric(key, count)
                moved.add_metric(key, sectors * SECTOR_BYTES)
                seconds.add_metric(key, milliseconds / 1000)
        return allocated, operations, moved, seconds

    def _read_counters(self, device_path: str) -> dict[str, tuple[int, int, int]]:
        """Requests, sectors and milliseconds of each direction; empty while not attached."""
        if not device_path:
            return {}
        try:
            text = (self._sys_block / Path(device_path).name / "stat").read_text()
        except OSError:
            return {}
        fields = [int(field) for field in text.split()]
        if len(fields) < 8:
            return {}
        return {
            "read": (fields[0], fields[2], fields[3]),
            "write": (fields[4], fields[6], fields[7]),
        }


def new_registry() -> CollectorRegistry:
    """A registry with this process's own memory, CPU and files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
