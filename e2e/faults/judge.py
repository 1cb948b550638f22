"""Whether what a fault interrupted ended as it must. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]

_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "k": 10**3, "M": 10**6,
          "G": 10**9, "T": 10**12}  # fmt: skip
_LOST = ("node.kubernetes.io/out-of-service", "twinvault.io/")
"""Taints of a node that counts as lost."""


def parse_quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity such as 80Mi; ValueError for another word."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * factor
    return int(text)


def find_size_problems(service: str, asked: int, sizes: Mapping[str, int]) -> list[str]:
    """``sizes``: bytes of what must have grown to exactly ``asked``, by its name."""
    return [
        f"{service}: {name} has {size} bytes, asked for were {asked}"
        for name, size in sizes.items()
        if size != asked
    ]


def describe_snapshot(snapshot: Object) -> str:
    status = snapshot.get("status", {})
    if status.get("readyToUse"):
        return f"{snapshot['metadata']['name']} ready"
    return f"{snapshot['metadata']['name']} failed: {(status.get('error') or {}).get('message')}"


def judge_snapshot(snapshot: Object, taken: Sequence[Object]) -> list[str]:
    """What speaks against a VolumeSnapshot having ended; ``taken``: our Snapshots of the volume.

    Ready counts only with ours ready too; failed only with a reason.
    """
    name, status = snapshot["metadata"]["name"], snapshot.get("status", {})
    if status.get("readyToUse"):
        unready = [s for s in taken if not s.get("status", {}).get("readyToUse")]
        if taken and not unready:
            return []
        return [f"snapshot {name} is ready, but of ours {len(unready)} of {len(taken)} are not"]
    if (status.get("error") or {}).get("message"):
        return []
    return [f"snapshot {name} is neither ready nor does it say why it failed"]


def judge_move(
    volumes: Collection[str], old: str, new: str, seen: Mapping[str, Sequence[Object]]
) -> list[str]:
    """``seen``: kind -> every state while the volumes moved from node to node as planned."""
    problems = []
    for name in sorted(volumes):
        states = [v for v in seen["Volume"] if v["metadata"]["name"] == name]
        problems += [f"volume {name}: {text}" for text in _judge_volume(states, old, new)]
    for replica in seen["VolumeReplica"]:
        report = replica.get("status", {}).get("replication") or {}
        if replica["spec"]["volume"] in volumes and report.get("frozen"):
            problems.append(f"replica {replica['metadata']['name']} was frozen")
    for node in seen["Node"]:
        for taint in node["spec"].get("taints") or ():
            if taint["key"].startswith(_LOST):
                problems.append(f"node {node['metadata']['name']} had the taint {taint['key']}")
    return list(dict.fromkeys(problems))


def _judge_volume(states: Sequence[Object], old: str, new: str) -> list[str]:
    records = [s.get("status", {}).get("replication") or {} for s in states]
    if not records:
        return ["it was not seen to move"]
    problems = []
    for state, record in zip(states, records, strict=True):
        for condition in state.get("status", {}).get("conditions") or ():
            if condition["type"] == "Degraded" and condition["status"] == "True":
                told = f"{condition.get('reason')}: {condition.get('message')}"
                problems.append(f"was degraded: {told}")
        if len(record.get("inSync") or ()) < 2:
            problems.append(f"was in sync at {record.get('inSync')} only")
    epochs = sorted({(r.get("epoch", 0), r.get("primary", "")) for r in records})
    last, who = epochs[-1]
    if who != new or any(e not in ((last, new), (last - 1, old)) for e in epochs):
        problems.append(f"epochs and primaries were {epochs}; one switchover from {old} to {new}")
    return problems
