"""Whether a replicated volume can be used on a node, from what its Volume object says. Pure."""

from __future__ import annotations

from twinvault_core import conditions
from twinvault_core.errors import BusyError, FailedPreconditionError
from twinvault_core.ids import replica_name
from twinvault_core.model import Volume

from .messages import homes_of


def is_replicated(volume: Volume) -> bool:
    return bool(volume.replication_pair) or len(homes_of(volume)) > 1


def check_in_sync(volume: Volume, node: str) -> None:
    """FailedPreconditionError, with the reason, when ``node`` misses acknowledged writes."""
    record = volume.record
    if record is None or node in record.in_sync or not is_replicated(volume):
        return
    since, words = _degraded_since(volume)
    others = ", ".join(sorted(record.in_sync)) or "no node"
    raise FailedPreconditionError(
        f"the replica of volume {volume.meta.name} on node {node} is not in sync{since}: only"
        f" {others} holds every write{words}. The rest is copied by itself once both nodes and the"
        " link between them are well; until then run the pod where the volume is in sync"
    )


def decide_primary(volume: Volume, node: str) -> bool:
    """Whether ``node``, that the volume is published to, is its primary; False to wait on.

    FailedPreconditionError when it cannot become primary, BusyError when it need not any more.
    """
    if volume.published_to != (node,):
        raise BusyError(
            f"volume {volume.meta.name} was unpublished from node {node} while this call waited for"
            " it; publish it anew if it is still wanted there"
        )
    if volume.record is None:
        return False
    if volume.record.primary == node:
        return True
    check_in_sync(volume, node)
    return False


def primary_message(volume: Volume | None) -> str:
    """Why the node that a volume is published to is not its primary yet."""
    if volume is None or volume.record is None:
        return "it has no replication record yet; is the operator running?"
    holder = volume.record.primary
    since, words = _degraded_since(volume)
    if since:
        return f"node {holder} is still primary and the volume is degraded{since}{words}"
    return (
        f"node {holder} is still primary: its pod has not let the volume go (kubectl describe"
        f" volumereplica {replica_name(volume.meta.name, holder)})"
    )


def held_message(volume: Volume) -> str:
    """Why the volume goes to no other node while it is published."""
    name, held = volume.meta.name, ", ".join(volume.published_to)
    record = volume.record
    if record is None or record.primary in volume.published_to or not is_replicated(volume):
        return f"volume {name} is published to {held}; it is used on one node at a time"
    return (
        f"volume {name} is still published to {held}, although {record.primary} is its primary"
        f" since epoch {record.epoch}: it is free when the VolumeAttachment of {held} is gone"
        " (kubectl get volumeattachments)"
    )


def _degraded_since(volume: Volume) -> tuple[str, str]:
    """(" since TIME", "; what is wrong") of a degraded volume; empty where it does not say."""
    for entry in volume.conditions:
        if entry["type"] == conditions.DEGRADED and entry["status"] == "True":
            message = entry.get("message")
            since = f" since {entry['lastTransitionTime']}"
            return since, f"; {message}" if message else ""
    return "", ""
