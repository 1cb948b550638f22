"""What to do next for one Volume: place it, make its replica, grow it, report it, let it go.

The order of the writes is what makes a kill at any line, and two leaders at once, harmless:
1. The Volume carries our finalizer before anything is made for it.
2. The choice of the node is written into its status by compare-and-swap, so of two operators that
   chose differently one loses and reads what the other chose.
3. Only then the replica is made, under a name that follows from the choice.
4. The finalizer goes only when the API server itself confirms that no replica is left.
"""

from __future__ import annotations

from typing import Any

from . import reasons
from .actions import (
    VOLUME,
    VOLUME_REPLICA,
    Action,
    Create,
    Delete,
    PatchObject,
    Plan,
    Tell,
    plan_finalizer,
)
from .ids import replica_name
from .model import Meta, ReplicaState, ReplicationRecord, Role, Volume, VolumeReplica
from .names import FINALIZER_REPLICA, FINALIZER_VOLUME
from .placement import Choice, Refusal, Wish, candidate_available_bytes, choose_node
from .sizing import format_bytes
from .source_check import find_source_nodes
from .volume_delete import plan_delete, plan_give_up
from .volume_status import Growth, plan_report
from .volume_view import VolumeView, placed_nodes


def plan_volume(view: VolumeView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    volume = view.volume
    left_over = _plan_left_over(view)
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
    record = ReplicationRecord(1, decision.node, frozenset({decision.node}))
    report = plan_report(view, volume, choice=decision, record=record, now=now)
    return Plan((*first, *report, _create_replica(volume, decision)))


def decide_placement(view: VolumeView, volume: Volume) -> Choice | Refusal:
    """Where the volume goes, or why nowhere."""
    if volume.replication_pair:
        return _refuse_pair(view, volume)
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
    return choose_node(wish, view.clusters, view.candidates)


def _refuse_pair(view: VolumeView, volume: Volume) -> Refusal:
    """A volume that asks for two replicas is never silently made with one."""
    name = volume.replication_pair
    if view.pair is None:
        return Refusal(
            reasons.PAIR_UNKNOWN,
            f"ReplicationPair {name} does not exist; create it, or use a StorageClass without"
            " the parameter replicationPair",
        )
    return Refusal(
        reasons.PAIR_NOT_IMPLEMENTED,
        f"ReplicationPair {name} exists, but this version of twinvault does not replicate yet;"
        " use a StorageClass without the parameter replicationPair",
    )


def _create_replica(volume: Volume, choice: Choice) -> Create:
    return _replica(volume, choice.node, choice.storage_cluster)


def _replica(volume: Volume, node: str, storage_cluster: str) -> Create:
    spec: dict[str, Any] = {
        "volume": volume.meta.name,
        "volumeUID": volume.meta.uid,
        "nodeName": node,
        "storageCluster": storage_cluster,
        "pool": volume.pool,
        "sizeBytes": volume.size_bytes,
        "volumeMode": volume.volume_mode.value,
        "role": Role.PRIMARY.value,
    }
    if volume.fs_type:
        spec["fsType"] = volume.fs_type
    if volume.source:
        spec["source"] = volume.source.to_dict()
    name = replica_name(volume.meta.name, node)
    metadata = {"name": name, "finalizers": [FINALIZER_REPLICA]}
    return Create(VOLUME_REPLICA, name, {"metadata": metadata, "spec": spec})


def _plan_placed(view: VolumeView, volume: Volume, first: tuple[Action, ...], *, now: str) -> Plan:
    """Make the replica that was decided on, or grow it, and report."""
    own = view.own_replicas()
    missing = [node for node in placed_nodes(volume) if node not in {r.node for r in own}]
    if missing:
        return _plan_missing(view, volume, missing[0], first, now=now)
    growths = tuple(_decide_growth(view, volume, replica) for replica in own)
    steps = tuple(
        PatchObject(VOLUME_REPLICA, replica.meta, {"spec": {"sizeBytes": volume.size_bytes}})
        for replica, growth in zip(own, growths, strict=True)
        if growth.wanted and not growth.refused
    )
    refused = next((g for g in growths if g.refused), None)
    report = plan_report(view, volume, growth=refused, now=now)
    return Plan(first + steps + report, waits=refused is not None)


def _plan_missing(
    view: VolumeView, volume: Volume, node: str, first: tuple[Action, ...], *, now: str
) -> Plan:
    """A replica that is not there.

    1. The volume was never ready: the operator was stopped between choosing and making it.
    2. The volume was ready: somebody removed the replica. A new one would be empty and would look
       like the old one, so it is not made.
    """
    if volume.status_size_bytes:
        return Plan(first + plan_report(view, volume, now=now))
    name = replica_name(volume.meta.name, node)
    if any(r.meta.name == name for r in view.replicas):
        return Plan(first + plan_report(view, volume, now=now), waits=True)
    cluster = _placed_cluster(view, volume, node)
    return Plan((*first, _replica(volume, node, cluster), *plan_report(view, volume, now=now)))


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
    return tuple(steps)


def _tell_orphan(replica: VolumeReplica, meta: Meta) -> Tell:
    message = (
        f"Volume {replica.volume} (uid {replica.volume_uid}) is gone, but was not deleted through"
        f" twinvault: its data on {replica.node} is kept. To erase it: kubectl delete"
        f" volumereplica {meta.name}"
    )
    return Tell(VOLUME_REPLICA, meta, reasons.REPLICA_LOST, message, warning=True)
