"""What a StorageCluster's status says: each node and pool, sums for the table, conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import reasons
from .actions import STORAGE_CLUSTER, Action, Tell, plan_status
from .conditions import DEGRADED, IN_USE, PROGRESSING, READY, Condition, find_condition
from .model import PoolSpec, PoolState, StorageCluster
from .placement import Candidate, candidate_available_bytes
from .sizing import format_bytes, format_share, pool_promisable_bytes

USED_STEP_PERCENT = 1
"""A change of usedBytes below this share of a pool is not worth a write of its own."""


@dataclass(frozen=True)
class NodeReport:
    """``held`` names volumes and snapshots on the node."""

    member: Candidate
    selected: bool
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClusterReport:
    """``overlaps`` maps a selected node to the other cluster that has it; ``awaited`` are nodes
    whose StorageNode is just being made.
    """

    cluster: StorageCluster
    nodes: tuple[NodeReport, ...]
    overlaps: Mapping[str, str] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()


def plan_cluster_report(report: ClusterReport, *, now: str) -> tuple[Action, ...]:
    """Write the status if it differs from what is there, and tell what changed."""
    cluster = report.cluster
    entries = [_node_entry(node) for node in report.nodes]
    entries += [
        {"name": name, "ready": False, "message": "its StorageNode is being made", "pools": []}
        for name in report.awaited
    ]
    entries.sort(key=lambda e: str(e["name"]))
    conditions = _judge(report, entries)
    wanted = {"nodes": entries, "summary": _summary(report, entries)}
    if _is_noise(cluster.status, wanted):
        wanted = {}
    status = plan_status(STORAGE_CLUSTER, cluster.meta, cluster.status, wanted, conditions, now=now)
    return status + _tell(cluster, conditions)


def _node_entry(node: NodeReport) -> dict[str, Any]:
    problem = find_node_problem(node)
    return {
        "name": node.member.name,
        "ready": not problem,
        "message": problem,
        "pools": [_pool_entry(node.member, pool) for pool in node.member.node.pools],
    }


def find_node_problem(node: NodeReport) -> str:
    """What is wrong with a node and what to do next; empty when it is well."""
    member = node.member
    if not node.selected and node.held:
        return (
            f"no longer selected, but holds {len(node.held)} volumes and snapshots"
            f" ({', '.join(node.held[:3])}): label it again, or delete them"
        )
    if not node.selected:
        return "leaving"
    if member.silent:
        return f"{member.silent}; see the agent's pod on that node"
    for pool in member.node.pools:
        seen = member.node.pool_state(pool.name)
        if seen is None:
            return f"pool {pool.name}: the agent has not reported it yet"
        if seen.state is not PoolState.READY:
            return f"pool {pool.name} is {seen.state.value}: {seen.message or seen.reason}"
    return ""


def _pool_entry(member: Candidate, pool: PoolSpec) -> dict[str, Any]:
    seen = member.node.pool_state(pool.name)
    ready = seen is not None and seen.state is PoolState.READY and not member.silent
    return {
        "name": pool.name,
        "state": (seen.state if seen else PoolState.WAITING).value,
        "sizeBytes": seen.size_bytes if seen else 0,
        "usedBytes": seen.used_bytes if seen else 0,
        "promisedBytes": member.pool_use(pool.name).promised_bytes,
        "availableBytes": candidate_available_bytes(member, pool.name) if ready else 0,
    }


def _judge(report: ClusterReport, entries: list[dict[str, Any]]) -> list[Condition]:
    held = sorted({name for node in report.nodes for name in node.held})
    use = Condition(IN_USE, False, reasons.NOT_IN_USE, "it holds nothing")
    if held:
        some = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
        use = Condition(
            IN_USE, True, reasons.HAS_VOLUMES, f"it holds {len(held)} volumes and snapshots: {some}"
        )
    if report.cluster.meta.deleting:
        message = f"being deleted: {use.message}" + ("; delete them first" if held else "")
        ready = Condition(READY, False, reasons.DELETING, message)
        progressing = Condition(PROGRESSING, not held, reasons.DELETING, message)
        calm = Condition(DEGRADED, False, reasons.HEALTHY, "being deleted")
        return [use, ready, progressing, calm]
    return [use, *_judge_nodes(report, entries), _judge_degraded(report)]


def _judge_nodes(report: ClusterReport, entries: list[dict[str, Any]]) -> list[Condition]:
    if not entries:
        labels = ",".join(f"{k}={v}" for k, v in sorted(report.cluster.match_labels.items()))
        message = f"no node is selected: kubectl label nodes NAME {labels.replace(',', ' ')}"
        if report.overlaps:
            message = "every selected node belongs to another StorageCluster"
        return [
            Condition(READY, False, reasons.NO_NODES, message),
            Condition(PROGRESSING, False, reasons.NO_NODES, message),
        ]
    unready = [e for e in entries if not e["ready"]]
    if not unready:
        message = f"all {len(entries)} nodes are ready" if len(entries) > 1 else "1 node is ready"
        return [
            Condition(READY, True, reasons.ALL_READY, message),
            Condition(PROGRESSING, False, reasons.IDLE, "nothing to do"),
        ]
    message = "; ".join(f"{e['name']}: {e['message']}" for e in unready[:5])
    if len(unready) > 5:
        message += f"; and {len(unready) - 5} more"
    new = any(not n.member.node.pool_status for n in report.nodes) or bool(report.awaited)
    return [
        Condition(READY, False, reasons.NODES_NOT_READY, message),
        Condition(PROGRESSING, new, reasons.NODES_NOT_READY, message),
    ]


def _judge_degraded(report: ClusterReport) -> Condition:
    if report.overlaps:
        parts = [f"{node} belongs to {owner}" for node, owner in sorted(report.overlaps.items())]
        message = f"selected twice: {', '.join(parts)}; change one of the nodeSelectors"
        return Condition(DEGRADED, True, reasons.OVERLAP, message)
    leaving = [n for n in report.nodes if not n.selected and n.held]
    if leaving:
        message = "; ".join(f"{n.member.name}: {find_node_problem(n)}" for n in leaving)
        return Condition(DEGRADED, True, reasons.NODE_LEFT, message)
    silent = [n.member for n in report.nodes if n.member.lost]
    if silent:
        message = "; ".join(f"{m.name}: {m.silent}" for m in silent)
        return Condition(DEGRADED, True, reasons.NODE_LOST, message)
    return Condition(DEGRADED, False, reasons.HEALTHY, "nothing is wrong")


def _summary(report: ClusterReport, entries: list[dict[str, Any]]) -> dict[str, Any]:
    pools = [pool for entry in entries for pool in entry["pools"]]
    promisable = 0
    for node in report.nodes:
        for spec in node.member.node.pools:
            seen = node.member.node.pool_state(spec.name)
            if seen is not None:
                promisable += pool_promisable_bytes(
                    seen.size_bytes, spec.reserve_percent, spec.over_provisioning_percent
                )
    fullest = max(pools, key=lambda p: p["usedBytes"] / max(1, p["sizeBytes"]), default=None)
    ready = sum(1 for entry in entries if entry["ready"])
    return {
        "nodes": f"{ready}/{len(entries)}",
        "size": format_bytes(sum(p["sizeBytes"] for p in pools)),
        "promised": format_share(sum(p["promisedBytes"] for p in pools), promisable),
        "used": format_share(fullest["usedBytes"], fullest["sizeBytes"]) if fullest else "-",
        "volumes": sum(
            n.member.pool_use(pool.name).volumes
            for n in report.nodes
            for pool in n.member.node.pools
        ),
    }


def _is_noise(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether nothing differs but usedBytes, and that by less than a step."""
    before, after = current.get("nodes") or [], wanted["nodes"]
    if _without_used(before) != _without_used(after):
        return False
    pairs = zip(_pools(before), _pools(after), strict=True)
    return all(
        abs(one.get("usedBytes", 0) - other["usedBytes"]) * 100
        < USED_STEP_PERCENT * max(1, other["sizeBytes"])
        for one, other in pairs
    )


def _pools(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pool for entry in entries for pool in entry.get("pools") or ()]


def _without_used(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            **entry,
            "pools": [
                {key: value for key, value in pool.items() if key != "usedBytes"}
                for pool in entry.get("pools") or ()
            ],
        }
        for entry in entries
    ]


def _tell(cluster: StorageCluster, conditions: list[Condition]) -> tuple[Action, ...]:
    told = []
    for condition in conditions:
        if condition.type not in (READY, DEGRADED) or condition.reason == reasons.HEALTHY:
            continue
        before = find_condition(cluster.status.get("conditions") or (), condition.type)
        if before is not None and (before.status, before.reason) == (
            condition.status,
            condition.reason,
        ):
            continue
        bad = condition.reason != reasons.ALL_READY
        told.append(Tell(STORAGE_CLUSTER, cluster.meta, condition.reason, condition.message, bad))
    return tuple(told)
