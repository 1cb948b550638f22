"""Which volumes of a pair are being copied now, to which node, and how far that is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from .model import ReplicationStatus
from .pair_volume import PairVolume
from .replication_state import PAUSED, SyncState

MOST_RESYNCING = 100
_NO_COPY = frozenset(
    {SyncState.OFF, SyncState.ESTABLISHED, SyncState.VERIFY_SOURCE, SyncState.VERIFY_TARGET}
)
_TO_PRIMARY = frozenset(
    {
        SyncState.STARTING_SYNC_TARGET,
        SyncState.WF_BITMAP_TARGET,
        SyncState.WF_SYNC_UUID,
        SyncState.SYNC_TARGET,
        SyncState.PAUSED_SYNC_TARGET,
    }
)


def describe_resyncs(
    volumes: Iterable[PairVolume], held: Collection[str] = ()
) -> list[dict[str, Any]]:
    """``status.resyncing`` of the pair, as the agents of the primaries report: who copies first,
    then who waits (``held``, or paused in the kernel); within each by name.
    """
    found = [_describe(v, v.report, v.name in held) for v in volumes if v.report is not None]
    told = sorted((f for f in found if f), key=lambda f: ("waiting" in f, f["volume"]))
    return told[:MOST_RESYNCING]


def _describe(volume: PairVolume, report: ReplicationStatus, held: bool) -> dict[str, Any]:
    """Empty for a volume that is not copied. DRBD 9 does not tell how far it is."""
    primary, resync = volume.primary, report.resync
    if primary is None or primary.replication is None or report.link_down:
        return {}
    if report.sync in _NO_COPY or primary.node in volume.lost:
        return {}  # what a silent node said last is old
    to_primary = report.sync in _TO_PRIMARY
    entry: dict[str, Any] = {
        "volume": volume.name,
        "node": primary.node if to_primary else primary.replication.peer_node,
    }
    waiting = held or report.sync in PAUSED
    if resync is not None:
        entry |= {"percent": int(resync.done_percent), "remainingBytes": resync.remaining_bytes}
        if resync.seconds_left >= 0 and not waiting:
            entry["secondsLeft"] = resync.seconds_left
    return {**entry, "waiting": True} if waiting else entry
