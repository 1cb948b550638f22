"""What the decisions about drills look at: the world at one moment, and who uses the volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from twinvault_core.drill import choose_volumes, closed_by
from twinvault_core.drill_state import parse_time
from twinvault_core.drill_view import DrillPod, DrillUsers, DrillView
from twinvault_core.model import ReplicationPair, Volume
from twinvault_core.names import ANNOTATION_PVC, DRIVER_NAME
from twinvault_core.volume_view import placed_nodes

from .evidence import (
    choose_policy,
    has_ended,
    observe_evidence,
    parse_claim_ref,
    parse_handle,
)
from .world import World

Json = Mapping[str, Any]
ClaimRef = tuple[str, str]
Handle = tuple[str, str]


@dataclass
class Memory:
    """What this process alone knows of evictions, by UID; nothing is lost with it but precision."""

    evictions: dict[str, datetime] = field(default_factory=dict)
    tried: dict[str, datetime] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def clear(self) -> None:
        for known in (self.evictions, self.tried, self.blocked):
            known.clear()


def observe_drill(
    world: World,
    pair: ReplicationPair,
    now: datetime,
    memory: Memory,
    users: DrillUsers | None = None,
    users_problem: str = "",
) -> DrillView:
    """``pair`` with everything that a decision about its drill looks at."""
    name = pair.meta.name
    by_claim = find_volumes_by_claim(world, name)
    found = (world.volumes.get(volume) for volume in choose_volumes(pair, by_claim))
    volumes = [volume for volume in found if volume is not None]
    nodes = {node for volume in volumes for node in placed_nodes(volume)}
    kube_nodes = {node.name: node for node in world.nodes.values() if node.name in nodes}
    others = [p.meta.name for p in world.pairs.values() if p.status.get("drill")]
    return DrillView(
        pair=pair,
        now=now,
        policy=choose_policy(world, pair).policy,
        by_claim=by_claim,
        volumes={v.meta.name: observe_evidence(world, v) for v in volumes},
        nodes={node: world.observe_node(node) for node in nodes},
        kube_nodes=kube_nodes,
        closed=frozenset(n for n, node in kube_nodes.items() if closed_by(node) == name),
        users=users,
        users_problem=users_problem,
        snapshots=frozenset(v.meta.name for v in volumes if _has_open_snapshot(world, v)),
        others=tuple(other for other in others if other != name),
        evictions=dict(memory.evictions),
        tried=dict(memory.tried),
        blocked=dict(memory.blocked),
    )


def find_volumes_by_claim(world: World, pair: str) -> dict[str, str]:
    """The pair's volumes by the claim that they were made for."""
    found = {}
    for volume in world.volumes.find("pair", pair):
        claim = volume.meta.annotations.get(ANNOTATION_PVC)
        if claim:
            found[claim] = volume.meta.name
    return found


def _has_open_snapshot(world: World, volume: Volume) -> bool:
    found = world.snapshots.find("volume", volume.meta.name)
    return any(s.holders and not s.ready_to_use and not s.meta.deleting for s in found)


def parse_volumes(volumes: Iterable[Json]) -> dict[ClaimRef, Handle]:
    """(driver, volume id) by (namespace, claim), from PersistentVolumes."""
    found: dict[ClaimRef, Handle] = {}
    for volume in volumes:
        ref = parse_claim_ref(volume)
        if ref is not None:
            found[ref] = parse_handle(volume)
    return found


def find_claims(handles: Mapping[ClaimRef, Handle], volumes: Iterable[str]) -> dict[str, str]:
    """namespace/name of the claim of each of ``volumes`` that has one."""
    wanted = set(volumes)
    return {
        handle: "/".join(ref)
        for ref, (driver, handle) in handles.items()
        if driver == DRIVER_NAME and handle in wanted
    }


def parse_pods(pods: Iterable[Json], handles: Mapping[ClaimRef, Handle]) -> tuple[DrillPod, ...]:
    """Pods that have not ended, with the volumes that ``handles`` knows."""
    return tuple(_parse_pod(pod, handles) for pod in pods if not has_ended(pod))


def _parse_pod(pod: Json, handles: Mapping[ClaimRef, Handle]) -> DrillPod:
    meta, spec = pod["metadata"], pod["spec"]
    ours, foreign, ephemeral = [], [], []
    for volume in spec.get("volumes") or ():
        if volume.get("ephemeral"):
            claim = f"{meta['name']}-{volume['name']}"
        elif volume.get("persistentVolumeClaim"):
            claim = volume["persistentVolumeClaim"]["claimName"]
        else:
            continue
        driver, handle = handles.get((meta["namespace"], claim), ("", ""))
        if driver == DRIVER_NAME:
            ours.append(handle)
            if volume.get("ephemeral"):
                ephemeral.append(handle)
        elif driver:
            foreign.append(claim)
    owners = (o for o in meta.get("ownerReferences") or () if o.get("controller"))
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return DrillPod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta.get("uid") or "",
        node=spec.get("nodeName") or "",
        controller=next((str(o["kind"]) for o in owners), ""),
        volumes=tuple(ours),
        foreign=tuple(foreign),
        ephemeral=tuple(ephemeral),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        deleting=bool(meta.get("deletionTimestamp")),
        deleting_since=_find_request(meta),
        placement=spec,
    )


def _find_request(meta: Json) -> datetime | None:
    """When the deletion was asked for: the timestamp of an object is when it is to be over."""
    if not meta.get("deletionTimestamp"):
        return None
    grace = timedelta(seconds=float(meta.get("deletionGracePeriodSeconds") or 0))
    return parse_time(str(meta["deletionTimestamp"])) - grace
