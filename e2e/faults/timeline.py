"""What happened when, from the fault to the first acknowledged write after it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LINK_LOST = "link lost"
PROMOTED = "promoted"
MOUNTED = "mounted"
FIRST_WRITE = "first write acknowledged"
PHASES = (LINK_LOST, "primary moved", "in sync", "pod told to end", "pod gone", "pod made",
          "pod scheduled", "attached", PROMOTED, MOUNTED, "pod running", "pod ready",
          FIRST_WRITE)  # fmt: skip
"""What lies on the way to service, in the order in which it has to happen."""


@dataclass(frozen=True)
class Moment:
    """``at``: seconds of time.time() when it was seen. ``subject``: whose; '' for the service."""

    at: float
    what: str
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Seen:
    """One state of an object as a watch told it."""

    at: float
    verb: str
    obj: Mapping[str, Any]


def find_moments(seen: Iterable[Seen]) -> list[Moment]:
    """The changes that matter to somebody who waits for the service, in order of time."""
    moments: list[Moment] = []
    before: dict[str, Mapping[str, Any]] = {}
    for one in seen:
        meta = one.obj["metadata"]
        key = f"{one.obj['kind']}/{meta['name']}/{meta['uid']}"
        old = before.get(key)
        if one.verb == "DELETED":
            before.pop(key, None)
        else:
            before[key] = one.obj
        finder = _FINDERS.get(one.obj["kind"])
        if finder is not None:
            moments += [
                Moment(one.at, what, meta["name"], detail)
                for what, detail in finder(old, one.obj, one.verb)
            ]
    return sorted(moments, key=lambda m: m.at)


Change = tuple[str, str]
_VOLUME_WIDE = frozenset(
    {"primary moved", "in sync", LINK_LOST, PROMOTED, MOUNTED, "attached", "detached"}
)


def _find_in_volume(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str
) -> list[Change]:
    record, last = _record(new), _record(old) if old else _record(new)
    changes: list[Change] = []
    if record.get("primary") != last.get("primary"):
        changes.append(
            ("primary moved", f"to {record.get('primary')}, epoch {record.get('epoch')}")
        )
    if record.get("inSync") != last.get("inSync"):
        changes.append(("in sync", ", ".join(record.get("inSync") or ()) or "none"))
    return changes


def _find_in_replica(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str
) -> list[Change]:
    """What a node's agent says of its half: the link, the role, and whether a pod has it."""
    if old is None or verb == "DELETED":
        return []
    now, last = _replica_status(new), _replica_status(old)
    node = new["spec"]["nodeName"]
    changes: list[Change] = []
    if last["connected"] and not now["connected"]:
        changes.append((LINK_LOST, f"seen at {node}"))
    if now["primary"] and not last["primary"]:
        changes.append((PROMOTED, f"at {node}"))
    if now["in use"] and not last["in use"]:
        changes.append((MOUNTED, f"at {node}"))
    return changes


def _find_in_pod(old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str) -> list[Change]:
    if verb == "DELETED":
        return [("pod gone", "")]
    if old is None:
        return [("pod made", "")] if verb == "ADDED" else []
    changes: list[Change] = []
    if new["metadata"].get("deletionTimestamp") and not old["metadata"].get("deletionTimestamp"):
        changes.append(("pod told to end", ""))
    if _node(new) and not _node(old):
        changes.append(("pod scheduled", f"to {_node(new)}"))
    if _running(new) and not _running(old):
        changes.append(("pod running", ""))
    if _ready(new) and not _ready(old):
        changes.append(("pod ready", ""))
    return changes


def _find_in_attachment(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str
) -> list[Change]:
    volume, node = new["spec"]["source"].get("persistentVolumeName", ""), new["spec"]["nodeName"]
    if verb == "DELETED":
        return [("detached", f"{volume} from {node}")]
    if _attached(new) and not (old and _attached(old)):
        return [("attached", f"{volume} to {node}")]
    return []


