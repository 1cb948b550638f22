"""The shape of a figure: what was measured, what it is compared with, and their ratio."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of ``values``; ``share`` in 0..1. ValueError when empty."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Count, median, p95, p99 and largest, rounded to microseconds."""
    return {
        "count": len(values),
        "p50": round(percentile(values, 0.50), 6),
        "p95": round(percentile(values, 0.95), 6),
        "p99": round(percentile(values, 0.99), 6),
        "max": round(max(values), 6),
    }


def summarize_each(rows: Iterable[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Key -> summary of its values over the rows that have it, keys as they come first."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            values.setdefault(key, []).append(value)
    return {key: summarize(all_) for key, all_ in values.items()}


def divide(
    ours: Mapping[str, float], theirs: Mapping[str, float], *keys: str
) -> dict[str, float | None]:
    """Key -> ours for each one of theirs; None (null in JSON) where theirs is nothing."""
    return {key: round(ours[key] / theirs[key], 3) if theirs[key] else None for key in keys}


def print_figure(
    name: str,
    *,
    figure: Any,
    compared_with: Any,
    ratio: Any,
    goal: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """One JSON object on one line of standard output."""
    body = {
        "name": name,
        "figure": figure,
        "compared_with": compared_with,
        "ratio": ratio,
        "goal": goal,
        "details": dict(details or {}),
        "kernel": platform.release(),
    }
    print(json.dumps(body), flush=True)
