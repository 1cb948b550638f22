"""What to do next for one StorageCluster: one StorageNode a selected node, and a report.

A node belongs to one cluster at most. The StorageNode object is the proof: it is created under
the node's name, so of two clusters one wins, and it stays with its cluster while that selects the
node or volumes are on it. Where there is none yet the older cluster takes the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .actions import (
    STORAGE_CLUSTER,
    STORAGE_NODE,
    Action,
    Create,
    Delete,
    PatchObject,
    Plan,
    plan_finalizer,
    plan_release,
)
from .cluster_status import ClusterReport, NodeReport, plan_cluster_report
from .model import StorageCluster
from .names import FINALIZER_CLUSTER
from .placement import Candidate


@dataclass(frozen=True)
class KubeNode:
    """A node of Kubernetes. ``internal_ip`` is empty while kubelet has not said it; ``taints``:
    effects of our out-of-service taints on it; ``resyncing``: of our taint of that name, and since
    when it has it (RFC 3339). ``every_taint``: (key, value, effect) of all that it has;
    ``unschedulable``: cordoned.
    """

    name: str
    labels: Mapping[str, str]
    ready: bool = True
    internal_ip: str = ""
    taints: frozenset[str] = frozenset()
    unschedulable: bool = False
    every_taint: tuple[tuple[str, str, str], ...] = ()
    resyncing: frozenset[str] = frozenset()
    resyncing_since: str = ""


@dataclass(frozen=True)
class ClusterView:
    """``members`` are all StorageNodes with what is promised on them; ``held`` maps a node to
    the names of what it still holds (volumes, snapshots); ``waiting`` are Volumes that name this
    cluster or live in it.
    """

    cluster: StorageCluster
    clusters: tuple[StorageCluster, ...]
    nodes: tuple[KubeNode, ...]
    members: tuple[Candidate, ...] = ()
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def plan_cluster(view: ClusterView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    cluster = view.cluster
    mine = [c for c in view.members if c.node.storage_cluster == cluster.meta.name]
    if cluster.meta.deleting:
        return _plan_delete(view, mine, now=now)
    first = plan_finalizer(STORAGE_CLUSTER, cluster.meta, FINALIZER_CLUSTER)
    selected = {n.name: n for n in view.nodes if cluster.selects(n.labels)}
    taken = _find_owners(view, selected)
    steps: list[Action] = []
    for name in sorted(selected):
        if taken[name] == cluster.meta.name:
            steps += _plan_node(cluster, name, mine)
    steps += _plan_leavers(view, mine, set(selected))
    report = ClusterReport(
        cluster=cluster,
        nodes=tuple(_report_node(view, c, c.name in selected) for c in mine),
        overlaps={name: owner for name, owner in taken.items() if owner != cluster.meta.name},
        awaited=tuple(
            name
            for name in sorted(selected)
            if taken[name] == cluster.meta.name and name not in {c.name for c in mine}
        ),
    )
    return Plan((*first, *steps, *plan_cluster_report(report, now=now)))


def _find_owners(view: ClusterView, selected: Mapping[str, KubeNode]) -> dict[str, str]:
    """The cluster that each selected node belongs to."""
    members = {c.name: c.node.storage_cluster for c in view.members}
    living = sorted(
        (c for c in view.clusters if not c.meta.deleting),
        key=lambda c: (c.meta.creation_timestamp, c.meta.name),
    )
    owners = {}
    for name, node in selected.items():
        wanting = [c.meta.name for c in living if c.selects(node.labels)]
        held_by = members.get(name)
        if held_by is not None and (held_by in wanting or view.held.get(name)):
            owners[name] = held_by
        else:
            owners[name] = wanting[0]
    return owners


def _plan_node(cluster: StorageCluster, name: str, mine: list[Candidate]) -> tuple[Action, ...]:
    """Make the node's StorageNode, or bring its pools up to date."""
    pools = cluster.spec["pools"]
    member = next((c for c in mine if c.name == name), None)
    if member is None:
        spec = {"storageCluster": cluster.meta.name, "pools": pools}
        return (Create(STORAGE_NODE, name, {"metadata": {"name": name}, "spec": spec}),)
    if member.node.spec.get("pools") == pools:
        return ()
    return (PatchObject(STORAGE_NODE, member.node.meta, {"spec": {"pools": pools}}),)


def _plan_leavers(
    view: ClusterView, mine: list[Candidate], selected: set[str]
) -> tuple[Action, ...]:
    """A node that is no longer selected goes as soon as it holds nothing."""
    return tuple(
        Delete(STORAGE_NODE, c.node.meta)
        for c in mine
        if c.name not in selected and not view.held.get(c.name) and not c.node.meta.deleting
    )


def _report_node(view: ClusterView, member: Candidate, selected: bool) -> NodeReport:
    return NodeReport(member, selected=selected, held=view.held.get(member.name, ()))


def _plan_delete(view: ClusterView, mine: list[Candidate], *, now: str) -> Plan:
    """Volumes and snapshots first, then the StorageNodes, then the cluster."""
    cluster = view.cluster
    steps: list[Action] = [
        Delete(STORAGE_NODE, c.node.meta)
        for c in mine
        if not view.held.get(c.name) and not c.node.meta.deleting
    ]
    if not mine:
        return Plan(plan_release(STORAGE_CLUSTER, cluster.meta, FINALIZER_CLUSTER))
    report = ClusterReport(cluster=cluster, nodes=tuple(_report_node(view, c, False) for c in mine))
    return Plan((*steps, *plan_cluster_report(report, now=now)))
