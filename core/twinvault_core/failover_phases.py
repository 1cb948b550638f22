"""How long each phase of a failover took, by whoever watched it; unknown where nobody did.

An operator may be lost in the middle of a failover. What it saw stands in the API with the moment
at which each phase ended; the swap's moment lies in the very write of the record, so that detection
and fencing are always known. The next leader goes on from there. A phase that ended while nobody
watched has no figure, and neither has the one after it, whose beginning is not known: no figure is
better than a wrong one. Moments are seconds since 1970 by the leader's clock; if two leaders'
clocks disagree so much that time runs backwards, that phase is unknown too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

UNKNOWN = math.nan
"""It is over, but nobody saw when."""
Mark = tuple[str, float | None]
"""A phase and when it ended: None while it has not, UNKNOWN if nobody saw it."""
CLOCKS_SECONDS = 1.0
"""Phases may overlap by little; more than this backwards means that clocks disagree."""


def is_unknown(moment: float | None) -> bool:
    return moment is not None and math.isnan(moment)


def format_moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_moment(text: str) -> float:
    """UNKNOWN for a text that is no time."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return UNKNOWN


def describe_phases(
    lost_at: float, marks: Sequence[Mark], *, complete: bool
) -> list[dict[str, Any]]:
    """``status.lastFailover.phases``: those that are over, in order; ``total`` once all are."""
    found, before, latest = [], lost_at, lost_at
    for name, at in marks:
        if at is None:
            continue
        known = not (math.isnan(at) or math.isnan(before)) and at >= before - CLOCKS_SECONDS
        found.append(_describe(name, at, at - before if known else UNKNOWN))
        before = at if math.isnan(before) or math.isnan(at) else max(before, at)
        latest = before
    if complete:
        found.append(_describe("total", latest, latest - lost_at))
    return found


def _describe(name: str, at: float, seconds: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name}
    if math.isnan(seconds):
        entry["unknown"] = True
    else:
        entry["seconds"] = round(max(0.0, seconds), 3)
    if not math.isnan(at):
        entry["endedAt"] = format_moment(at)
    return entry


def parse_phases(raw: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """When each phase that was told ended, by name."""
    return {str(p["name"]): parse_moment(str(p.get("endedAt") or "")) for p in raw}


def choose_end(moments: Iterable[float]) -> float:
    """When a phase ended that several volumes went through: with the last of them. Those that
    nobody saw were before those that somebody saw, so one that is known is enough.
    """
    return max((m for m in moments if not math.isnan(m)), default=UNKNOWN)
