"""What to do next for one ReplicationPair: check it, keep it while volumes use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import reasons
from .actions import REPLICATION_PAIR, Action, Plan, Tell, plan_finalizer, plan_release, plan_status
from .conditions import IN_USE, NOT_IMPLEMENTED, READY, Condition, find_condition
from .model import ReplicationPair, StorageCluster
from .names import FINALIZER_CLUSTER


@dataclass(frozen=True)
class PairView:
    """``volumes``: names of the Volumes that ask for this pair."""

    pair: ReplicationPair
    clusters: Mapping[str, StorageCluster] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()


def plan_pair(view: PairView, *, now: str) -> Plan:
    """The next steps for ``view``; ``now`` (RFC 3339) dates changed conditions."""
    pair = view.pair
    use = _judge_use(view)
    if pair.meta.deleting and not use.status:
        return Plan(plan_release(REPLICATION_PAIR, pair.meta, FINALIZER_CLUSTER))
    first: tuple[Action, ...] = ()
    if not pair.meta.deleting:
        first = plan_finalizer(REPLICATION_PAIR, pair.meta, FINALIZER_CLUSTER)
    problems = find_problems(view)
    not_yet = "this version of twinvault does not replicate yet: volumes that ask for it are not"
    conditions = [
        Condition(NOT_IMPLEMENTED, True, reasons.NOT_IMPLEMENTED, f"{not_yet} made"),
        use,
        _judge_ready(view, problems, use),
    ]
    wanted = {"volumes": {"total": len(view.volumes)}}
    status = plan_status(REPLICATION_PAIR, pair.meta, pair.status, wanted, conditions, now=now)
    return Plan(first + status + _tell(pair, conditions[-1]))


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
    known = [view.clusters[name] for name in view.pair.clusters if name in view.clusters]
    if len(known) == 2:
        problems += _compare_pools(known[0], known[1])
    return tuple(problems)


def _compare_pools(one: StorageCluster, other: StorageCluster) -> list[tuple[str, str]]:
    shared = {p.name for p in one.pools} & {p.name for p in other.pools}
    if shared:
        return []
    return [
        (
            reasons.INVALID,
            f"StorageClusters {one.meta.name} and {other.meta.name} have no pool of the same"
            " name, so no volume can live on both",
        )
    ]


def _judge_use(view: PairView) -> Condition:
    if not view.volumes:
        return Condition(IN_USE, False, reasons.NOT_IN_USE, "no volume uses it")
    some = ", ".join(view.volumes[:5]) + (", ..." if len(view.volumes) > 5 else "")
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
    return Condition(
        READY,
        False,
        reasons.NOT_IMPLEMENTED,
        "the pair is well formed, but this version of twinvault does not replicate yet",
    )


def _tell(pair: ReplicationPair, ready: Condition) -> tuple[Action, ...]:
    before = find_condition(pair.status.get("conditions") or (), READY)
    if before is not None and (before.status, before.reason) == (ready.status, ready.reason):
        return ()
    return (Tell(REPLICATION_PAIR, pair.meta, ready.reason, ready.message, warning=True),)
