"""What a resync moved, and what it did to a writer beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import percentile

_KIB = 1024


@dataclass(frozen=True)
class Counters:
    """Bytes so far: what DRBD sent and got for one minor, and all of a node's interface."""

    drbd_sent: int
    drbd_received: int
    interface_sent: int
    interface_received: int


@dataclass(frozen=True)
class Latency:
    """``at``: seconds of time.time() when the write began; ``seconds``: how long it took."""

    at: float
    seconds: float


def parse_counters(proc_drbd: str, minor: int, interface: str) -> Counters:
    """From /proc/drbd and from two lines, sent and received, of the interface's statistics.

    ValueError when the minor is not configured.
    """
    sections = re.split(r"^\s*(?=\d+: cs:)", proc_drbd, flags=re.MULTILINE)
    for section in sections:
        if section.startswith(f"{minor}: "):
            numbers = dict(re.findall(r"\b(ns|nr):(\d+)", section))
            sent, received = (int(numbers[key]) * _KIB for key in ("ns", "nr"))
            return Counters(sent, received, *map(int, interface.split()))
    raise ValueError(f"minor {minor} is not in /proc/drbd")


def count_moved(before: Counters, after: Counters) -> dict[str, int]:
    """Bytes by each count, both directions; ``moved`` is the larger one.

    DRBD counts blocks alone and may begin anew with a connection; the interface counts headers and
    checksums, and whatever else the node says to others.
    """
    drbd = _since(before.drbd_sent, after.drbd_sent)
    drbd += _since(before.drbd_received, after.drbd_received)
    interface = _since(before.interface_sent, after.interface_sent)
    interface += _since(before.interface_received, after.interface_received)
    return {"drbd": drbd, "interface": interface, "moved": max(drbd, interface)}


def _since(before: int, after: int) -> int:
    return after - before if after >= before else after


def parse_latencies(text: str) -> list[Latency]:
    """What latency_writer.py printed."""
    lines = (line.split() for line in text.splitlines() if line)
    return [Latency(float(at), float(seconds)) for at, seconds in lines]


def choose_within(latencies: Sequence[Latency], begin: float, end: float) -> list[float]:
    """Seconds of the writes of which a part lies between ``begin`` and ``end``."""
    return [one.seconds for one in latencies if one.at < end and one.at + one.seconds > begin]


def compare_p99(calm: Sequence[float], busy: Sequence[float]) -> dict[str, float]:
    """p99 of both in milliseconds, and their ratio. ValueError when one is empty."""
    before, during = percentile(calm, 0.99) * 1000, percentile(busy, 0.99) * 1000
    return {
        "before_ms": round(before, 3),
        "during_ms": round(during, 3),
        "ratio": round(during / before, 3),
    }
