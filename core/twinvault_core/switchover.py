"""Moves of a primary that nobody was lost for: a drain, a person's preference, a person's force."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .failover import LATER_SECONDS, SOON_SECONDS, Nodes
from .failover_view import Swap, VolumeEvidence, Wait, choose_retry
from .ids import resync_copy_prefix
from .model import ForcePrimary, ReplicationRecord, VolumeReplica
from .replication_record import RecordRefusal, force_primary, switch_over
from .replication_state import Disk, DrbdRole


def plan_switchover(evidence: VolumeEvidence, nodes: Nodes) -> Swap | Wait | None:
    """Follow the pod: ``spec.publishedTo`` names another node than the record does.

    The old primary has let go when its agent, alive, reports Secondary and unused. Were that report
    old, nothing is lost: the new primary holds every acknowledged write by the record, and the old
    one's next question is answered with no.
    """
    record, wanted = evidence.record, evidence.volume.published_to
    if record is None or not wanted or wanted[0] == record.primary:
        return None
    if evidence.volume.meta.deleting:
        return None
    to = wanted[0]
    obstacle = _find_obstacle(evidence, record, nodes, to)
    if obstacle is not None:
        return obstacle
    after = switch_over(record, to)
    if isinstance(after, RecordRefusal):
        return _wait(evidence, after.rule, after.message)
    text = f"{record.primary} has let go and a pod wants it on {to}"
    retry = choose_retry(evidence.attempt)
    return Swap(evidence.volume, record, after, "Switchover", text, {}, retry)


def _find_obstacle(
    evidence: VolumeEvidence, record: ReplicationRecord, nodes: Nodes, to: str
) -> Wait | None:
    replica, old = evidence.replica(to), evidence.replica(record.primary)
    if replica is None:
        return _wait(evidence, "NoReplica", f"{to} has no replica of it; the pod must go elsewhere")
    target, source = nodes.get(to), nodes.get(record.primary)
    if target is None or target.expired:
        return _wait(evidence, "TargetLost", f"the agent of {to} is silent")
    if source is None or source.expired:
        text = f"the agent of {record.primary} is silent: this is a failover, not a switchover"
        return _wait(evidence, "PrimarySilent", text)
    report = replica.replication_status
    usable = (Disk.UP_TO_DATE, Disk.CONSISTENT)
    if report is None or report.disk not in usable:
        seen = report.disk.value if report else "not known"
        return _wait(evidence, "TargetDisk", f"the replica on {to} is {seen}, not UpToDate")
    if old is not None and _holds(old):
        text = f"{record.primary} still uses it: its pods must end there first"
        return _wait(evidence, "StillUsed", text)
    return None


def _holds(replica: VolumeReplica) -> bool:
    report = replica.replication_status
    return replica.in_use or report is None or report.role is not DrbdRole.SECONDARY


def _wait(
    evidence: VolumeEvidence,
    reason: str,
    message: str,
    after_seconds: float = SOON_SECONDS,
    stuck: bool = False,
) -> Wait:
    return Wait(evidence.name, reason, message, after_seconds, stuck)


# -- a person's word -----------------------------------------------------------------------------


def choose_approval(approve: str, used: str) -> tuple[str, str]:
    """(the StorageCluster that is approved now, what to keep as ``status.approvalUsed``).

    An approval counts once: when the failover that it allowed is over, ``used`` is set to it. To
    approve again the field is cleared and set again.
    """
    if not approve:
        return "", ""
    return ("", used) if approve == used else (approve, "")


def preview_failover(from_node: str, volumes: Iterable[VolumeEvidence]) -> dict[str, Any]:
    """What ``ReplicationPair.status.failoverPreview`` says while ``from_node`` is lost."""
    safe, left, site = [], [], ""
    for evidence in sorted(volumes, key=lambda e: e.name):
        record, other = evidence.record, evidence.other(from_node)
        if record is None or record.primary != from_node or other is None:
            continue
        site = site or other.storage_cluster
        if other.node in record.in_sync:
            safe.append(evidence.name)
            continue
        entry = {"volume": evidence.name}
        if evidence.out_of_sync_since:
            entry["since"] = evidence.out_of_sync_since
        left.append(entry)
    return {"from": from_node, "to": site, "safe": safe, "notInSync": left}


def plan_force(
    evidence: VolumeEvidence, nodes: Nodes, *, snapshot: str, now: str
) -> Swap | Wait | None:
    """Make a replica primary that misses writes, on a person's typed word, once.

    ``snapshot``: a Snapshot that the chosen node holds ready, taken for this; empty while there is
    none. ``now`` (RFC 3339) dates the entry that stays in the status for ever.
    """
    record, wanted = evidence.record, evidence.volume.force_primary
    status = evidence.volume.status
    if record is None or wanted is None or status.get("forcePrimaryUsed") == wanted.node:
        return None
    if evidence.replica(wanted.node) is None:
        text = f"{wanted.node} has no replica of it"
        return _wait(evidence, "NoReplica", text, LATER_SECONDS, stuck=True)
    after = force_primary(record, wanted, evidence.name)
    if isinstance(after, RecordRefusal):
        return _wait(evidence, after.rule, after.message, LATER_SECONDS, stuck=True)
    unusable = _find_unusable_disk(evidence, record, wanted.node)
    if unusable:
        return _wait(evidence, "TargetDisk", unusable, LATER_SECONDS, stuck=True)
    if wanted.node != record.primary and _may_write(evidence, record, nodes):
        text = (
            f"the agent of {record.primary} is alive and has not let go: end the pods there, or"
            " cut that node's power"
        )
        return _wait(evidence, "StillUsed", text, stuck=True)
    if not snapshot:
        return _wait(evidence, "SnapshotFirst", f"taking a snapshot on {wanted.node} first")
    text = f"a person made {wanted.node} primary; it may miss writes of {record.primary}"
    also = _remember(evidence, record, after, wanted, snapshot, now)
    return Swap(
        evidence.volume, record, after, "Forced", text, also, choose_retry(evidence.attempt)
    )


def _find_unusable_disk(evidence: VolumeEvidence, record: ReplicationRecord, node: str) -> str:
    """Why the replica that was chosen could never serve; empty if it can, old as it may be."""
    replica = evidence.replica(node)
    report = replica.replication_status if replica is not None else None
    if report is None:
        return f"the agent of {node} has not told how its replica is: it must be running"
    if report.disk is Disk.INCONSISTENT:
        holders = ", ".join(sorted(record.in_sync - {node})) or "the other replica"
        return (
            f"the replica on {node} is Inconsistent: a resync was cut off, it is half old and half"
            f" new and no filesystem could use it. Bring {holders} back and the resync goes on. If"
            " that is lost for good restore a Snapshot into a new volume; a copy from before the"
            f" resync is kept on {node} as {resync_copy_prefix(evidence.name)}0 (or 1)"
        )
    if report.disk not in (Disk.OUTDATED, Disk.CONSISTENT, Disk.UP_TO_DATE):
        return f"the disk on {node} is {report.disk.value}: repair its pool, then it goes on"
    return ""


def _may_write(evidence: VolumeEvidence, record: ReplicationRecord, nodes: Nodes) -> bool:
    source, replica = nodes.get(record.primary), evidence.replica(record.primary)
    alive = source is not None and not source.expired
    return alive and replica is not None and _holds(replica)


def _remember(
    evidence: VolumeEvidence,
    before: ReplicationRecord,
    after: ReplicationRecord,
    wanted: ForcePrimary,
    snapshot: str,
    now: str,
) -> dict[str, Any]:
    entry = {
        "time": now,
        "node": wanted.node,
        "previousPrimary": before.primary,
        "epoch": after.epoch,
        "inSync": sorted(before.in_sync),
        "snapshot": snapshot,
    }
    entries = [*(evidence.volume.status.get("forcedPromotions") or ()), entry]
    return {"forcedPromotions": entries, "forcePrimaryUsed": wanted.node}
