"""One failover of a pair away from one node, as it is being watched, and as the API keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twinvault_core.failover_phases import (
    UNKNOWN,
    Mark,
    choose_end,
    describe_phases,
    format_moment,
    is_unknown,
    parse_moment,
    parse_phases,
)
from twinvault_core.model import Volume

AFTER = ("reschedule", "attach", "promote", "mount")
"""Of each volume: Kubernetes asked to publish it for a pod at the other node; the attachment there
is done; the replica there is primary; the volume is in use there."""
MOST_VOLUMES = 1000
SAME_SECONDS = 2.0
"""What the pair tells is dated to the second, right after the first swap."""


@dataclass
class Course:
    """Moments are seconds since 1970. ``used``: volumes that pods at the lost node had.
    ``resumed``: an earlier leader began it; ``acted``: this one ended pods or attachments.
    """

    pair: str
    node: str
    to: str
    reason: str
    time: str
    lost_at: float
    decided_at: float
    used: set[str] = field(default_factory=set)
    fenced_at: float | None = None
    evicted_at: float | None = None
    reached: dict[str, dict[str, float]] = field(default_factory=dict)
    resumed: bool = False
    acted: bool = False

    def end_eviction(self, at: float) -> None:
        """Nothing is left to be done there. Who came to find it so does not know since when."""
        self.evicted_at = at if self.acted or not self.resumed else UNKNOWN

    def reach(self, phase: str, volume: str, at: float) -> None:
        self.reached.setdefault(phase, {}).setdefault(volume, at)

    def marks(self) -> list[Mark]:
        found: list[Mark] = [("detect", self.decided_at), ("fence", self.fenced_at)]
        found.append(("evict", self.evicted_at))
        for name in AFTER:
            times = self.reached.get(name, {})
            if not self.used or self.used - times.keys():
                break
            found.append((name, choose_end(times[v] for v in self.used)))
        return found

    @property
    def complete(self) -> bool:
        gone_through = len(self.marks()) == 3 + len(AFTER)
        return self.evicted_at is not None and (gone_through or not self.used)

    def phases(self) -> list[dict[str, Any]]:
        return describe_phases(self.lost_at, self.marks(), complete=self.complete)

    def to_dict(self) -> dict[str, Any]:
        started = {} if is_unknown(self.lost_at) else {"startedAt": format_moment(self.lost_at)}
        return {
            "time": self.time,
            "from": self.node,
            "to": self.to,
            "reason": self.reason,
            **started,
            "volumes": sorted(self.used)[:MOST_VOLUMES],
            "phases": self.phases(),
        }


def describe_swap(
    volume: Volume, to: str, reason: str, lost_at: float, at: float
) -> dict[str, Any]:
    """``Volume.status.lastFailover``: written with the record, so that no leader can lose it."""
    assert volume.record is not None, "only a record is swapped"
    node = volume.record.primary
    return {
        "time": format_moment(at),
        "startedAt": format_moment(lost_at),
        "from": node,
        "to": to,
        "reason": reason,
        "used": volume.published_to == (node,),
    }


def resume_courses(
    pair: str, told: Mapping[str, Any], volumes: Iterable[Volume], *, since: float
) -> list[Course]:
    """Failovers that began after ``since`` and that nobody told the end of. ``told``: the pair's
    ``lastFailover``, as an earlier leader left it.
    """
    by_node: dict[str, list[tuple[Volume, Mapping[str, Any]]]] = {}
    for volume in volumes:
        swap = volume.status.get("lastFailover") or {}
        if swap and parse_moment(str(swap.get("time") or "")) > since:
            by_node.setdefault(str(swap["from"]), []).append((volume, swap))
    found = []
    for node, swaps in sorted(by_node.items()):
        course = _from_swaps(pair, node, swaps)
        told_at = parse_moment(str(told.get("time") or ""))
        same = told.get("from") == node and told_at >= course.decided_at - SAME_SECONDS
        ended = parse_phases(told.get("phases") or ()) if same else {}
        if "total" in ended:
            continue
        if same:
            course.time = str(told["time"])
        _take_over(course, ended)
        found.append(course)
    return found


def _from_swaps(pair: str, node: str, swaps: list[tuple[Volume, Mapping[str, Any]]]) -> Course:
    times = sorted(parse_moment(str(s["time"])) for _, s in swaps)
    first = min(swaps, key=lambda s: str(s[1]["time"]))[1]
    return Course(
        pair,
        node,
        str(first.get("to") or ""),
        str(first.get("reason") or ""),
        str(first["time"])[:19] + "Z",
        min(parse_moment(str(s.get("startedAt") or "")) for _, s in swaps),
        times[0],
        used={v.meta.name for v, s in swaps if s.get("used")},
        fenced_at=times[-1],
        resumed=True,
    )


def _take_over(course: Course, ended: Mapping[str, float]) -> None:
    """What an earlier leader saw the end of is as it said."""
    course.evicted_at = ended.get("evict")
    for name in AFTER:
        if name in ended:
            for volume in course.used:
                course.reach(name, volume, ended[name])
