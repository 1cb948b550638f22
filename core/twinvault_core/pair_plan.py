"""What to do next for one ReplicationPair: check it, keep it while volumes use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import reasons
from .actions import (
    REPLICATION_PAIR,
    VOLUME,
    Action,
    CheckNoVolumes,
    Plan,
    Tell,
    plan_finalizer,
    plan_release,
    plan_status,
)
from .conditions import DEGRADED, IN_USE, NOT_IMPLEMENTED, READY, Condition, find_condition
from .link_check import LinkView, judge_link
from .model import ReplicationPair, StorageCluster, Volume
from .names import FINALIZER_CLUSTER
from .pair_placement import refuse_pool
from .pair_volume import PairVolume
from .placement import Candidate
from .replicated_status import is_in_sync, is_replicated
from .replication_network import find_network_problem, refuse_node
from .resync_slots import plan_resyncs
from .switchover import choose_approval
from .verify_plan import plan_verify
from .words import join_some

NAMED = 3
"""How many volumes or nodes a message names."""


@dataclass(frozen=True)
class PairView:
    """``volumes``: those that ask for this pair, by name. ``nodes``: of its two clusters.

    ``upkeep``: the same volumes with their replicas, for what is done to them in turn. ``extra``:
    further fields of the status, of failovers; a value None removes one.
    """

    pair: ReplicationPair
    clusters: Mapping[str, StorageCluster] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    nodes: tuple[Candidate, ...] = ()
    upkeep: tuple[PairVolume, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairCounts:
    """Volumes of a pair. ``degraded`` includes the resyncing and the frozen ones."""

    total: int = 0
    in_sync: int = 0
    degraded: int = 0
    resyncing: int = 0
    frozen: int = 0

    def to_dict(self) -> dict[str, int]:
        return {
            "total": self.total,
            "inSync": self.in_sync,
            "degraded": self.degraded,
            "resyncing": self.resyncing,
            "frozen": self.frozen,
        }


def count_volumes(volumes: tuple[Volume, ...]) -> PairCounts:
    """From what the volumes' own conditions say."""
    weak = [find_weakness(v) for v in volumes]
    found = [w for w in weak if w is not None]
    return PairCounts(
        total=len(volumes),
        in_sync=sum(1 for v in volumes if is_replicated(v) and is_in_sync(v)),
        degraded=len(found),
        resyncing=sum(1 for w in found if w.reason == reasons.RESYNCING),
        frozen=sum(1 for w in found if w.reason == reasons.FROZEN),
    )


def find_weakness(volume: Volume) -> Condition | None:
    """Its Degraded condition when that is True."""
    found = find_condition(volume.conditions, DEGRADED)
    return found if found is not None and found.status else None


