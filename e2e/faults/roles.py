"""Who could acknowledge a write right now, from /proc/drbd of two nodes. Pure.

Two replicas may both be called Primary for a while without harm: an old primary whose I/O is
frozen, or ends in errors since its disk was detached, acknowledges nothing. Counted is who can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MINOR = re.compile(r"^\s*(\d+): cs:(\S+) ro:(\w+)/(\w+) ds:(\w+)/(\w+) . ([rs])", re.MULTILINE)
_GOOD_DISKS = frozenset({"UpToDate", "Consistent"})
_ALONE = frozenset({"StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe",
                    "NetworkFailure", "ProtocolError", "TearDown", "WFConnection"})  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One minor as its node has it. ``alone``: writes are not sent to the other side."""

    connection: str
    role: str
    peer_role: str
    disk: str
    peer_disk: str
    flowing: bool

    @property
    def alone(self) -> bool:
        return self.connection in _ALONE

    @property
    def acknowledges(self) -> bool:
        return self.role == "Primary" and self.flowing and self.disk in _GOOD_DISKS

    def __str__(self) -> str:
        frozen = "" if self.flowing else ", frozen"
        return f"{self.role} {self.connection} {self.disk}/{self.peer_disk}{frozen}"


def parse_sides(proc_drbd: str) -> dict[int, Side]:
    """Minor -> its state; nothing for a minor that is not configured."""
    return {
        int(m[1]): Side(m[2], m[3], m[4], m[5], m[6], m[7] == "r")
        for m in _MINOR.finditer(proc_drbd)
    }


def find_double_primaries(
    before: Mapping[int, Side], between: Mapping[int, Side], after: Mapping[int, Side]
) -> list[str]:
    """Minors of which both nodes could acknowledge writes that the other does not get.

    ``before`` and ``after`` are looks at one node, ``between`` one at the other: a switchover may
    fall between two looks, but not between all three.
    """
    problems = []
    for minor, other in between.items():
        first, last = before.get(minor), after.get(minor)
        if first is None or last is None:
            continue
        if not (first.acknowledges and last.acknowledges and other.acknowledges):
            continue
        connected = last.peer_role == "Primary" or other.peer_role == "Primary"
        if connected or (first.alone and last.alone and other.alone):
            problems.append(f"minor {minor}: two primaries: {last}, and {other}")
    return problems


def describe_sides(sides: Mapping[str, Mapping[int, Side]]) -> Sequence[str]:
    """A line for each node and minor."""
    return [
        f"{node} {minor}: {side}"
        for node, minors in sorted(sides.items())
        for minor, side in sorted(minors.items())
    ]
