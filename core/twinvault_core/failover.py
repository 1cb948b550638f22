"""The operator's answer to a lost node: move the record, then what hangs on it.

Nothing here makes a failover safe: the record does (``replication_record.py``), whatever was
believed when it was written. The evidence asked for here keeps failovers from happening without
need: a node counts as lost only when its Lease ran out AND the other replica's agent, itself alive,
reports that the link is down. An agent that died on a node that works is no reason to move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from .failover_view import (
    Attachment,
    DeletePod,
    DeleteVolumeAttachment,
    FailoverStep,
    MarkLost,
    NodeEvidence,
    NodeView,
    PodUse,
    Policy,
    Swap,
    Taint,
    TaintResyncing,
    Untaint,
    VolumeEvidence,
    Wait,
    choose_retry,
)
from .model import ReplicationRecord, VolumeReplica
from .replication_record import RecordRefusal, fail_over
from .replication_state import DrbdRole

SOON_SECONDS = 1.0
LATER_SECONDS = 10.0
DEFAULT_STABLE_SECONDS = 60.0
MOST_NAMES = 5
EMPTY_SECONDS = 15.0
"""A node must be silent for so long before it is put out of service; nobody waits for that."""
_MOVES_LATER = frozenset({"BothLost", "TargetDisk", "TargetNotStable"})
"""Obstacles after which an approved failover goes on by itself."""
RESYNCING_CLOSED_SECONDS = 600.0
"""So long nothing starts on a node whose volumes are not in sync there yet; a resync may take days,
and such a node is better than none."""
_EVICTS, _CLOSES = "NoExecute", "NoSchedule"

Nodes = Mapping[str, NodeEvidence]


class Loss(StrEnum):
    """What became of a volume's primary."""

    NONE = "None"
    AGENT = "Agent"
    """Its agent is silent, but the link is up or nobody can tell: the kernel may well serve."""
    NODE = "Node"
    DISK = "Disk"
    """Its agent lives and says that the disk is gone and the other replica is not reached."""


def plan_node_failover(view: NodeView) -> tuple[FailoverStep, ...]:
    """Steps for ``view.node`` and the volumes that are, or just were, primary on it.

    Steps of different volumes may be done side by side. Ask again at once after a Swap was won.
    """
    me = view.nodes.get(view.node)
    if me is None:
        return ()
    swaps: list[FailoverStep] = []
    waits: list[FailoverStep] = []
    for evidence in view.volumes:
        record = evidence.record
        if record is None or record.primary != view.node:
            continue
        step = plan_failover(evidence, view.nodes)
        if step is not None:
            (swaps if isinstance(step, Swap) else waits).append(step)
    # What is being swapped is not fenced yet; its pods follow once the record says so.
    fenced = find_fenced(view)
    evictions = _plan_eviction(view, me, fenced)
    mark: tuple[FailoverStep, ...] = ()
    if me.expired and not me.marked and (swaps or evictions):
        text = f"its Lease ran out; silent for {me.silent_seconds:.1f} s"
        mark = (MarkLost(me.name, text, choose_retry(view.attempt)),)
    back = _plan_parting(view, me) if me.expired else _plan_return(view, me)
    return (*swaps, *mark, *evictions, *back, *waits)


def plan_failover(evidence: VolumeEvidence, nodes: Nodes) -> Swap | Wait | None:
    """The step for one volume; None while its primary is well."""
    record = evidence.record
    if record is None or evidence.volume.meta.deleting:
        return None
    primary, other = nodes.get(record.primary), evidence.other(record.primary)
    loss = choose_loss(primary, evidence.replica(record.primary), other)
    if loss is Loss.NONE or primary is None:
        return None
    target = nodes.get(other.node) if other is not None else None
    if other is None or target is None:
        text = f"{record.primary} is lost and no other node has a replica: bring it back"
        return _wait(evidence, "NoReplica", text, stuck=True)
    obstacle = _find_obstacle(evidence, loss, other, target)
    if obstacle is not None:
        return obstacle
    after = fail_over(record, target.name)
    if isinstance(after, RecordRefusal):
        return _wait(evidence, after.rule, after.message, stuck=True)
    retry = choose_retry(evidence.attempt)
    return Swap(
        evidence.volume, record, after, f"{loss}Lost", _say(loss, primary, target), {}, retry
    )


