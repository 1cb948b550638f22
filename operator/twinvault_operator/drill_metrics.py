"""What Prometheus is told of drills: from the status, so that a new leader says the same."""

from __future__ import annotations

from twinvault_core.drill_state import parse_time

from .metrics import Metrics
from .world import World


def fill_drills(world: World, metrics: Metrics) -> None:
    """Before each scrape."""
    gauges = (metrics.drill_recovery, metrics.drill_success, metrics.drill_next)
    for gauge in (*gauges, metrics.drill_running):
        gauge.clear()
    for pair in world.pairs.values():
        name, status = pair.meta.name, pair.status
        if pair.spec.get("drill") or status.get("lastDrill"):
            metrics.drill_running.labels(name).set(1 if status.get("drill") else 0)
        for volume in (status.get("lastDrill") or {}).get("volumes") or ():
            if "recoverySeconds" in volume:
                seconds = volume["recoverySeconds"]
                metrics.drill_recovery.labels(name, volume["volume"]).set(seconds)
        if status.get("lastSuccessfulDrill"):
            at = parse_time(status["lastSuccessfulDrill"]).timestamp()
            metrics.drill_success.labels(name).set(at)
        if status.get("nextDrill"):
            at = parse_time(status["nextDrill"]["time"]).timestamp()
            metrics.drill_next.labels(name).set(at)
