"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One registry of our own, so that a test may have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "twinvault_operator_reconcile_seconds",
            "Time to plan and apply one object",
            ["kind"],
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
            registry=self.registry,
        )
        self.reconcile_errors = self._counter(
            "twinvault_operator_reconcile_errors_total", "Failed attempts", ["kind", "code"]
        )
        self.writes = self._counter(
            "twinvault_operator_writes_total", "Writes to the API server", ["action", "kind"]
        )
        self.events = self._counter(
            "twinvault_operator_events_total", "Kubernetes Events", ["kind", "reason"]
        )
        self.events_dropped = Counter(
            "twinvault_operator_events_dropped_total",
            "Events that were not written because too many waited",
            registry=self.registry,
        )
        self.queue_depth = self._gauge(
            "twinvault_operator_queue_depth", "Objects due or being worked on"
        )
        self.leader = self._gauge("twinvault_operator_leader", "1 while this process leads")
        self.volumes = self._gauge("twinvault_volumes", "Volumes by phase", ["phase"])
        self.snapshots = self._gauge("twinvault_snapshots", "Snapshots by readiness", ["ready"])
        self.agents = self._gauge("twinvault_agent_alive", "1 while the agent is heard", ["node"])
        labels = ["storage_cluster", "node", "pool"]
        self.pool_available = self._gauge(
            "twinvault_pool_available_bytes", "Largest volume that may still be made", labels
        )
        self.pool_promised = self._gauge(
            "twinvault_pool_promised_bytes", "Sum of the sizes of all volumes", labels
        )

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, text, labels or [], registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
