"""Which step of its course a volume is in, so that a fault can strike in the middle of it. Pure.

Objects are as a watch told them last. A step is told by what is done already; a course that is
over, or has not begun, has no step ('').
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

LEAVING = ("let go of", "demoted")
"""A planned move at the old node: the pod is gone; the replica is no primary any more."""
COMING = ("named", "attached", "promoted", "mounted")
"""The same at the new node, until the pod runs there."""
GROWING = ("asked for", "one image grown", "images grown")
TAKING = ("asked for", "being taken", "one copy made")


def choose_target(steps: Sequence[str], share: float) -> int:
    """Place of the first step to strike at: ``share`` (0 to 1) of the way through them."""
    return min(int(share * len(steps)), len(steps) - 1)


def find_leaving_step(old: str, volume: Object | None, replica: Object | None, pod: Object | None
                      ) -> str:  # fmt: skip
    """``replica``: the old node's."""
    if _record(volume).get("primary") != old or (pod is not None and _node(pod) == old):
        return ""
    return LEAVING[0] if _role(replica) == "Primary" else LEAVING[1]


def find_coming_step(
    new: str, volume: Object | None, replica: Object | None, pod: Object | None, attached: bool
) -> str:
    """``replica``: the new node's; ``attached``: whether the volume is, to that node."""
    if _record(volume).get("primary") != new or (pod is not None and _runs(pod)):
        return ""
    if _role(replica) != "Primary":
        return COMING[1] if attached else COMING[0]
    used = (replica or {}).get("status", {}).get("inUse")
    return COMING[3] if used else COMING[2]


def find_growing_step(size_bytes: int, volume: Object | None, replicas: Iterable[Object]) -> str:
    """On the way to ``size_bytes``."""
    if volume is None or volume["spec"].get("sizeBytes", 0) < size_bytes:
        return ""
    if volume.get("status", {}).get("sizeBytes", 0) >= size_bytes:
        return ""
    grown = [r.get("status", {}).get("sizeBytes", 0) >= size_bytes for r in replicas]
    return GROWING[2] if all(grown) and grown else GROWING[1] if any(grown) else GROWING[0]


def find_taking_step(snapshot: Object | None) -> str:
    status = (snapshot or {}).get("status", {})
    if snapshot is None or status.get("readyToUse"):
        return ""
    holders = status.get("holders") or ()
    if not holders:
        return TAKING[0]
    pending = all(h.get("state") == "Pending" and h.get("reason") != "Cloned" for h in holders)
    return TAKING[1] if pending else TAKING[2]


def find_resync_share(proc_drbd: str, minor: int) -> float | None:
    """How much of what this node's replica misses it has, 0 to 1; None when it copies nothing."""
    sections = re.split(r"(?m)^(?=\s*\d+: cs:)", proc_drbd)
    for section in sections:
        if re.match(rf"\s*{minor}: cs:SyncTarget ", section):
            done = re.search(r"sync'ed:\s*([\d.]+)%", section)
            return float(done[1]) / 100 if done else 0.0
    return None


def _record(volume: Object | None) -> Mapping[str, Any]:
    return (volume or {}).get("status", {}).get("replication") or {}


def _role(replica: Object | None) -> str:
    found = ((replica or {}).get("status", {}).get("replication") or {}).get("role")
    return str(found or "")


def _node(pod: Object) -> str:
    return str(pod["spec"].get("nodeName") or "")


def _runs(pod: Object) -> bool:
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return bool(containers) and all("running" in c.get("state", {}) for c in containers)
