"""The operator's part in moving replicas: the real plans, and what their steps do to the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twinvault_core import volume_plan
from twinvault_core.actions import (
    VOLUME,
    Action,
    CheckUnused,
    ClaimNumber,
    Delete,
    PatchObject,
    PatchStatus,
    ReleaseNumber,
)
from twinvault_core.failover_view import NodeEvidence, VolumeEvidence
from twinvault_core.member_plan import plan_former_replicas
from twinvault_core.model import (
    Meta,
    NodeReplication,
    PoolSpec,
    PoolState,
    PoolStatus,
    ReplicationPair,
    ReplicationRecord,
    ReplicationSpec,
    StorageCluster,
    StorageNode,
    Volume,
)
from twinvault_core.numbers import Claim, Device, choose_number, numbers_of
from twinvault_core.placement import Candidate
from twinvault_core.replicated_plan import choose_replication, may_be_made, plan_replica_specs
from twinvault_core.volume_view import VolumeView, placed_nodes

from .api import Replica

if TYPE_CHECKING:
    from .operator import Operator

SITES = ("east", "west")
POOL = PoolSpec("fast")
PAIR = ReplicationPair(Meta("metro"), SITES, "Sync")
CLUSTERS = {site: StorageCluster(Meta(site), {}, (POOL,)) for site in SITES}


def site_of(node: str) -> str:
    return SITES[0] if node == "a" else SITES[1]


def address_of(node: str) -> str:
    return f"10.0.0.{ord(node)}"


def plan_and_apply(
    operator: Operator, evidence: VolumeEvidence, nodes: Mapping[str, NodeEvidence]
) -> None:
    """One plan for the volume's replicas, step by step, from what this operator knows."""
    view = observe(operator, evidence, nodes)
    volume = view.volume
    assert volume is not None
    members = operator.world.decisions.members(view, volume)
    first = (*volume_plan._plan_claims(view), *members.actions)
    for action in (*first, *plan_former_replicas(view, volume)):
        if not apply(operator, action):
            return
    if members.decided:
        return
    for action in plan_replica_specs(view, volume, peer_leaves=members.peer_leaves):
        apply(operator, action)
    _make_missing(operator, view, volume)


def observe(
    operator: Operator, evidence: VolumeEvidence, nodes: Mapping[str, NodeEvidence]
) -> VolumeView:
    cache = operator.cache
    record: ReplicationRecord = cache["record"]
    volume = replace(
        evidence.volume,
        meta=replace(evidence.volume.meta, uid="uid"),
        replication_pair=PAIR.meta.name if cache["paired"] else "",
        device=cache["device"],
        status_size_bytes=4096 if cache["made"] else 0,
        status={"placement": {"nodes": sorted(record.nodes)}},
    )
    return VolumeView(
        "v",
        volume,
        evidence.replicas,
        CLUSTERS,
        tuple(_candidate(n, cache["leaving"]) for n in operator.world.nodes),
        pair=PAIR if cache["paired"] else None,
        lost={n: "is silent" for n, seen in nodes.items() if seen.expired},
        addresses={n: address_of(n) for n in operator.world.nodes},
        claims=tuple(Claim(n, "v", "uid", str(n)) for n in sorted(cache["claims"])),
        free_number=choose_number(cache["claims"]),
        nodes=nodes,
        leaving=frozenset(cache["leaving"]) & record.nodes,
        gone=frozenset(cache["gone"]),
    )


def _candidate(node: str, leaving: set[str]) -> Candidate:
    state = PoolStatus("fast", PoolState.READY, size_bytes=1 << 30)
    return Candidate(
        StorageNode(
            Meta(node),
            site_of(node),
            (POOL,),
            evacuate=node in leaving,
            pool_status=(state,),
            replication=NodeReplication(available=True, address=address_of(node)),
        ),
        {},
    )


def apply(operator: Operator, action: Action) -> bool:
    """False: the rest of the plan is not carried out."""
    api = operator.world.api
    if isinstance(action, ClaimNumber):
        taken = action.number in api.claims and action.number not in operator.cache["claims"]
        api.claims.add(action.number)
        return not taken
    if isinstance(action, CheckUnused):
        return action.claim.number not in numbers_of(api.device)
    if isinstance(action, ReleaseNumber):
        api.claims.discard(action.claim.number)
    elif isinstance(action, PatchStatus) and action.kind == VOLUME:
        return _patch_volume(operator, action.status)
    elif isinstance(action, Delete):
        _write(operator, action.meta, lambda known: replace(known, deleting=True))
    elif isinstance(action, PatchObject):
        return _patch_replica(operator, action)
    return True


def _patch_volume(operator: Operator, status: Mapping[str, Any]) -> bool:
    """Members and record are sent like any write of the record; a port that is retired at once."""
    api, cache = operator.world.api, operator.cache
    device = Device.parse(status.get("replicationDevice")) or cache["device"]
    if "replication" in status:
        after = ReplicationRecord.parse(status["replication"], status["placement"]["nodes"])
        assert after is not None
        api.send(cache["version"], after, "", device)
        return False
    if api.version != cache["version"]:
        return False
    api.device = device
    api.touch()
    return True


def _patch_replica(operator: Operator, action: PatchObject) -> bool:
    patch = action.patch.get("spec")
    if patch is None:
        gone = operator.world.api.replicas
        node = action.meta.name.partition(".")[2]
        if _is_current(operator, action.meta):
            del gone[node]
        return True
    if "replication" in patch:
        spec = ReplicationSpec.parse(patch["replication"])
        return _write(operator, action.meta, lambda known: replace(known, spec=spec))
    return True


def _is_current(operator: Operator, meta: Meta) -> bool:
    node = meta.name.partition(".")[2]
    known = operator.cache["replicas"].get(node)
    return known is not None and operator.world.api.replicas.get(node) == known


def _write(operator: Operator, meta: Meta, change: Any) -> bool:
    """By compare-and-swap on the replica's own version."""
    if not _is_current(operator, meta):
        return False
    replicas, node = operator.world.api.replicas, meta.name.partition(".")[2]
    replicas[node] = operator.cache["replicas"][node] = change(replicas[node])
    return True


def _make_missing(operator: Operator, view: VolumeView, volume: Volume) -> None:
    api = operator.world.api
    for node in placed_nodes(volume):
        known = operator.cache["replicas"].get(node)
        if known is not None or (volume.status_size_bytes and not may_be_made(volume, node)):
            continue
        spec = choose_replication(view, volume, node) if len(placed_nodes(volume)) > 1 else None
        if node not in api.replicas:
            api.counter += 1
            api.replicas[node] = Replica(api.counter, node, spec)
