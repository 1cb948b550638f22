"""What a scrape of a CSI process shows: its calls, and itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest

_BUCKETS_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60)


class CallMetrics:
    """Durations of calls by method and gRPC code."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._seconds = Histogram(
            "twinvault_csi_call_seconds",
            "Duration of CSI calls.",
            ("method", "code"),
            buckets=_BUCKETS_SECONDS,
            registry=self._registry,
        )

    def observe(self, method: str, code: str, seconds: float) -> None:
        self._seconds.labels(method, code).observe(seconds)

    def format(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
