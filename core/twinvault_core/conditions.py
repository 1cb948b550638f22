"""Kubernetes conditions as values. Times are given by the caller: core has no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

READY = "Ready"
PROGRESSING = "Progressing"
DEGRADED = "Degraded"
PLACED = "Placed"
IN_USE = "InUse"
NOT_IMPLEMENTED = "NotImplemented"
VERIFIED = "Verified"


@dataclass(frozen=True)
class Condition:
    """One condition; ``status`` None stands for Unknown. ``message`` says what to do next."""

    type: str
    status: bool | None
    reason: str
    message: str

    @property
    def status_text(self) -> str:
        return "Unknown" if self.status is None else str(self.status)


def merge_conditions(
    current: Iterable[Mapping[str, Any]],
    wanted: Iterable[Condition],
    *,
    observed_generation: int,
    now: str,
) -> list[dict[str, Any]]:
    """The condition list to write: ``wanted`` over ``current``, sorted by type.

    ``lastTransitionTime`` changes to ``now`` (RFC 3339) only where the status changes; types that
    are not in ``wanted`` stay as they are.
    """
    by_type = {str(c["type"]): dict(c) for c in current}
    for condition in wanted:
        before = by_type.get(condition.type)
        same = before is not None and before.get("status") == condition.status_text
        by_type[condition.type] = {
            "type": condition.type,
            "status": condition.status_text,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": observed_generation,
            "lastTransitionTime": before["lastTransitionTime"] if same and before else now,
        }
    return [by_type[name] for name in sorted(by_type)]


def find_condition(current: Iterable[Mapping[str, Any]], type_: str) -> Condition | None:
    """The condition of type ``type_`` in a status list, or None."""
    for entry in current:
        if entry.get("type") == type_:
            status = {"True": True, "False": False}.get(str(entry.get("status")))
            return Condition(type_, status, str(entry["reason"]), str(entry["message"]))
    return None
