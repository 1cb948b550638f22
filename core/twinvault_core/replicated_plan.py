"""The two replicas of a replicated Volume: how they are made, and what they are told.

The specs follow the record and never lead it: which replica may be primary is decided by the record
alone, and what stands in a spec may be old.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .actions import (
    SNAPSHOT,
    VOLUME,
    VOLUME_REPLICA,
    Action,
    Create,
    PatchObject,
    PatchStatus,
    Tell,
)
from .failover_view import VolumeEvidence, Wait
from .ids import snapshot_id_from_name
from .model import (
    FirstSync,
    ReplicaState,
    ReplicationRecord,
    ReplicationSettings,
    ReplicationSpec,
    Role,
    Volume,
    VolumeReplica,
)
from .names import ANNOTATION_HOLDER
from .replication_network import choose_settings
from .replication_state import Connection, Disk
from .switchover import plan_force, plan_switchover
from .volume_view import VolumeView, placed_nodes


def choose_role(record: ReplicationRecord | None, node: str) -> Role:
    """What the record says of the replica on ``node``."""
    return Role.PRIMARY if record is None or record.primary == node else Role.SECONDARY


def choose_replication(
    view: VolumeView, volume: Volume, node: str, *, peer_leaves: bool = False
) -> ReplicationSpec | None:
    """What the replica on ``node`` is told; None while an address is not known."""
    record, device = volume.record, volume.device
    peer = next((n for n in placed_nodes(volume) if n != node), "")
    if record is None or device is None or not peer:
        return None
    address, peer_address = _find_address(view, node, peer), _find_address(view, peer, node)
    if not address or not peer_address:
        return None
    mine = _replica(view, node)
    told = mine.replication if mine is not None else None
    return ReplicationSpec(
        minor=device.minor,
        port=device.port,
        address=address,
        peer_node=peer,
        peer_address=peer_address,
        epoch=record.epoch,
        first_sync=_choose_first_sync(view, volume, record, node),
        settings=_choose_settings(view, volume, node),
        # The pair's plan writes these two; here they only must not get lost.
        verify_request=told.verify_request if told else "",
        resync_hold=told.resync_hold if told else "",
        peer_leaves=peer_leaves and node == record.primary,
    )


def plan_replica_specs(
    view: VolumeView, volume: Volume, *, peer_leaves: bool = False
) -> tuple[Action, ...]:
    """Bring role and replication block of the replicas up to date.

    ``peer_leaves``: the primary's agent is to take the other one out of the record.
    """
    steps: list[Action] = []
    for replica in view.member_replicas():
        if replica.meta.deleting:
            continue
        patch: dict[str, Any] = {}
        role = choose_role(volume.record, replica.node)
        if replica.role is not role:
            patch["role"] = role.value
        patch |= _plan_block(view, volume, replica, peer_leaves)
        if patch:
            steps.append(PatchObject(VOLUME_REPLICA, replica.meta, {"spec": patch}))
    return tuple(steps)


def _plan_block(
    view: VolumeView, volume: Volume, replica: VolumeReplica, peer_leaves: bool
) -> dict[str, Any]:
    """The replication block if it is not as it should be. A volume with one replica has none."""
    if len(placed_nodes(volume)) < 2:
        return {} if replica.replication is None else {"replication": None}
    wanted = choose_replication(view, volume, replica.node, peer_leaves=peer_leaves)
    if wanted is None or replica.replication == wanted:
        return {}
    return {"replication": wanted.to_dict()}


def may_be_made(volume: Volume, node: str) -> bool:
    """Whether a missing replica may be made on ``node``, blank, to be filled by the other one.

    1. The volume never was ready: nothing was written yet.
    2. The record has the node neither as primary nor in sync: nobody counts on what was there.
    """
    record = volume.record
    if record is None or not volume.status_size_bytes:
        return True
    return node != record.primary and node not in record.in_sync


@dataclass(frozen=True)
class Move:
    """What is done about a move of the primary that somebody asked for; ``waits`` says for what."""

    actions: tuple[Action, ...] = ()
    waits: str = ""


def plan_move(view: VolumeView, volume: Volume, *, now: str) -> Move:
    """Follow the pod, or a person's word; never the loss of a node (that is the failover's).

    What the replicas report may be old; the compare-and-swap makes that harmless: the old primary
    is promoted again only by a write of the same record, and one of the two writes fails.
    """
    evidence = VolumeEvidence(volume, view.own_replicas())
    forced = plan_force(evidence, view.nodes, snapshot=view.rescue, now=now)
    step = forced
    if step is None:
        away = replace(volume, published_to=_choose_target(view, volume))
        step = plan_switchover(replace(evidence, volume=away), view.nodes)
    if step is None:
        return Move()
    if isinstance(step, Wait):
        snapshot = _plan_rescue(volume) if step.reason == "SnapshotFirst" else ()
        return Move(snapshot, _describe_wait(volume, step, forced is not None))
    status = {"replication": step.after.to_dict(), **step.also}
    told = f"{step.message}; epoch {step.after.epoch}"
    warning = forced is not None
    return Move(
        (
            PatchStatus(VOLUME, volume.meta, status),
            Tell(VOLUME, volume.meta, step.reason, told, warning),
        )
    )


def _describe_wait(volume: Volume, wait: Wait, is_forced: bool) -> str:
    """Which move waits, and for what; for the condition Progressing."""
    record, wanted = volume.record, volume.force_primary
    if is_forced and wanted is not None:
        return f"forcing {wanted.node} to be primary waits: {wait.message}"
    if record is None or not volume.published_to:
        return wait.message
    return f"moving it from {record.primary} to {volume.published_to[0]} waits: {wait.message}"


def _choose_target(view: VolumeView, volume: Volume) -> tuple[str, ...]:
    """Where the primary is wanted: with the pod; without one not on a node that is to be empty."""
    record = volume.record
    if volume.published_to or record is None or record.primary not in view.leaving:
        return volume.published_to
    return tuple(n for n in placed_nodes(volume) if n not in view.leaving)[:1]


def rescue_name(volume: Volume) -> str:
    """Name of the Snapshot that is taken before a forced promotion; one for each epoch."""
    epoch = volume.record.epoch if volume.record is not None else 0
    return snapshot_id_from_name(f"{volume.meta.name}-before-force-{epoch}")


def _plan_rescue(volume: Volume) -> tuple[Action, ...]:
    """A Snapshot of what the chosen node holds, whatever it misses."""
    if volume.force_primary is None:
        return ()
    name = rescue_name(volume)
    metadata = {"name": name, "annotations": {ANNOTATION_HOLDER: volume.force_primary.node}}
    return (Create(SNAPSHOT, name, {"metadata": metadata, "spec": {"volume": volume.meta.name}}),)


def _choose_first_sync(
    view: VolumeView, volume: Volume, record: ReplicationRecord, node: str
) -> FirstSync:
    """How two replicas become equal at first; said to the primary alone, and only until they are.

    Skip needs proof: both agents see the link up, new metadata, and not one allocated extent.
    """
    mine = _replica(view, node)
    told = mine.replication.first_sync if mine and mine.replication else FirstSync.NONE
    if node != record.primary or record.in_sync != {node}:
        return FirstSync.NONE
    if volume.status_size_bytes:
        joins = mine is not None and mine.replication is None
        return FirstSync.KEEP if joins or told is FirstSync.KEEP else FirstSync.NONE
    own = view.own_replicas()
    reports = [r.replication_status for r in own if r.state is ReplicaState.READY]
    if len(reports) < len(placed_nodes(volume)):
        return told
    for report in reports:
        if report is None or report.connection is not Connection.CONNECTED:
            return told
        if report.disk is not Disk.INCONSISTENT or report.peer_disk is not Disk.INCONSISTENT:
            return told
    equal = all(report is not None and report.blank for report in reports) and not volume.source
    same_size = len({r.status_size_bytes for r in own}) == 1
    return FirstSync.SKIP if equal and same_size else FirstSync.FULL


def _choose_settings(view: VolumeView, volume: Volume, node: str) -> ReplicationSettings:
    known, candidate = _replica(view, node), view.candidate(node)
    if view.pair is not None:
        site = candidate.node.storage_cluster if candidate is not None else ""
        cluster = view.clusters.get(known.storage_cluster if known is not None else site)
        return choose_settings(view.pair, cluster.pool(volume.pool) if cluster else None)
    return known.replication.settings if known and known.replication else ReplicationSettings()


def _find_address(view: VolumeView, node: str, peer: str) -> str:
    """As it is known now; a node that does not tell keeps the one that its replicas have."""
    if view.addresses.get(node):
        return view.addresses[node]
    own, other = _replica(view, node), _replica(view, peer)
    if own is not None and own.replication is not None:
        return own.replication.address
    if other is not None and other.replication is not None:
        return other.replication.peer_address
    return ""


def _replica(view: VolumeView, node: str) -> VolumeReplica | None:
    return next((r for r in view.own_replicas() if r.node == node), None)
