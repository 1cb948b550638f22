"""May these volumes be drilled now? Every reason against it, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .cluster_plan import KubeNode
from .conditions import READY, find_condition
from .drill_state import Trigger
from .drill_view import DrillPod, DrillUsers, DrillView
from .failover_view import NodeEvidence, Policy, VolumeEvidence
from .model import Phase as VolumePhase
from .model import ReplicationRecord, ReplicationStatus
from .names import TAINT_DRILL
from .replicated_status import is_in_sync
from .replication_state import Connection, Disk, DrbdRole, SyncState
from .volume_view import placed_nodes

NAMED = 3
"""How many reasons a message names."""
MAX_VOLUMES = 100
"""As many as the status holds."""
IMMOVABLE = frozenset({"DaemonSet", "Job", "Node"})
"""Controllers that do not make another pod elsewhere, or whose work would be lost."""
CLOSING = ("NoSchedule", "NoExecute")
VERIFYING = (SyncState.VERIFY_SOURCE, SyncState.VERIFY_TARGET)


@dataclass(frozen=True)
class Refusal:
    """``passes``: it may well be gone in a minute, so the start window is used to wait for that."""

    subject: str
    reason: str
    message: str
    passes: bool = False


def find_refusals(
    view: DrillView, volumes: Iterable[str], users: DrillUsers, trigger: Trigger
) -> tuple[Refusal, ...]:
    """Everything that speaks against a drill of ``volumes`` now; empty: it may begin."""
    names = tuple(volumes)
    found = [*_refuse_pair(view, names, trigger)]
    for name in names:
        found += _refuse_volume(view, name, users)
    return tuple(found)


def describe(refusals: Iterable[Refusal]) -> str:
    told = [f"{r.subject}: {r.message}" for r in refusals]
    more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return "; ".join(told[:NAMED]) + more


def _refuse_pair(view: DrillView, volumes: tuple[str, ...], trigger: Trigger) -> Iterable[Refusal]:
    pair, name = view.pair, view.pair.meta.name
    if pair.mode != "Sync":
        yield Refusal(name, "NotSync", "only a pair with mode Sync can be drilled")
    if not volumes:
        yield Refusal(name, "NothingChosen", "spec.drill names no volume")
    if len(volumes) > MAX_VOLUMES:
        text = f"{len(volumes)} volumes are chosen; at most {MAX_VOLUMES} are moved in one drill"
        yield Refusal(name, "TooMany", text)
    ready = find_condition(pair.status.get("conditions") or (), READY)
    if ready is not None and not ready.status:
        yield Refusal(name, "PairNotReady", ready.message)
    if view.policy is Policy.MANUAL and trigger is not Trigger.RUN_AT:
        text = (
            "with failover.policy Manual nothing brings a volume back by itself if a site is lost"
            " in the middle; a person starts each drill, with spec.drill.runAt"
        )
        yield Refusal(name, "ManualPolicy", text)
    if view.others:
        text = f"a drill of {', '.join(view.others)} is under way"
        yield Refusal(name, "OtherDrill", text, passes=True)


def _refuse_volume(view: DrillView, name: str, users: DrillUsers) -> list[Refusal]:
    evidence = view.volumes.get(name)
    if evidence is None:
        what = "no volume of this pair was made for that claim" if "/" in name else "no such Volume"
        return [Refusal(name, "Unknown", f"{what}: take it off the list")]
    volume, record = evidence.volume, evidence.record
    if volume.replication_pair != view.pair.meta.name:
        text = "it does not belong to this pair: take it off the list"
        return [Refusal(name, "NotOfPair", text)]
    if record is None or len(placed_nodes(volume)) != 2 or volume.meta.deleting:
        return [Refusal(name, "NotReplicated", "it does not have two replicas")]
    found = _refuse_state(view, evidence, record)
    for node in placed_nodes(volume):
        found += _refuse_node(evidence, node, view.nodes.get(node))
    if found:
        return found
    return _refuse_users(view, evidence, record, users)


def _refuse_state(
    view: DrillView, evidence: VolumeEvidence, record: ReplicationRecord
) -> list[Refusal]:
    volume, name = evidence.volume, evidence.name
    if not is_in_sync(volume):
        out = ", ".join(sorted(set(placed_nodes(volume)) - record.in_sync))
        return [Refusal(name, "NotInSync", f"{out} is not in sync: wait for the resync")]
    trouble = find_trouble(evidence)
    if trouble:
        return [Refusal(name, *trouble)]
    if volume.phase is not VolumePhase.READY:
        passes = volume.phase is VolumePhase.EXPANDING
        text = f"its phase is {volume.phase.value if volume.phase else 'Pending'}"
        return [Refusal(name, "NotReady", f"{text}: see its conditions", passes)]
    wanted = volume.force_primary
    if wanted is not None and volume.status.get("forcePrimaryUsed") != wanted.node:
        text = f"spec.forcePrimary asks for {wanted.node}: take that back, or wait until it is done"
        return [Refusal(name, "ForcePending", text)]
    if name in view.snapshots:
        return [Refusal(name, "SnapshotOpen", "a snapshot of it is being taken", passes=True)]
    if any(r.sync in VERIFYING for r in _reports(evidence)):
        return [Refusal(name, "Verifying", "its replicas are being compared", passes=True)]
    own = evidence.replica(record.primary)
    report = own.replication_status if own is not None else None
    if not volume.published_to:
        text = "no pod uses it, so there is nothing to learn: start one, or take it off the list"
        return [Refusal(name, "NotUsed", text)]
    promoted = report is not None and report.role is DrbdRole.PRIMARY
    if volume.published_to != (record.primary,) or own is None or not (own.in_use and promoted):
        text = f"its pod is just starting, ending or moving on {', '.join(volume.published_to)}"
        return [Refusal(name, "Moving", text, passes=True)]
    return []


def _reports(evidence: VolumeEvidence) -> list[ReplicationStatus]:
    statuses = (r.replication_status for r in evidence.replicas)
    return [s for s in statuses if s is not None]


def find_trouble(evidence: VolumeEvidence) -> tuple[str, str] | None:
    """(reason, message) of what keeps the two replicas from being equal and connected."""
    for replica in evidence.replicas:
        report, node = replica.replication_status, replica.node
        if report is None:
            return "NoReport", f"the agent of {node} has not reported on it"
        if report.frozen:
            return "Frozen", f"I/O on {node} is frozen: {report.message or 'see its conditions'}"
        if report.diverged:
            return "Diverged", f"{node}: both replicas hold writes of their own"
        if report.connection is not Connection.CONNECTED:
            return "LinkDown", f"the link is {report.connection.value} on {node}"
        if report.resync is not None:
            return "Resyncing", f"{node} resyncs: wait for its end"
        if report.disk is not Disk.UP_TO_DATE:
            return "Disk", f"the replica on {node} is {report.disk.value}"
    return None


def _refuse_node(evidence: VolumeEvidence, name: str, node: NodeEvidence | None) -> list[Refusal]:
    lost = find_loss(name, node)
    if lost or node is None:
        return [Refusal(evidence.name, "NodeLost", lost)]
    stable = evidence.policy.stable_seconds
    if node.well_seconds < stable:
        left = stable - node.well_seconds
        text = f"node {name} must be seen well for another {left:.0f} s"
        return [Refusal(evidence.name, "NodeNotStable", text, passes=True)]
    return []


def find_loss(name: str, node: NodeEvidence | None) -> str:
    """Why the node cannot take part; empty while it can."""
    if node is None:
        return f"node {name} is not known"
    if node.expired:
        return f"node {name} has been silent for {node.silent_seconds:.0f} s"
    if node.marked or node.taints:
        return f"node {name} was lost and is not trusted again yet"
    return ""


# -- who uses it -----------------------------------------------------------------------------------


def _refuse_users(
    view: DrillView, evidence: VolumeEvidence, record: ReplicationRecord, users: DrillUsers
) -> list[Refusal]:
    name, home = evidence.name, record.primary
    pods = users.of(name)
    if name not in users.claims or not pods:
        text = "no pod with a PersistentVolumeClaim uses it: take it off the list"
        return [Refusal(name, "NotUsed", text)]
    if any(p.node != home or p.deleting or not p.ready for p in pods):
        text = "its pod is not Ready: drill when it is"
        return [Refusal(name, "PodNotReady", text, passes=True)]
    away = next(n for n in placed_nodes(evidence.volume) if n != home)
    nodes = [(n, view.kube_nodes.get(n)) for n in (home, away)]
    found = []
    for pod in pods:
        why = _refuse_pod(view, pod, (home, away)) or _refuse_places(pod, nodes)
        if why is not None:
            found.append(Refusal(name, why[0], f"pod {pod.path} {why[1]}"))
    return found


def _refuse_pod(view: DrillView, pod: DrillPod, nodes: tuple[str, str]) -> tuple[str, str] | None:
    if not pod.controller:
        return "NoController", "has no controller that would start it again: it is never evicted"
    if pod.controller in IMMOVABLE:
        return "Immovable", f"belongs to a {pod.controller}, which is not moved by an eviction"
    if pod.ephemeral:
        return "Ephemeral", "owns a volume that would be deleted with it"
    if pod.foreign:
        named = ", ".join(pod.foreign)
        return "OtherDriver", f"also uses {named}, of another driver, which may not follow"
    for volume in pod.volumes:
        other = view.volumes.get(volume)
        if other is None:
            return "NotAllChosen", f"also uses volume {volume}: put it on the list too"
        if set(placed_nodes(other.volume)) != set(nodes):
            return "Pinned", f"also uses volume {volume}, which is not on the same two nodes"
    taint = (TAINT_DRILL, view.pair.meta.name, "NoSchedule")
    if tolerates(pod.placement.get("tolerations") or (), taint):
        text = "tolerates every taint, so it would start on the same node again"
        return "Tolerates", f"{text}: narrow its tolerations"
    return None


def _refuse_places(
    pod: DrillPod, nodes: list[tuple[str, KubeNode | None]]
) -> tuple[str, str] | None:
    for name, node in nodes:
        why = refuse_place(pod.placement, node) if node is not None else "is not known"
        if why:
            return "Pinned", f"cannot run on {name}: {why}"
    return None


def refuse_place(spec: Mapping[str, Any], node: KubeNode) -> str:
    """Why a pod of that spec would not be scheduled on ``node``; empty when it might be.

    What only the scheduler knows (room, spreading, other pods) is left to it.
    """
    if not node.ready:
        return "the node is not Ready"
    if node.unschedulable:
        return "the node is cordoned"
    tolerations = spec.get("tolerations") or ()
    for taint in node.every_taint:
        ours = taint[0] == TAINT_DRILL
        if taint[2] in CLOSING and not ours and not tolerates(tolerations, taint):
            return f"the node's taint {taint[0]}"
    wanted: Mapping[str, str] = spec.get("nodeSelector") or {}
    for key, value in wanted.items():
        if node.labels.get(key) != value:
            return f"its nodeSelector wants {key}={value}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = (required or {}).get("nodeSelectorTerms") or ()
    if required and not any(_fits_term(term, node) for term in terms):
        return "its required node affinity"
    return ""


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: tuple[str, str, str]) -> bool:
    """Whether one of them covers the taint (key, value, effect) for good."""
    key, value, effect = taint
    for one in tolerations:
        if one.get("effect") and one["effect"] != effect:
            continue
        if one.get("key") and one["key"] != key:
            continue
        if not one.get("key") and one.get("operator") != "Exists":
            continue
        if one.get("operator") == "Exists" or (one.get("value") or "") == value:
            return True
    return False


def _fits_term(term: Mapping[str, Any], node: KubeNode) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    labels = all(_fits(e, node.labels) for e in expressions)
    return labels and all(_fits(f, {"metadata.name": node.name}) for f in fields)


def _fits(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator = expression["key"], expression["operator"]
    values, value = expression.get("values") or (), labels.get(expression["key"])
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if value is None or not values or not (_is_whole(value) and _is_whole(values[0])):
        return False
    above = int(value) > int(values[0])
    return above if operator == "Gt" else int(value) < int(values[0])


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdecimal()
