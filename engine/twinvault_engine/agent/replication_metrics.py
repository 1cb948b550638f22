"""What Prometheus sees of replication on this node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .replication_report import Entry

_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 3.5)
Entries = Callable[[], Iterator[tuple[str, Entry]]]


class FenceMetrics:
    """How the kernel's questions were answered: 4 go on, 6 the other is primary, 1 not now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["handler", "answer"]
        self._answers = Counter(
            "twinvault_fence_answers",
            "Answers to DRBD's handlers.",
            labels,
            registry=registry,
        )
        self._seconds = Histogram(
            "twinvault_fence_answer_duration_seconds",
            "How long an answer took.",
            ["handler"],
            buckets=_BUCKETS,
            registry=registry,
        )

    def observe_answer(self, handler: str, code: int, seconds: float) -> None:
        self._answers.labels(handler, str(code)).inc()
        self._seconds.labels(handler).observe(seconds)


class ReplicationCollector(Collector):
    """Replicated volumes as they are at the scrape."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def collect(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"twinvault_replica_{name}", text, labels=["volume"])
            for name, text in (
                ("in_sync", "1 while both replicas hold every write."),
                ("connected", "1 while the link is up."),
                ("primary", "1 while this node is primary."),
                ("frozen", "1 while writes wait for a decision."),
                ("stalled", "1 while a request does not end although nothing is frozen."),
                ("resync_remaining_bytes", "Bytes that a resync has still to copy."),
                ("resync_waits", "1 while a resync waits for its turn."),
            )
        }
        verify = GaugeMetricFamily(
            "twinvault_verify_percent",
            "How far the comparison of both replicas is; absent while there is none.",
            labels=["volume"],
        )
        counters = {
            name: CounterMetricFamily(f"twinvault_replica_{name}", text, labels=["volume"])
            for name, text in (
                ("frozen_seconds", "How long writes waited for a decision."),
                ("resynced_bytes", "Bytes that resyncs were seen to get done."),
            )
        }
        for volume, entry in self._entries():
            drbd, resync = entry.drbd, entry.status.resync
            values = {
                "in_sync": float(drbd is not None and drbd.in_sync),
                "connected": float(drbd is not None and drbd.connected),
                "primary": float(drbd is not None and drbd.primary),
                "frozen": float(drbd is not None and drbd.frozen),
                "stalled": float(bool(entry.status.stalled_since)),
                "resync_remaining_bytes": float(resync.remaining_bytes if resync else 0),
                "resync_waits": float(drbd is not None and drbd.paused),
            }
            compared = entry.status.verify
            if compared is not None and not compared.result.final:
                verify.add_metric([volume], compared.percent)
            for name, value in values.items():
                gauges[name].add_metric([volume], value)
            counters["frozen_seconds"].add_metric([volume], entry.total_frozen_seconds())
            counters["resynced_bytes"].add_metric([volume], entry.resynced_bytes)
        yield from gauges.values()
        yield verify
        yield from counters.values()