def _find_in_node(old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str) -> list[Change]:
    changes: list[Change] = []
    if old is not None and _ready(new) != _ready(old):
        changes.append(("node Ready" if _ready(new) else "node not Ready", ""))
    for key in sorted(_taints(new) - (_taints(old) if old else _taints(new))):
        changes.append(("taint", key))
    for key in sorted((_taints(old) if old else set()) - _taints(new)):
        changes.append(("taint gone", key))
    return changes


def _find_in_event(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], verb: str
) -> list[Change]:
    if verb == "DELETED" or "twinvault" not in str(new.get("source", "")) + str(
        new.get("reportingComponent", "")
    ):
        return []
    about = new.get("involvedObject", {})
    text = f"{about.get('kind', '')}/{about.get('name', '')} {new.get('message', '')}"
    return [(f"event {new.get('reason', '')}", text)]


_FINDERS = {
    "Volume": _find_in_volume,
    "VolumeReplica": _find_in_replica,
    "Pod": _find_in_pod,
    "VolumeAttachment": _find_in_attachment,
    "Node": _find_in_node,
    "Event": _find_in_event,
}


def _record(volume: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = volume.get("status", {}).get("replication") or {}
    return found


def _replica_status(replica: Mapping[str, Any]) -> dict[str, bool]:
    status = replica.get("status") or {}
    link = status.get("replication") or {}
    return {
        "connected": link.get("connection") == "Connected",
        "primary": link.get("role") == "Primary",
        "in use": bool(status.get("inUse")),
    }


def _node(pod: Mapping[str, Any]) -> str:
    return str(pod["spec"].get("nodeName") or "")


def _running(pod: Mapping[str, Any]) -> bool:
    containers = pod.get("status", {}).get("containerStatuses") or ()
    return bool(containers) and all("running" in c.get("state", {}) for c in containers)


def _ready(obj: Mapping[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _attached(attachment: Mapping[str, Any]) -> bool:
    return bool(attachment.get("status", {}).get("attached"))


def _taints(node: Mapping[str, Any]) -> set[str]:
    return {taint["key"] for taint in node["spec"].get("taints") or ()}


def choose_phases(moments: Sequence[Moment], fault_at: float, end: float) -> dict[str, float]:
    """Phase -> seconds after the fault, of what first happened between the fault and ``end``.

    Only what lies on the way to service; ``end`` (the first acknowledgement after) is the last.
    """
    phases: dict[str, float] = {}
    for moment in moments:
        if fault_at <= moment.at <= end and moment.what in PHASES:
            phases.setdefault(moment.what, round(moment.at - fault_at, 3))
    if end != float("inf"):
        phases[FIRST_WRITE] = round(end - fault_at, 3)
    return phases


def choose_moments_of(moments: Iterable[Moment], volume: str, pod: str) -> list[Moment]:
    """Those of one pod and its volume, with what no pod or volume is about (nodes, events)."""
    kept = []
    for moment in moments:
        about = moment.detail if moment.what in ("attached", "detached") else moment.subject
        if moment.what in _VOLUME_WIDE:
            mine = about.split()[0].partition(".")[0] == volume if about else False
        else:
            mine = not moment.what.startswith("pod ") or about == pod
        if mine:
            kept.append(moment)
    return kept


def split_phases(phases: Mapping[str, float]) -> dict[str, float]:
    """Phase -> seconds that it took, from ``choose_phases``: since the one that ended before it.

    In the order in which they ended: in a planned move the pod ends before the primary moves, in a
    failover after it. The sum is the time of the latest phase.
    """
    took: dict[str, float] = {}
    before = 0.0
    for name in sorted(phases, key=lambda name: (phases[name], PHASES.index(name))):
        took[name] = round(phases[name] - before, 3)
        before = phases[name]
    return took


def describe_moments(moments: Iterable[Moment], fault_at: float) -> list[str]:
    """One line each, seconds from the fault."""
    return [
        f"{m.at - fault_at:+8.2f} s  {' '.join(p for p in (m.subject, m.what, m.detail) if p)}"
        for m in moments
    ]