def is_left_to_move(evidence: VolumeEvidence, nodes: Nodes, approved: str) -> bool:
    """Whether the approval that lets the StorageCluster ``approved`` take over is still needed: the
    volume moves there now, or as soon as what passes or can be repaired is over.
    """
    record = evidence.record
    other = evidence.other(record.primary) if record is not None else None
    if other is None or other.storage_cluster != approved:
        return False
    allowed = replace(evidence, policy=replace(evidence.policy, approved=approved))
    step = plan_failover(allowed, nodes)
    return isinstance(step, Swap) or (isinstance(step, Wait) and step.reason in _MOVES_LATER)


def choose_loss(
    primary: NodeEvidence | None, own: VolumeReplica | None, other: VolumeReplica | None
) -> Loss:
    """What the evidence proves. ``own`` and ``other``: the replicas at and beside the primary."""
    if primary is None:
        return Loss.NONE
    if primary.expired:
        report = other.replication_status if other is not None else None
        return Loss.NODE if report is not None and report.link_down else Loss.AGENT
    report = own.replication_status if own is not None else None
    if report is not None and report.disk.gone and report.frozen and report.link_down:
        return Loss.DISK
    return Loss.NONE


def _find_obstacle(
    evidence: VolumeEvidence, loss: Loss, other: VolumeReplica, target: NodeEvidence
) -> Wait | None:
    """What forbids the failover, or makes it useless; the record's own rules come on top."""
    if target.expired:
        text = f"{target.name} is silent too: bring one of the two nodes, or the link, back"
        return _wait(evidence, "BothLost", text, stuck=True)
    report = other.replication_status
    if report is None or loss is Loss.AGENT:
        text = (
            f"the primary's agent is silent, but {target.name} does not report its link down: the"
            " volume may well work. If the node is dead, cut its power"
        )
        return _wait(evidence, "LinkUp", text, after_seconds=SOON_SECONDS)
    if report.disk.gone:
        text = f"the disk on {target.name} is {report.disk.value}: repair its pool"
        return _wait(evidence, "TargetDisk", text, stuck=True)
    stable = evidence.policy.stable_seconds
    if target.marked and target.well_seconds < stable:
        left = stable - target.well_seconds
        text = f"{target.name} was lost itself and must be well for another {left:.0f} s"
        return _wait(evidence, "TargetNotStable", text, after_seconds=min(left, LATER_SECONDS))
    if evidence.policy.policy is Policy.MANUAL:
        site = other.storage_cluster
        if evidence.policy.missing:
            return _wait(evidence, "PairUnknown", _describe_missing(evidence, site), stuck=True)
        if evidence.policy.approved != site:
            text = (
                f"the policy is Manual: to let {site} take over set spec.failover.approve of the"
                f" ReplicationPair to {site} (status.failoverPreview shows what that does)"
            )
            return _wait(evidence, "ApprovalNeeded", text, stuck=True)
    return None


def _describe_missing(evidence: VolumeEvidence, site: str) -> str:
    name = evidence.volume.replication_pair
    what = f"ReplicationPair {name} does not exist" if name else "its replicationPair is taken away"
    how = "create it again with the same two clusters" if name else "set it again"
    return f"{what}, so nobody can let {site} take over: {how}, or bring the node back"


def _say(loss: Loss, primary: NodeEvidence, target: NodeEvidence) -> str:
    silent = f"silent for {primary.silent_seconds:.1f} s and its link is down"
    what = "without its disk and its link" if loss is Loss.DISK else silent
    why = f"{primary.name} is {what}"
    return f"{why}: {target.name} takes over with every acknowledged write"


def _wait(
    evidence: VolumeEvidence,
    reason: str,
    message: str,
    *,
    after_seconds: float = LATER_SECONDS,
    stuck: bool = False,
) -> Wait:
    return Wait(evidence.name, reason, message, after_seconds, stuck)


