"""What two agents would report of one replicated volume, as far as the operator looks at it.

No timing, no kernel: connected when both images are there, equal when the operator said how, in
sync when the primary's agent wrote it into the record by compare-and-swap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinvault_core.model import FirstSync, ReplicationRecord, VolumeReplica
from twinvault_core.replication_record import RecordRefusal, add_in_sync, drop_peer

Json = dict[str, Any]


def report_replication(
    mine: Mapping[str, Any],
    peer: Mapping[str, Any] | None,
    record: ReplicationRecord | None,
    *,
    was_ready: bool,
) -> Json:
    """``status.replication`` of ``mine``. A resync of a volume that was ready ends at once."""
    own = VolumeReplica.parse(mine)
    other = VolumeReplica.parse(peer) if peer is not None else None
    linked = other is not None and bool(other.state) and other.replication is not None
    sides = [s.replication for s in (own, other) if s is not None and s.replication is not None]
    told = any(side.first_sync is not FirstSync.NONE for side in sides)
    both = record is not None and len(record.in_sync) > 1
    disk = "UpToDate" if told or both or was_ready else "Inconsistent"
    return {
        "connection": "Connected" if linked else "WFConnection",
        "role": "Primary" if (mine.get("status") or {}).get("inUse") else "Secondary",
        "disk": disk,
        "peerDisk": disk if linked else "DUnknown",
        "blank": not own.source and disk == "Inconsistent",
        "epoch": record.epoch if record is not None else 0,
    }


def next_record(
    mine: Mapping[str, Any], peer: Mapping[str, Any] | None, record: ReplicationRecord
) -> ReplicationRecord | None:
    """What the agent of ``mine`` writes over ``record``; None when nothing, or not the primary."""
    own = VolumeReplica.parse(mine)
    if own.replication is None or record.primary != own.node:
        return None
    name = own.replication.peer_node
    leaves = own.replication.peer_leaves
    if (peer is None or leaves) and name in record.in_sync:
        made = drop_peer(record, own.node, name)
    elif leaves:
        return None
    elif (
        peer is not None
        and name not in record.in_sync
        and (mine.get("status") or {}).get("replication", {}).get("peerDisk") == "UpToDate"
        and (peer.get("status") or {}).get("replication", {}).get("disk") == "UpToDate"
    ):
        made = add_in_sync(record, own.node, name)
    else:
        return None
    return None if isinstance(made, RecordRefusal) else made