def plan_pair(view: PairView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    pair = view.pair
    use = _judge_use(view)
    if pair.meta.deleting and not use.status:
        return Plan(_plan_end(pair))
    first: tuple[Action, ...] = ()
    if not pair.meta.deleting:
        first = plan_finalizer(REPLICATION_PAIR, pair.meta, FINALIZER_CLUSTER)
    problems = find_problems(view) + _find_unreachable(view, now)
    ready = _judge_ready(view, problems, use)
    degraded = _judge_degraded(view)
    conditions = [*_judge_mode(pair), use, ready, degraded]
    verify = plan_verify(pair, view.upkeep, now=now)
    if verify.condition is not None:
        conditions.append(verify.condition)
    resyncs = plan_resyncs(pair, view.upkeep, now=now)
    turns = resyncs.actions + verify.actions
    counts = count_volumes(view.volumes)
    wanted = {
        "volumes": counts.to_dict(),
        "summary": _summary(pair, counts),
        **resyncs.status,
        **verify.status,
        **view.extra,
        **_keep_approval(view),
    }
    status = plan_status(REPLICATION_PAIR, pair.meta, pair.status, wanted, conditions, now=now)
    told = _tell(pair, READY, ready) + _tell(pair, DEGRADED, degraded)
    return Plan(first + status + turns + told)


def _plan_end(pair: ReplicationPair) -> tuple[Action, ...]:
    """Let it go, after asking the API server itself: of a volume that was just made we may not have
    heard, and it would be left without anybody who could approve its failover.
    """
    release = plan_release(REPLICATION_PAIR, pair.meta, FINALIZER_CLUSTER)
    return (CheckNoVolumes(VOLUME, pair.meta.name), *release) if release else ()


def _keep_approval(view: PairView) -> dict[str, str | None]:
    """What is known of failovers counts; who knows nothing goes by the status. Cleared with the
    field, whoever leads then.
    """
    known = view.extra if "approvalUsed" in view.extra else view.pair.status
    approve = str((view.pair.spec.get("failover") or {}).get("approve") or "")
    _, used = choose_approval(approve, str(known.get("approvalUsed") or ""))
    return {"approvalUsed": used or None}


def _summary(pair: ReplicationPair, counts: PairCounts) -> dict[str, str]:
    return {"clusters": join_some(pair.clusters), "inSync": f"{counts.in_sync}/{counts.total}"}


def _judge_mode(pair: ReplicationPair) -> list[Condition]:
    """Said of Async pairs, and taken back where an older version said it of a Sync one."""
    if pair.mode == "Async":
        text = "this version of twinvault has no mode Async yet: volumes that ask for it wait"
        return [Condition(NOT_IMPLEMENTED, True, reasons.NOT_IMPLEMENTED, text)]
    if find_condition(pair.status.get("conditions") or (), NOT_IMPLEMENTED) is None:
        return []
    return [Condition(NOT_IMPLEMENTED, False, reasons.READY, "mode Sync is there")]


def find_problems(view: PairView) -> tuple[tuple[str, str], ...]:
    """(reason, message) of everything in the spec that cannot work."""
    spec = view.pair.spec
    problems = [
        (
            reasons.CLUSTER_UNKNOWN,
            f"StorageCluster {name} does not exist: create it, or make a pair with another one",
        )
        for name in view.pair.clusters
        if name not in view.clusters
    ]
    preferred = spec.get("preferredCluster")
    approved = (spec.get("failover") or {}).get("approve")
    for what, name in (("preferredCluster", preferred), ("failover.approve", approved)):
        if name and name not in view.pair.clusters:
            problems.append((reasons.INVALID, f"{what} {name} is not one of the two clusters"))
    network = find_network_problem(view.pair)
    if network:
        problems.append((reasons.INVALID, network))
    return tuple(problems + _compare_pools(view) + _find_unable(view))


def _find_unable(view: PairView) -> list[tuple[str, str]]:
    """Sites without nodes, and those of which no node can replicate now."""
    problems = []
    for site in view.pair.clusters:
        nodes = [c for c in view.nodes if c.node.storage_cluster == site]
        refused = {c.name: refuse_node(view.pair, c.node, c.internal_ip) for c in nodes}
        if not nodes and site in view.clusters:
            problems.append((reasons.NO_NODES, _describe_empty(view.clusters[site])))
        if not all(refused.values()) or not nodes:
            continue
        told = "; ".join(f"{name}: {why}" for name, why in sorted(refused.items())[:NAMED])
        text = f"no node of StorageCluster {site} can replicate ({told})"
        problems.append((reasons.NO_REPLICATION, text))
    return problems


def _describe_empty(cluster: StorageCluster) -> str:
    labels = ",".join(f"{key}={value}" for key, value in sorted(cluster.match_labels.items()))
    return (
        f"StorageCluster {cluster.meta.name} has no node, so no volume can have a replica there:"
        f" label nodes with {labels}, or correct its nodeSelector"
    )


def _compare_pools(view: PairView) -> list[tuple[str, str]]:
    """That no pool can hold a volume at both sites, and why."""
    if any(name not in view.clusters for name in view.pair.clusters):
        return []
    shared, unfit = _find_shared_pools(view)
    one, other = view.pair.clusters
    if not shared:
        text = (
            f"StorageClusters {one} and {other} have no pool of the same name, so no volume can"
            " live on both: add one to a cluster"
        )
        return [(reasons.INVALID, text)]
    if len(unfit) < len(shared):
        return []
    text = (
        f"no pool can be replicated: {'; '.join(unfit[:NAMED])}. Add a pool of the same name and"
        " kind to both StorageClusters"
    )
    return [(reasons.POOLS_DIFFER, text)]


def _find_shared_pools(view: PairView) -> tuple[list[str], list[str]]:
    """(pools that both sites have, why some of them cannot be replicated), by name."""
    clusters = [view.clusters[name] for name in view.pair.clusters if name in view.clusters]
    shared = sorted(set.intersection(*({p.name for p in c.pools} for c in clusters)))
    refused = (refuse_pool(pool, view.pair, view.clusters) for pool in shared)
    return shared, [refusal.message for refusal in refused if refusal is not None]


def _find_unreachable(view: PairView, now: str) -> tuple[tuple[str, str], ...]:
    """Pairs of nodes between which no volume gets through. One that does proves the way."""
    links: dict[frozenset[str], list[LinkView]] = {}
    for volume in sorted(view.upkeep, key=lambda v: v.name):
        link = judge_link(volume.volume, volume.replicas, volume.lost, now=now)
        if link is not None:
            links.setdefault(link.nodes, []).append(link)
    cut = sorted(found[0].trouble for found in links.values() if all(v.trouble for v in found))
    if not cut:
        return ()
    more = f"; and {len(cut) - NAMED} more pairs of nodes" if len(cut) > NAMED else ""
    return ((reasons.NETWORK_UNREACHABLE, "; ".join(cut[:NAMED]) + more),)


def _judge_use(view: PairView) -> Condition:
    if not view.volumes:
        return Condition(IN_USE, False, reasons.NOT_IN_USE, "no volume uses it")
    names = [v.meta.name for v in view.volumes]
    some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    message = f"{len(view.volumes)} volumes use it: {some}"
    return Condition(IN_USE, True, reasons.HAS_VOLUMES, message)


def _judge_ready(
    view: PairView, problems: tuple[tuple[str, str], ...], use: Condition
) -> Condition:
    if view.pair.meta.deleting:
        message = f"being deleted: {use.message}; delete them first"
        return Condition(READY, False, reasons.DELETING, message)
    if problems:
        message = "; ".join(message for _, message in problems)
        return Condition(READY, False, problems[0][0], message)
    if view.pair.mode == "Async":
        text = "the pair is well formed, but this version of twinvault has no mode Async yet"
        return Condition(READY, False, reasons.NOT_IMPLEMENTED, text)
    text = f"volumes are replicated between {' and '.join(view.pair.clusters)}"
    _, unfit = _find_shared_pools(view)
    if unfit:
        text += f"; not those of every pool: {'; '.join(unfit[:NAMED])}"
    return Condition(READY, True, reasons.READY, text)


def _judge_degraded(view: PairView) -> Condition:
    weak = [(v.meta.name, find_weakness(v)) for v in view.volumes]
    found = [(name, condition) for name, condition in weak if condition is not None]
    if not found:
        return Condition(DEGRADED, False, reasons.HEALTHY, "nothing is wrong")
    told = "; ".join(f"{name}: {condition.message}" for name, condition in found[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    reason = next((c.reason for _, c in found if c.reason == reasons.FROZEN), found[0][1].reason)
    text = f"{len(found)} of {len(view.volumes)} volumes: {told}{more}"
    return Condition(DEGRADED, True, reason, text)


def _tell(pair: ReplicationPair, type_: str, found: Condition) -> tuple[Action, ...]:
    before = find_condition(pair.status.get("conditions") or (), type_)
    if before is not None and (before.status, before.reason) == (found.status, found.reason):
        return ()
    if before is None and found.reason == reasons.HEALTHY:
        return ()
    good = found.reason in (reasons.READY, reasons.HEALTHY)
    return (Tell(REPLICATION_PAIR, pair.meta, found.reason, found.message, warning=not good),)