def find_fenced(view: NodeView) -> frozenset[str]:
    """Volumes of which ``view.node`` cannot acknowledge a write any more: the record moved on."""
    records: dict[str, ReplicationRecord] = {
        e.name: e.record for e in view.volumes if e.record is not None
    }
    return frozenset(name for name, record in records.items() if record.primary != view.node)


def _plan_eviction(
    view: NodeView, me: NodeEvidence, fenced: frozenset[str]
) -> tuple[FailoverStep, ...]:
    """Pods and attachments of fenced volumes, and only those.

    On a living node only pods that hold the volume open: one that was just scheduled there waits
    for the volume to come back, and is left alone.
    """
    stale = fenced if me.expired else _held_open(view, fenced)
    going, staying = _choose_pods(view, stale)
    retry = choose_retry(view.attempt)
    text = f"its volumes are primary elsewhere since {view.node} was lost"
    records = {e.name: e.record for e in view.volumes if e.record is not None}
    steps: list[FailoverStep] = [
        DeletePod(
            pod,
            text,
            {v: records[v].epoch for v in pod.volumes},
            me.expired,
            retry,
            {v: records[v].primary for v in pod.volumes},
        )
        for pod in going
    ]
    kept = {name for pod in staying for name in pod.volumes}
    steps += [
        Wait(
            f"{pod.namespace}/{pod.name}",
            "NotAllFenced",
            f"it also uses {', '.join(_unfenced(pod, stale))}, which only {view.node} can serve:"
            " bring the node back, or delete the pod yourself",
            LATER_SECONDS,
            stuck=True,
        )
        for pod in staying
    ]
    if not me.expired:
        return tuple(steps)
    gone = [a for a in _here(view) if a.volume in fenced and a.volume not in kept]
    steps += [
        DeleteVolumeAttachment(a, text, records[a.volume].epoch, retry, records[a.volume].primary)
        for a in gone
    ]
    if (going or gone) and not me.taints and _all_ours(view):
        steps.insert(0, Taint(me.name, False, "its volumes are served elsewhere", retry))
    return tuple(steps) or _plan_emptying(view, me, fenced)


def _all_ours(view: NodeView) -> bool:
    """With the taint on Kubernetes takes every volume off the node by force, and only then lets
    another node have one. For ours that is safe, fenced or not: nobody writes without the record,
    and one without a second replica cannot be anywhere else. For others' nobody here can say.
    """
    return all(a.volume for a in _here(view))


def _plan_emptying(
    view: NodeView, me: NodeEvidence, fenced: frozenset[str]
) -> tuple[FailoverStep, ...]:
    """The effect that drives out whatever else was on the node comes late. Why:

    1. A pod of a StatefulSet is ended here and made anew, under the same name, at the other node.
    2. The taint is put on. Kubernetes, which may not have heard of 1 yet, ends the pods that it
       believes to be here, and it ends them by their names: the new one dies.
    """
    if not (fenced and me.marked and view.users_known) or _EVICTS in me.taints:
        return ()
    if not _all_fenced(view, fenced):
        return ()
    left = EMPTY_SECONDS - me.silent_seconds
    if left > 0:
        text = "its pods are being made elsewhere; then it is put out of service"
        return (Wait(me.name, "Emptying", text, left),)
    text = "every volume that it had is served elsewhere"
    return (Taint(me.name, True, text, choose_retry(view.attempt)),)


def _here(view: NodeView) -> tuple[Attachment, ...]:
    return tuple(a for a in view.attachments if a.node == view.node)


def _held_open(view: NodeView, fenced: frozenset[str]) -> frozenset[str]:
    held = set()
    for evidence in view.volumes:
        replica = evidence.replica(view.node)
        if replica is not None and replica.in_use:
            held.add(evidence.name)
    return fenced & held


