"""Whether a volume can start from the snapshot or volume that it names, and where."""

from __future__ import annotations

from dataclasses import dataclass

from . import reasons
from .model import HolderState, ReplicaState, Snapshot, Volume, VolumeMode, VolumeReplica
from .placement import Refusal
from .sizing import format_bytes

DEFAULT_FS_TYPE = "ext4"


@dataclass(frozen=True)
class SourceView:
    """What the named source is now; everything None or empty when it does not exist."""

    snapshot: Snapshot | None = None
    volume: Volume | None = None
    replicas: tuple[VolumeReplica, ...] = ()
    """Replicas of the source volume."""


@dataclass(frozen=True)
class _Content:
    """What both kinds of source have in common."""

    what: str
    size_bytes: int
    volume_mode: str
    fs_type: str
    places: frozenset[tuple[str, str]]
    """(node, pool) pairs that hold the data now."""


def find_source_nodes(volume: Volume, source: SourceView) -> frozenset[str] | Refusal | None:
    """Nodes that hold the source in the volume's pool; None when the volume starts blank."""
    if not volume.source:
        return None
    content = _read_snapshot(volume, source) if volume.source.snapshot else _read(volume, source)
    if isinstance(content, Refusal):
        return content
    return _check_fit(volume, content)


def _read_snapshot(volume: Volume, source: SourceView) -> _Content | Refusal:
    name, snapshot = volume.source.snapshot, source.snapshot
    if snapshot is None or snapshot.meta.deleting:
        return _missing(f"Snapshot {name}", snapshot is not None)
    if not snapshot.ready_to_use:
        return Refusal(
            reasons.SOURCE_NOT_READY,
            f"Snapshot {name} is not ready to use yet; see kubectl describe snapshots {name}",
        )
    ready = (h for h in snapshot.holders if h.state is HolderState.READY)
    return _Content(
        f"Snapshot {name}",
        snapshot.size_bytes,
        snapshot.volume_mode,
        snapshot.fs_type,
        frozenset((h.node, h.pool) for h in ready),
    )


def _read(volume: Volume, source: SourceView) -> _Content | Refusal:
    name, origin = volume.source.volume, source.volume
    if origin is None or origin.meta.deleting:
        return _missing(f"Volume {name}", origin is not None)
    in_sync = origin.record.in_sync if origin.record else frozenset()
    usable = (ReplicaState.READY, ReplicaState.EXPANDING)
    places = frozenset(
        (r.node, r.pool)
        for r in source.replicas
        if r.volume_uid == origin.meta.uid
        and r.node in in_sync
        and r.state in usable
        and not r.meta.deleting
    )
    if not places or not origin.status_size_bytes:
        return Refusal(
            reasons.SOURCE_NOT_READY,
            f"Volume {name} has no replica that is ready; see kubectl describe volumes {name}",
        )
    return _Content(
        f"Volume {name}", origin.status_size_bytes, origin.volume_mode, origin.fs_type, places
    )


def _missing(what: str, deleting: bool) -> Refusal:
    state = "is being deleted" if deleting else "does not exist"
    return Refusal(reasons.SOURCE_MISSING, f"{what} {state}; name another source")


def _check_fit(volume: Volume, content: _Content) -> frozenset[str] | Refusal:
    nodes = frozenset(node for node, pool in content.places if pool == volume.pool)
    if not nodes:
        pools = ", ".join(sorted({pool for _, pool in content.places}))
        return _unsuitable(f"{content.what} lives in pool {pools}, not in {volume.pool}")
    if volume.size_bytes < content.size_bytes:
        return _unsuitable(
            f"{content.what} has {format_bytes(content.size_bytes)}"
            f" ({content.size_bytes} bytes), the volume asks for only {volume.size_bytes}"
        )
    if content.volume_mode and content.volume_mode != volume.volume_mode:
        return _unsuitable(f"{content.what} has volumeMode {content.volume_mode}")
    if volume.volume_mode is VolumeMode.FILESYSTEM:
        held, wanted = content.fs_type or DEFAULT_FS_TYPE, volume.fs_type or DEFAULT_FS_TYPE
        if held != wanted:
            return _unsuitable(f"{content.what} holds {held}, the volume asks for {wanted}")
    return nodes


def _unsuitable(message: str) -> Refusal:
    return Refusal(reasons.SOURCE_UNSUITABLE, f"{message}; make the volume to fit its source")
