"""Which nodes hold a volume's replicas, once it lives: one joins, leaves, or takes another's place.

The order keeps R1 whatever is killed or comes late:
1. The new node is chosen; when there is none, nothing is touched.
2. The primary's agent is told that its peer leaves, and takes it out of the record, as it does for
   any peer that is not equal. The pod writes on.
3. A new port is claimed: each set of replicas has one of its own, so a node that was left behind
   finds nobody where it still looks. DRBD 8.4 does not ask who calls.
4. One write of the Volume's status, by the operator, by compare-and-swap: the new nodes, the new
   port, the record's next serial. The rules refuse it while the record counts on who leaves.
5. Only then the new replica is made, blank, and the two agents are told of one another.
6. When the new one is in sync the old replica's object is deleted; its agent lets go of it, and
   erases it or keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .actions import (
    NODE,
    VOLUME,
    VOLUME_REPLICA,
    Action,
    ClaimNumber,
    Delete,
    LabelNode,
    PatchObject,
    PatchStatus,
    Tell,
)
from .model import ReplicationPair, ReplicationRecord, Volume
from .names import LABEL_REPLICA_PREFIX
from .numbers import Device, device_of, numbers_of
from .pair_placement import refuse_pool
from .placement import Choice, Refusal, Wish, choose_node, shorten_reasons
from .replicated_status import is_in_sync
from .replication_network import find_address, is_same_family, refuse_node
from .replication_record import RecordRefusal, change_members
from .replication_state import Disk
from .replication_view import StepKind
from .volume_delete import plan_give_up
from .volume_view import VolumeView, placed_nodes


class Change(StrEnum):
    """What a person asked for and is not so yet."""

    NONE = ""
    JOIN = "Join"
    LEAVE = "Leave"
    REPLACE = "Replace"


@dataclass(frozen=True)
class MemberPlan:
    """``waits``: what the change waits for, for people. ``peer_leaves``: the primary's agent is to
    take the other replica out of the record. ``decided``: the write that changes the members is
    among ``actions``; the rest of the plan is made from what is there after it.
    """

    actions: tuple[Action, ...] = ()
    waits: str = ""
    peer_leaves: bool = False
    decided: bool = False


def find_change(volume: Volume, leaving: frozenset[str]) -> Change:
    """``leaving``: nodes that a person wants to be empty, or said to be lost for good."""
    record, nodes = volume.record, placed_nodes(volume)
    if record is None or not volume.status_size_bytes or volume.meta.deleting:
        return Change.NONE
    if _is_forced_now(volume):
        return Change.NONE
    if len(nodes) < 2:
        return Change.JOIN if nodes and volume.replication_pair else Change.NONE
    if not volume.replication_pair:
        return Change.LEAVE
    return Change.REPLACE if set(nodes) & leaving else Change.NONE


def _is_forced_now(volume: Volume) -> bool:
    """A person is choosing a replica: nothing is taken away meanwhile."""
    wanted = volume.force_primary
    return wanted is not None and volume.status.get("forcePrimaryUsed") != wanted.node


def plan_members(view: VolumeView, volume: Volume) -> MemberPlan:
    """The next step towards the replicas that a person asked for."""
    change, record = find_change(volume, view.leaving), volume.record
    if change is Change.NONE or record is None:
        return MemberPlan()
    other = next((n for n in placed_nodes(volume) if n != record.primary), "")
    obstacle = _find_obstacle(view, volume, record)
    if obstacle:
        return MemberPlan(waits=obstacle)
    if change is Change.LEAVE:
        if other in record.in_sync:
            return _ask_to_drop(record, other)
        return _write(view, volume, record, Choice("", "", ()), other)
    if change is Change.REPLACE and other not in view.leaving:
        return MemberPlan(waits=_describe_primary(volume, record))
    choice = choose_new_node(view, volume, other)
    if isinstance(choice, Refusal):
        return MemberPlan(waits=f"no node for the other replica: {choice.message}")
    if other in record.in_sync:
        return _ask_to_drop(record, other)
    return _write(view, volume, record, choice, other)


def _find_obstacle(view: VolumeView, volume: Volume, record: ReplicationRecord) -> str:
    """Only a primary that is well gives up its other replica, or fills a new one."""
    primary = record.primary
    if primary not in placed_nodes(volume):
        return f"{primary} is primary and holds no replica any more"
    if primary in view.lost:
        return f"node {primary} {view.lost[primary]}: its replica must be well first"
    if volume.published_to and volume.published_to[0] != primary:
        text = f"a pod wants the volume on {volume.published_to[0]}"
        return f"{text}, and {primary} is still primary: the move of the pod ends first"
    if primary not in record.in_sync:
        others = ", ".join(sorted(record.in_sync))
        return f"only {others} holds every write: the replica on {primary} must be in sync first"
    replica = next((r for r in view.own_replicas() if r.node == primary), None)
    report = replica.replication_status if replica is not None else None
    if report is None or report.step == StepKind.UP.value:
        return ""  # not below DRBD, or not yet
    if report.frozen or report.disk is not Disk.UP_TO_DATE:
        seen = "frozen" if report.frozen else report.disk.value
        return f"the replica on {primary} is {seen}: it must be well first"
    return ""


def _describe_primary(volume: Volume, record: ReplicationRecord) -> str:
    if volume.published_to:
        return (
            f"{record.primary} is primary: its replica moves when the pod has gone to the other"
            f" node (kubectl drain {record.primary})"
        )
    return f"{record.primary} is primary: the other node takes over first"


def _ask_to_drop(record: ReplicationRecord, other: str) -> MemberPlan:
    text = f"the agent of {record.primary} takes {other} out of the record first"
    return MemberPlan(waits=text, peer_leaves=True)


# -- where to ------------------------------------------------------------------------------------


def choose_new_node(view: VolumeView, volume: Volume, other: str) -> Choice | Refusal:
    """A node of ``other``'s site, or of the pair's other site when there is none yet."""
    pair, record = view.pair, volume.record
    assert record is not None
    if pair is None or pair.mode != "Sync" or pair.meta.deleting:
        name = volume.replication_pair
        return Refusal("PairUnknown", f"ReplicationPair {name} with mode Sync does not exist")
    home = _site_of(view, volume, record.primary)
    away = next((site for site in pair.clusters if site != home), "")
    if home not in pair.clusters or not away:
        text = (
            f"{record.primary} is in StorageCluster {home}, which is not of pair {pair.meta.name}"
        )
        return Refusal("ClusterUnknown", text)
    unfit = refuse_pool(volume.pool, pair, view.clusters)
    if unfit is not None:
        return unfit
    unable = _refuse_primary(view, pair, record.primary)
    if unable:
        return Refusal("NoReplication", f"{record.primary}: {unable}")
    wish = Wish(
        size_bytes=volume.size_bytes,
        pool=volume.pool,
        storage_cluster=_site_of(view, volume, other) or away,
        refused=_refuse_nodes(view, volume, pair, record.primary),
    )
    return choose_node(wish, view.clusters, view.candidates)


def _site_of(view: VolumeView, volume: Volume, node: str) -> str:
    replica = next((r for r in view.own_replicas() if r.node == node), None)
    if replica is not None:
        return replica.storage_cluster
    for entry in volume.status.get("replicas") or ():
        if entry.get("node") == node:
            return str(entry.get("storageCluster") or "")
    candidate = view.candidate(node)
    return candidate.node.storage_cluster if candidate is not None else ""


def _refuse_primary(view: VolumeView, pair: ReplicationPair, node: str) -> str:
    candidate = view.candidate(node)
    if candidate is None:
        return "its StorageNode is gone"
    return refuse_node(pair, candidate.node, candidate.internal_ip)


def _refuse_nodes(
    view: VolumeView, volume: Volume, pair: ReplicationPair, primary: str
) -> Mapping[str, str]:
    home = view.candidate(primary)
    near = find_address(pair, home.node, home.internal_ip) if home is not None else ""
    held = {r.node for r in view.replicas}
    refused = {}
    for candidate in view.candidates:
        name, why = candidate.name, refuse_node(pair, candidate.node, candidate.internal_ip)
        far = find_address(pair, candidate.node, candidate.internal_ip)
        if name in held or name in placed_nodes(volume):
            why = "has, or still has, a replica of this volume"
        elif volume.meta.name in candidate.node.orphans:
            why = (
                "keeps the data of an earlier replica of this volume; to use the node erase that"
                f" (spec.eraseOrphans of StorageNode {name})"
            )
        elif not why and near and far and not is_same_family(near, far):
            why = f"has {far}, and {primary} has {near}: they need addresses of one family"
        if why:
            refused[name] = why
    return refused


# -- the write -----------------------------------------------------------------------------------


def _write(
    view: VolumeView, volume: Volume, record: ReplicationRecord, choice: Choice, other: str
) -> MemberPlan:
    """Claim a number for the new port, then change members, port and record in one write."""
    nodes = (record.primary, choice.node) if choice.node else (record.primary,)
    after = change_members(record, nodes)
    if isinstance(after, RecordRefusal):
        return MemberPlan(waits=after.message)
    placement = {"nodes": list(nodes), "changed": True}
    status: dict[str, Any] = {"replication": after.to_dict(), "placement": placement}
    actions: list[Action] = []
    if choice.node:
        number = _choose_number(view, volume)
        if number is None:
            text = "every DRBD device number of the cluster is taken: delete replicated volumes"
            return MemberPlan(waits=text)
        actions.append(ClaimNumber(VOLUME, volume.meta, number))
        status["replicationDevice"] = _next_device(volume, number).to_dict()
        placement["reasons"] = shorten_reasons(choice.reasons)
    actions.append(PatchStatus(VOLUME, volume.meta, status))
    reason, text = _tell(record, choice.node, other)
    actions.append(Tell(VOLUME, volume.meta, reason, text))
    return MemberPlan(tuple(actions), decided=True)


def _choose_number(view: VolumeView, volume: Volume) -> int | None:
    """One that this volume claimed and never used, else a free one; never one that it ever used:
    a replica that was left behind keeps looking there.
    """
    used = numbers_of(volume.device) | view.former_numbers()
    spare = [c.number for c in view.own_claims() if c.number not in used]
    free = view.free_number if view.free_number not in used else None
    return min(spare, default=free)


def _next_device(volume: Volume, number: int) -> Device:
    """The device number stays: a filesystem may be mounted from it."""
    before, port = volume.device, device_of(number).port
    if before is None:
        return device_of(number)
    return Device(before.minor, port, (*before.retired, before.port))


def _tell(record: ReplicationRecord, new: str, other: str) -> tuple[str, str]:
    if not new:
        return "ReplicaRemoved", f"the volume lives on {record.primary} alone now, without {other}"
    if not other:
        return "ReplicaAdded", f"{new} gets a replica; all of it is copied from {record.primary}"
    text = f"{new} takes the place of {other}; all of it is copied from {record.primary}"
    return "ReplicaMoved", text


# -- what was left behind ------------------------------------------------------------------------


def plan_former_replicas(view: VolumeView, volume: Volume) -> tuple[Action, ...]:
    """Replicas on nodes that are no members any more: told whether to keep their data, deleted,
    and forgotten when their node is lost for good. Not before the new one is in sync: until then
    theirs is the only other copy, if an old one.
    """
    steps: list[Action] = []
    if not placed_nodes(volume) or not is_in_sync(volume):
        return ()
    for replica in view.own_replicas():
        if replica.node in placed_nodes(volume):
            continue
        if volume.keep_removed and not replica.keep_data:
            steps.append(PatchObject(VOLUME_REPLICA, replica.meta, {"spec": {"keepData": True}}))
        if not replica.meta.deleting:
            steps.append(Delete(VOLUME_REPLICA, replica.meta))
            continue
        steps += plan_give_up(view, replica)
    return tuple(steps)


def plan_labels(view: VolumeView) -> tuple[Action, ...]:
    """Let pods go where the replicas are now: see ``LABEL_REPLICA_PREFIX``."""
    volume, wanted = view.volume, frozenset[str]()
    changed = volume is not None and (volume.status.get("placement") or {}).get("changed")
    if volume is not None and changed and not volume.meta.deleting:
        wanted = frozenset(placed_nodes(volume))
    key = LABEL_REPLICA_PREFIX + view.name
    return tuple(
        LabelNode(NODE, node, key, node in wanted) for node in sorted(wanted ^ view.labelled)
    )
