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

        self.replicated = self._gauge(
            "twinvault_replicated_volumes",
            "Volumes of a ReplicationPair by state; a volume counts in each that holds",
            ["pair", "state"],
        )
        self.volume_in_sync = self._gauge(
            "twinvault_volume_in_sync",
            "1 while every replica holds every write",
            ["pair", "volume"],
        )
        self.volume_degraded = self._gauge(
            "twinvault_volume_degraded", "1 while one failure from frozen", ["pair", "volume"]
        )
        self.resync_remaining = self._gauge(
            "twinvault_volume_resync_remaining_bytes", "What is still to be copied", ["volume"]
        )
        self.verify_ended = self._gauge(
            "twinvault_verify_last_end_timestamp_seconds",
            "When both replicas were last compared to the end",
            ["pair", "volume"],
        )
        self.verify_different = self._gauge(
            "twinvault_verify_last_different_bytes",
            "What the last comparison found to differ",
            ["pair", "volume"],
        )
        self.verify_volumes = self._gauge(
            "twinvault_verify_volumes",
            "Volumes of a pair's last round: compared, left, different",
            ["pair", "state"],
        )
        self.resync_waiting = self._gauge(
            "twinvault_resync_waiting", "1 while a resync waits for its turn", ["pair", "volume"]
        )
        self.frozen_seconds = Counter(
            "twinvault_volume_frozen_seconds_total",
            "For how long writes waited because the other replica was lost",
            ["pair", "volume"],
            registry=self.registry,
        )
        self.failovers = self._counter(
            "twinvault_failovers_total", "Failovers of a pair away from a node", ["pair", "reason"]
        )
        self.failover_seconds = Histogram(
            "twinvault_failover_seconds",
            "How long each phase of a failover took; phase total is all of it",
            ["pair", "phase"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7, 10, 15, 30, 60, 120),
            registry=self.registry,
        )
        self.failover_errors = self._counter(
            "twinvault_failover_errors_total", "Failed attempts at a step of a failover", ["step"]
        )
        self.drills = self._counter(
            "twinvault_drills_total", "Drills by how they ended", ["pair", "result"]
        )
        self.drill_recovery = self._gauge(
            "twinvault_drill_recovery_seconds",
            "How long the last drill kept a volume from its pods on the way to the other site",
            ["pair", "volume"],
        )
        self.drill_success = self._gauge(
            "twinvault_drill_last_success_timestamp_seconds",
            "When the last drill that succeeded ended",
            ["pair"],
        )
        self.drill_next = self._gauge(
            "twinvault_drill_next_timestamp_seconds", "When the next drill starts", ["pair"]
        )
        self.drill_running = self._gauge(
            "twinvault_drill_running", "1 while a drill moves volumes of the pair", ["pair"]
        )

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(name, text, labels or [], registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
