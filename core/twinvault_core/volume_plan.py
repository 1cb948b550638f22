"""What to do next for one Volume: place it, make its replica, grow it, report it, let it go.

The order of the writes is what makes a kill at any line, and two leaders at once, harmless:
1. The Volume carries our finalizer before anything is made for it.
2. The choice of the node is written into its status by compare-and-swap, so of two operators that
   chose differently one loses and reads what the other chose.
3. Only then the replicas are made, under names that follow from the choice.
4. The finalizer goes only when the API server itself confirms that no replica is left.
A replicated volume has its device number claimed (numbers.py) between 1 and 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import reasons
from .actions import (
    VOLUME,
    VOLUME_REPLICA,
    Action,
    CheckUnused,
    ClaimNumber,
    Create,
    Delete,
    PatchObject,
    Plan,
    ReleaseNumber,
    Tell,
    plan_finalizer,
)
from .ids import replica_name
from .member_plan import plan_former_replicas, plan_labels, plan_members
from .model import Meta, ReplicaState, Volume, VolumeReplica
from .names import FINALIZER_REPLICA, FINALIZER_VOLUME
from .numbers import MOST_NUMBERS, device_of
from .pair_placement import PairChoice, choose_pair_nodes
from .placement import Choice, Refusal, Wish, candidate_available_bytes, choose_node
from .replicated_plan import (
    Move,
    choose_replication,
    choose_role,
    may_be_made,
    plan_move,
    plan_replica_specs,
)
from .replicated_status import is_replicated
from .replication_record import start_record
from .sizing import format_bytes
from .source_check import find_source_nodes
from .volume_delete import plan_delete, plan_give_up, plan_leave
from .volume_state import Growth
from .volume_status import plan_report
from .volume_view import VolumeView, placed_nodes


def plan_volume(view: VolumeView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    volume = view.volume
    left_over = (*_plan_left_over(view), *plan_labels(view))
    if volume is None:
        return Plan(left_over)
    if volume.meta.deleting:
        plan = plan_delete(view, volume, now=now)
        return Plan(left_over + plan.actions, plan.waits)
    first = left_over + plan_finalizer(VOLUME, volume.meta, FINALIZER_VOLUME)
    if placed_nodes(volume):
        return _plan_placed(view, volume, first, now=now)
    decision = decide_placement(view, volume)
    if isinstance(decision, Refusal):
        return Plan(first + plan_report(view, volume, refusal=decision, now=now), waits=True)
    if isinstance(decision, PairChoice):
        return _plan_pair(view, volume, decision, first, now=now)
    record = start_record(decision.node)
    report = plan_report(view, volume, choices=(decision,), record=record, now=now)
    return Plan((*first, *report, _create_replica(view, volume, decision)))


def _plan_pair(
    view: VolumeView, volume: Volume, choice: PairChoice, first: tuple[Action, ...], *, now: str
) -> Plan:
    """Claim a number, write all decisions at once, make both replicas."""
    held = min((c.number for c in view.own_claims()), default=view.free_number)
    if held is None:
        text = (
            f"all {MOST_NUMBERS} DRBD device numbers of the cluster are taken: delete replicated"
            " volumes that nobody needs, or use a StorageClass without replicationPair"
        )
        refusal = Refusal(reasons.NO_NUMBER, text)
        return Plan(first + plan_report(view, volume, refusal=refusal, now=now), waits=True)
    record, device = start_record(choice.first.node), device_of(held)
    choices = (choice.first, choice.second)
    report = plan_report(view, volume, choices=choices, record=record, device=device, now=now)
    placed = {"nodes": list(choice.nodes)}
    decided = replace(
        volume, record=record, device=device, status={**volume.status, "placement": placed}
    )
    known = replace(view, volume=decided, addresses=choice.addresses)
    creates = tuple(_create_replica(known, decided, c) for c in choices)
    return Plan((*first, ClaimNumber(VOLUME, volume.meta, held), *report, *creates))


def decide_placement(view: VolumeView, volume: Volume) -> Choice | PairChoice | Refusal:
    """Where the volume goes, or why nowhere. One that asks for two replicas never gets one."""
    if volume.replication_pair and view.pair is None:
        return Refusal(
            reasons.PAIR_UNKNOWN,
            f"ReplicationPair {volume.replication_pair} does not exist; create it, or use a"
            " StorageClass without the parameter replicationPair",
        )
    pinned = find_source_nodes(volume, view.source)
    if isinstance(pinned, Refusal):
        return pinned
    wish = Wish(
        size_bytes=volume.size_bytes,
        pool=volume.pool,
        storage_cluster=volume.storage_cluster,
        requisite=volume.requisite_nodes,
        preferred=volume.preferred_nodes,
        pinned=pinned,
    )
    if view.pair is not None:
        return choose_pair_nodes(wish, view.pair, view.clusters, view.candidates)
    return choose_node(wish, view.clusters, view.candidates)


def _create_replica(view: VolumeView, volume: Volume, choice: Choice) -> Create:
    return _replica(view, volume, choice.node, choice.storage_cluster)


def _replica(view: VolumeView, volume: Volume, node: str, storage_cluster: str) -> Create:
    spec: dict[str, Any] = {
        "volume": volume.meta.name,
        "volumeUID": volume.meta.uid,
        "nodeName": node,
        "storageCluster": storage_cluster,
        "pool": volume.pool,
        "sizeBytes": volume.size_bytes,
        "volumeMode": volume.volume_mode.value,
        "role": choose_role(volume.record, node).value,
    }
    if volume.fs_type:
        spec["fsType"] = volume.fs_type
    if volume.source and _starts_from_source(view, volume, node):
        spec["source"] = volume.source.to_dict()
    replication = choose_replication(view, volume, node)
    if replication is not None:
        spec["replication"] = replication.to_dict()
    name = replica_name(volume.meta.name, node)
    metadata = {"name": name, "finalizers": [FINALIZER_REPLICA]}
    return Create(VOLUME_REPLICA, name, {"metadata": metadata, "spec": spec})


def _starts_from_source(view: VolumeView, volume: Volume, node: str) -> bool:
    """The second replica starts from the source where it has it, else blank; it is filled by the
    first sync either way.
    """
    if not is_replicated(volume) or volume.record is None or volume.record.primary == node:
        return True
    holders = find_source_nodes(volume, view.source)
    return isinstance(holders, frozenset) and node in holders


def _plan_placed(view: VolumeView, volume: Volume, first: tuple[Action, ...], *, now: str) -> Plan:
    """Make the replicas that were decided on, or grow them, and report."""
    own = view.member_replicas()
    members = plan_members(view, volume)
    first = (*first, *members.actions, *plan_former_replicas(view, volume))
    if members.decided:
        return Plan(first)
    move = plan_move(view, volume, now=now) if is_replicated(volume) else Move()
    specs = plan_replica_specs(view, volume, peer_leaves=members.peer_leaves)
    first = (*first, *move.actions, *specs)
    missing = [node for node in placed_nodes(volume) if node not in {r.node for r in own}]
    if missing:
        return _plan_missing(view, volume, missing, first, moving=move.waits, now=now)
    growths = tuple(_decide_growth(view, volume, replica) for replica in own)
    refused = next((g for g in growths if g.refused), None)
    steps = tuple(
        PatchObject(VOLUME_REPLICA, replica.meta, {"spec": {"sizeBytes": volume.size_bytes}})
        for replica, growth in zip(own, growths, strict=True)
        if growth.wanted and refused is None
    )
    leaving = tuple(step for r in own for step in plan_leave(view, volume, r))
    waits = move.waits or members.waits
    report = plan_report(view, volume, growth=refused, moving=waits, now=now)
    stuck = refused is not None or bool(members.waits)
    return Plan((*first, *steps, *leaving, *report), waits=stuck)


def _plan_missing(
    view: VolumeView,
    volume: Volume,
    nodes: list[str],
    first: tuple[Action, ...],
    *,
    moving: str,
    now: str,
) -> Plan:
    """Replicas that are not there.

    1. The volume was never ready: the operator was stopped between choosing and making them.
    2. The volume was ready: somebody removed the replica. A new one would be empty and would look
       like the old one, so it is not made; unless the other replica fills it (may_be_made).
    """
    replicated = is_replicated(volume)
    steps: list[Action] = []
    waits = False
    for node in nodes:
        if volume.status_size_bytes and not (replicated and may_be_made(volume, node)):
            continue
        name = replica_name(volume.meta.name, node)
        unaddressed = replicated and choose_replication(view, volume, node) is None
        # Of a node that took another's place only its StorageNode tells the site.
        unknown = bool(volume.status_size_bytes) and view.candidate(node) is None
        if unaddressed or unknown or any(r.meta.name == name for r in view.replicas):
            waits = True
            continue
        cluster = _placed_cluster(view, volume, node)
        steps.append(_replica(view, volume, node, cluster))
    report = plan_report(view, volume, moving=moving, now=now)
    return Plan((*first, *steps, *report), waits=waits)


def _placed_cluster(view: VolumeView, volume: Volume, node: str) -> str:
    for entry in volume.status.get("replicas") or ():
        if entry.get("node") == node and entry.get("storageCluster"):
            return str(entry["storageCluster"])
    candidate = view.candidate(node)
    return candidate.node.storage_cluster if candidate else volume.storage_cluster


def _decide_growth(view: VolumeView, volume: Volume, replica: VolumeReplica) -> Growth:
    """Whether the replica must grow, and if it may not, why."""
    more = volume.size_bytes - replica.size_bytes
    if more <= 0 or replica.meta.deleting:
        return Growth(wanted=False)
    if replica.state in (None, ReplicaState.PENDING, ReplicaState.CREATING):
        return Growth(wanted=False)
    candidate = view.candidate(replica.node)
    if candidate is None or candidate.silent:
        return Growth(
            True,
            reasons.POOL_NOT_READY,
            f"node {replica.node} does not answer; the volume grows when its agent is back",
        )
    available = candidate_available_bytes(candidate, replica.pool)
    if more > available:
        return Growth(
            True,
            reasons.NO_CAPACITY,
            f"pool {replica.pool} on {replica.node} may promise only"
            f" {format_bytes(available)} more, {format_bytes(more)} are needed. Delete volumes or"
            " snapshots there, or raise overProvisioningPercent",
        )
    return Growth(wanted=True)


def _plan_left_over(view: VolumeView) -> tuple[Action, ...]:
    """Replicas whose Volume is gone without having been deleted through us.

    One that was never ready holds nothing and goes. One that was ready may hold data that
    somebody wants: it is kept and a person is told.
    """
    steps: list[Action] = []
    for replica in view.foreign_replicas():
        if replica.meta.deleting:
            steps += plan_give_up(view, replica)
        elif replica.state in (None, ReplicaState.PENDING, ReplicaState.CREATING):
            steps.append(Delete(VOLUME_REPLICA, replica.meta))
        else:
            steps.append(_tell_orphan(replica, replica.meta))
    return (*steps, *_plan_claims(view))


def _plan_claims(view: VolumeView) -> tuple[Action, ...]:
    """Let go of numbers that a killed operator claimed and nobody will use.

    What we know may be old, so the API server itself is asked before each. A volume that lives
    keeps all of its own, used or not: a write that would use one may be on its way.
    """
    volume = view.volume
    steps: list[Action] = []
    for claim in view.claims:
        own = volume is not None and claim.volume_uid == volume.meta.uid
        if not own:
            steps += [CheckUnused(VOLUME, claim), ReleaseNumber(VOLUME, claim)]
    return tuple(steps)


def _tell_orphan(replica: VolumeReplica, meta: Meta) -> Tell:
    message = (
        f"Volume {replica.volume} (uid {replica.volume_uid}) is gone, but was not deleted through"
        f" twinvault: its data on {replica.node} is kept. To erase it: kubectl delete"
        f" volumereplica {meta.name}"
    )
    return Tell(VOLUME_REPLICA, meta, reasons.REPLICA_LOST, message, warning=True)
