"""What the failover's decisions look at, taken from the world at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twinvault_core.failover_view import (
    Attachment,
    NodeEvidence,
    NodeView,
    PairPolicy,
    PodUse,
    Policy,
    VolumeEvidence,
)
from twinvault_core.model import ReplicationPair, Volume
from twinvault_core.names import DRIVER_NAME
from twinvault_core.replicated_status import find_since, is_replicated
from twinvault_core.switchover import choose_approval
from twinvault_core.volume_view import placed_nodes

from .world import World

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Users:
    """Who uses volumes on one node, as the API server said just now. ``handles``: the volume of
    each PersistentVolume of ours.
    """

    pods: tuple[PodUse, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    handles: Mapping[str, str] = field(default_factory=dict)


NOBODY = Users()


def find_replicated_nodes(world: World) -> set[str]:
    """Nodes with a replica of a replicated volume."""
    return {r.node for r in world.replicas.values() if r.replication is not None}


def observe_failover(world: World, node: str, users: Users = NOBODY, attempt: int = 0) -> NodeView:
    """``node`` with every replicated volume that has a replica there."""
    volumes = tuple(
        observe_evidence(world, volume, attempt) for volume in find_volumes(world, node)
    )
    nodes: dict[str, NodeEvidence] = {node: world.observe_node(node)}
    for evidence in volumes:
        for name in placed_nodes(evidence.volume):
            if name not in nodes:
                nodes[name] = world.observe_node(name)
    known = users is not NOBODY
    return NodeView(node, nodes, volumes, users.pods, users.attachments, attempt, known)


def find_volumes(world: World, node: str) -> list[Volume]:
    """Replicated volumes with a replica on ``node``, and those that had one there whose use may
    not have ended; by name.
    """
    found = {}
    for replica in world.replicas.find("node", node):
        volume = world.volumes.get(replica.volume)
        if volume is None or volume.record is None:
            continue
        if not is_replicated(volume) and node in placed_nodes(volume):
            continue
        if replica.volume_uid == volume.meta.uid:
            found[volume.meta.name] = volume
    return [found[name] for name in sorted(found)]


def observe_evidence(world: World, volume: Volume, attempt: int = 0) -> VolumeEvidence:
    replicas = world.replicas.find("volume", volume.meta.name)
    pair = world.pairs.get(volume.replication_pair)
    return VolumeEvidence(
        volume,
        tuple(r for r in replicas if r.volume_uid == volume.meta.uid),
        choose_policy(world, pair),
        find_since(volume.conditions),
        attempt,
    )


def choose_policy(world: World, pair: ReplicationPair | None) -> PairPolicy:
    """What the pair says; a pair that is gone has nobody who could approve."""
    if pair is None:
        return PairPolicy(Policy.MANUAL, missing=True)
    failover: Mapping[str, Any] = pair.spec.get("failover") or {}
    stable = failover.get("stableSeconds")
    return PairPolicy(
        Policy(failover.get("policy") or "Automatic"),
        find_approved(world, pair),
        60.0 if stable is None else float(stable),
    )


def find_approved(world: World, pair: ReplicationPair) -> str:
    """The StorageCluster that a person allows to take over; empty when that is used up."""
    news = world.pair_news.get(pair.meta.name, {})
    # What this leader knows goes before what the API says: None there is "cleared meanwhile".
    known = news if "approvalUsed" in news else pair.status
    return choose_approval(find_approve(pair), str(known.get("approvalUsed") or ""))[0]


def find_approve(pair: ReplicationPair) -> str:
    """``spec.failover.approve``, used up or not."""
    return str((pair.spec.get("failover") or {}).get("approve") or "")


def parse_users(node: str, pods: list[Any], attachments: list[Any], volumes: list[Any]) -> Users:
    """From Pods of the node, all VolumeAttachments and all PersistentVolumes."""
    handles = {pv["metadata"]["name"]: parse_handle(pv) for pv in volumes}
    claims = {parse_claim_ref(pv): parse_handle(pv) for pv in volumes if parse_claim_ref(pv)}
    uses = [_parse_pod(pod, claims) for pod in pods if not has_ended(pod)]
    held = []
    for obj in attachments:
        spec = obj["spec"]
        if spec.get("nodeName") != node:
            continue
        name = (spec.get("source") or {}).get("persistentVolumeName") or ""
        ours, handle = handles.get(name, ("", ""))
        volume = handle if ours == DRIVER_NAME and spec.get("attacher") == DRIVER_NAME else ""
        meta = obj["metadata"]
        held.append(Attachment(meta["name"], node, volume, meta.get("uid") or ""))
    own = {name: handle for name, (driver, handle) in handles.items() if driver == DRIVER_NAME}
    return Users(tuple(uses), tuple(held), own)


def has_ended(pod: Json) -> bool:
    """Whether it uses nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def parse_handle(pv: Json) -> tuple[str, str]:
    """(driver, volume id) of a PersistentVolume; others than CSI have no id."""
    csi = pv["spec"].get("csi") or {}
    return str(csi.get("driver") or "in-tree"), str(csi.get("volumeHandle") or "")


def parse_claim_ref(pv: Json) -> tuple[str, str] | None:
    """(namespace, name) of the claim that a PersistentVolume is bound to."""
    ref = pv["spec"].get("claimRef") or {}
    return (str(ref["namespace"]), str(ref["name"])) if ref.get("name") else None


def _parse_pod(pod: Json, claims: Mapping[tuple[str, str] | None, tuple[str, str]]) -> PodUse:
    meta, spec = pod["metadata"], pod["spec"]
    ours, foreign = [], []
    for volume in spec.get("volumes") or ():
        if volume.get("ephemeral"):
            name = f"{meta['name']}-{volume['name']}"
        elif volume.get("persistentVolumeClaim"):
            name = volume["persistentVolumeClaim"]["claimName"]
        else:
            continue
        driver, handle = claims.get((meta["namespace"], name), ("", ""))
        if driver == DRIVER_NAME:
            ours.append(handle)
        elif driver:
            foreign.append(name)
    return PodUse(
        meta["namespace"],
        meta["name"],
        meta.get("uid") or "",
        spec.get("nodeName") or "",
        tuple(ours),
        tuple(foreign),
    )
