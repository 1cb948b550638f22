"""Letting a Volume go: not while it is used, not before its data is erased or given up."""

from __future__ import annotations

from . import reasons
from .actions import (
    VOLUME,
    VOLUME_REPLICA,
    Action,
    CheckGone,
    Delete,
    Plan,
    ReleaseNumber,
    Tell,
    plan_release,
    plan_status,
)
from .conditions import DEGRADED, IN_USE, PROGRESSING, READY, Condition, find_condition
from .ids import replica_name
from .model import Phase, Volume, VolumeReplica
from .names import FINALIZER_REPLICA, FINALIZER_VOLUME
from .volume_view import VolumeView, placed_nodes


def plan_delete(view: VolumeView, volume: Volume, *, now: str) -> Plan:
    """Hold, erase, or release a Volume that is being deleted."""
    if FINALIZER_VOLUME not in volume.meta.finalizers and not view.own_replicas():
        return Plan()
    held = find_use(view, volume)
    own = view.own_replicas()
    if held is not None:
        return Plan(_report(view, volume, held, _waiting(held.message), now=now))
    if not own:
        checks = tuple(
            CheckGone(VOLUME_REPLICA, replica_name(volume.meta.name, node))
            for node in placed_nodes(volume)
        )
        freed = tuple(ReleaseNumber(VOLUME, claim) for claim in view.own_claims())
        return Plan((*checks, *freed, *plan_release(VOLUME, volume.meta, FINALIZER_VOLUME)))
    steps: list[Action] = []
    for replica in own:
        if not replica.meta.deleting:
            steps.append(Delete(VOLUME_REPLICA, replica.meta))
        steps += plan_give_up(view, replica)
    free = Condition(IN_USE, False, reasons.NOT_IN_USE, "nobody uses it")
    report = _report(view, volume, free, _waiting(describe_erasing(view, own)), now=now)
    return Plan((*steps, *report))


def is_given_up(view: VolumeView, replica: VolumeReplica) -> bool:
    """A person named the node, here or in its StorageNode, and the node is silent indeed."""
    named = replica.give_up == replica.node or replica.node in view.gone
    return named and replica.node in view.lost


def plan_give_up(view: VolumeView, replica: VolumeReplica) -> tuple[Action, ...]:
    """Forget a replica of a lost node, only on a person's word and only while it is silent."""
    if not replica.meta.deleting or not is_given_up(view, replica):
        return ()
    message = (
        f"given up: node {replica.node} is lost; if it returns, the data shows up in the"
        f" orphans of storagenode {replica.node}"
    )
    tell = Tell(VOLUME_REPLICA, replica.meta, "GivenUp", message, warning=True)
    return (tell, *plan_release(VOLUME_REPLICA, replica.meta, FINALIZER_REPLICA))


def plan_leave(view: VolumeView, volume: Volume, replica: VolumeReplica) -> tuple[Action, ...]:
    """Forget the replica of a lost node while the volume lives on with the other one.

    Only when the record counts on it for nothing: the other one holds every write. When the node
    comes back, or another takes its place, a new replica is filled from there.
    """
    record = volume.record
    if record is None or replica.node == record.primary or replica.node in record.in_sync:
        return ()
    return plan_give_up(view, replica)


def find_use(view: VolumeView, volume: Volume) -> Condition | None:
    """The InUse condition that holds a deletion back; None when nothing does."""
    if volume.published_to:
        nodes = ", ".join(volume.published_to)
        return Condition(
            IN_USE,
            True,
            reasons.PUBLISHED,
            f"published to {nodes}: delete the pods that use it (kubectl get volumeattachments"
            " shows who holds it)",
        )
    used = [r.node for r in view.own_replicas() if r.in_use and not is_given_up(view, r)]
    if used:
        return Condition(
            IN_USE,
            True,
            reasons.STAGED,
            f"still attached or mounted on {', '.join(used)}: its pods must end there first",
        )
    if view.readers:
        return Condition(
            IN_USE,
            True,
            reasons.SOURCE_OF_CLONE,
            f"{', '.join(view.readers)} is being made from it: wait until that is ready, or"
            " delete it",
        )
    return None


def describe_erasing(view: VolumeView, replicas: tuple[VolumeReplica, ...]) -> str:
    """What the deletion waits for, and the way out when a node is lost."""
    parts = []
    for replica in replicas:
        node, name = replica.node, replica.meta.name
        if node in view.lost:
            patch = f'{{"spec":{{"giveUp":"{node}"}}}}'
            parts.append(
                f"node {node} {view.lost[node]}; bring it back, or if it never returns give its"
                f" replica up: kubectl patch volumereplica {name} --type merge -p '{patch}'"
            )
        else:
            failed = f" ({replica.message})" if replica.message else ""
            parts.append(f"waiting for {node} to erase its data{failed}")
    return "; ".join(parts)


def _waiting(message: str) -> str:
    return f"being deleted: {message}"


def _report(
    view: VolumeView, volume: Volume, use: Condition, message: str, *, now: str
) -> tuple[Action, ...]:
    lost = any(r.node in view.lost for r in view.own_replicas())
    conditions = [
        use,
        Condition(READY, False, reasons.NODE_LOST if lost else reasons.DELETING, message),
        Condition(PROGRESSING, not use.status, reasons.DELETING, message),
        Condition(DEGRADED, False, reasons.HEALTHY, "being deleted"),
    ]
    wanted = {"phase": Phase.DELETING.value}
    status = plan_status(VOLUME, volume.meta, volume.status, wanted, conditions, now=now)
    before = find_condition(volume.conditions, READY)
    stuck = bool(use.status) or lost
    if not stuck or (before is not None and before.message == message):
        return status
    return (*status, Tell(VOLUME, volume.meta, "DeletionWaits", message, warning=True))