def _choose_pods(
    view: NodeView, stale: frozenset[str]
) -> tuple[tuple[PodUse, ...], tuple[PodUse, ...]]:
    """(those whose volumes are all fenced, those that have a fenced one among others)."""
    touched = [p for p in view.pods if p.node == view.node and set(p.volumes) & stale]
    going = tuple(p for p in touched if not _unfenced(p, stale))
    return going, tuple(p for p in touched if _unfenced(p, stale))


def _unfenced(pod: PodUse, stale: frozenset[str]) -> tuple[str, ...]:
    return (*(v for v in pod.volumes if v not in stale), *pod.foreign)


def _all_fenced(view: NodeView, fenced: frozenset[str]) -> bool:
    """Everything is driven out only where nothing unfenced is."""
    pods = [p for p in view.pods if p.node == view.node]
    return all(a.volume in fenced for a in _here(view)) and not any(
        _unfenced(p, fenced) for p in pods
    )


def _plan_return(view: NodeView, me: NodeEvidence) -> tuple[FailoverStep, ...]:
    """A node that was lost is used again when it has let go of everything and stayed well, and
    nothing is sent there before its volumes are in sync.
    """
    if not me.marked and not me.taints:
        return _plan_opening(view, me) if me.resyncing else ()
    for evidence in view.volumes:
        holds = _still_holds(evidence, me.name)
        if holds:
            return (Wait(me.name, "StillHolds", holds, SOON_SECONDS),)
    stable = max((e.policy.stable_seconds for e in view.volumes), default=DEFAULT_STABLE_SECONDS)
    if me.well_seconds < stable:
        left = stable - me.well_seconds
        text = f"it is used again when it has been well for another {left:.0f} s"
        return (Wait(me.name, "NotStable", text, min(left, LATER_SECONDS)),)
    return _plan_opening(view, me)


def _plan_opening(view: NodeView, me: NodeEvidence) -> tuple[FailoverStep, ...]:
    """Why it stays closed while it is brought up to date:

    1. The node is well, and nothing keeps a pod away that would rather be there.
    2. The pod is sent there; its volume is not given to a replica that misses writes.
    3. So it waits for the whole resync, though the other site could serve it.
    """
    behind, retry = _find_behind(view), choose_retry(view.attempt)
    if not behind:
        return (Untaint(me.name, f"well for {me.well_seconds:.0f} s", retry),)
    what = f"not in sync there yet: {_shorten(behind)}"
    if me.marked or me.taints:
        text = f"well again, {what}; nothing is sent there until then"
        return (TaintResyncing(me.name, True, text, retry),)
    if _CLOSES not in me.resyncing:
        return (Wait(me.name, "Resyncing", what, LATER_SECONDS),)
    left = RESYNCING_CLOSED_SECONDS - me.resyncing_seconds
    if left > 0:
        return (Wait(me.name, "Resyncing", what, min(left, LATER_SECONDS)),)
    text = f"{what}; what finds no room elsewhere may start there"
    return (TaintResyncing(me.name, False, text, retry),)


def _plan_parting(view: NodeView, me: NodeEvidence) -> tuple[FailoverStep, ...]:
    """Of a silent node that no replica is on any more nobody waits for a resync."""
    if view.volumes or not me.resyncing or me.marked or me.taints:
        return ()
    return (Untaint(me.name, "it has no volume of a pair", choose_retry(view.attempt)),)


def _find_behind(view: NodeView) -> tuple[str, ...]:
    """Volumes whose replica on the node misses writes, and that are served elsewhere."""
    return tuple(
        e.name
        for e in view.volumes
        if e.record is not None
        and not e.volume.meta.deleting
        and e.replica(view.node) is not None
        and view.node not in (e.record.primary, *e.record.in_sync)
        and view.node in (e.record.nodes or (view.node,))
    )


def _shorten(names: tuple[str, ...]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _still_holds(evidence: VolumeEvidence, node: str) -> str:
    record, replica = evidence.record, evidence.replica(node)
    if record is None or replica is None or record.primary == node:
        return ""
    report = replica.replication_status
    if replica.in_use or (report is not None and report.role is DrbdRole.PRIMARY):
        return f"its agent is still ending the old use of {evidence.name}"
    return ""
