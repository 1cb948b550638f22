"""Our objects as CSI messages."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from twinvault_core.model import Snapshot, Source, Volume, VolumeMode

from .pb import csi_pb2
from .topology import to_later_homes, to_topology

CONTEXT_FS_TYPE = "fsType"
"""Key of the volume context: the filesystem that the volume has or will get."""
CONTEXT_READ_ONLY = "readOnly"
"""Key of the publish context: "true" when the volume was published read-only."""


def homes_of(volume: Volume) -> tuple[str, ...]:
    """Nodes that hold a replica, the primary first.

    Those that placement chose: a replica that is being removed may still be listed, and a volume
    is answered only when all of its nodes are known, because its PersistentVolume keeps them.
    """
    chosen = (volume.status.get("placement") or {}).get("nodes")
    nodes = set(chosen or (str(one["node"]) for one in volume.status.get("replicas") or ()))
    primary = volume.record.primary if volume.record else ""
    return tuple(sorted(nodes, key=lambda node: (node != primary, node)))


def to_source(source: Source) -> csi_pb2.VolumeContentSource | None:
    content = csi_pb2.VolumeContentSource
    if source.snapshot:
        return content(snapshot=content.SnapshotSource(snapshot_id=source.snapshot))
    if source.volume:
        return content(volume=content.VolumeSource(volume_id=source.volume))
    return None


def to_volume(volume: Volume) -> csi_pb2.Volume:
    context = {}
    if volume.volume_mode is VolumeMode.FILESYSTEM and volume.fs_type:
        context[CONTEXT_FS_TYPE] = volume.fs_type
    return csi_pb2.Volume(
        volume_id=volume.meta.name,
        capacity_bytes=volume.status_size_bytes or volume.size_bytes,
        volume_context=context,
        content_source=to_source(volume.source),
        accessible_topology=[
            *(to_topology(node) for node in homes_of(volume)),
            to_later_homes(volume.meta.name),
        ],
    )


def is_listed(volume: Volume) -> bool:
    """Whether a caller may hear of it: it was made and is not on its way out."""
    return volume.status_size_bytes > 0 and not volume.meta.deleting


def to_snapshot(snapshot: Snapshot) -> csi_pb2.Snapshot:
    """The snapshot must have been taken: it has a creation time."""
    taken = Timestamp()
    taken.FromJsonString(snapshot.creation_time)
    return csi_pb2.Snapshot(
        snapshot_id=snapshot.meta.name,
        source_volume_id=snapshot.volume,
        size_bytes=snapshot.size_bytes,
        creation_time=taken,
        ready_to_use=snapshot.ready_to_use,
    )


def is_snapshot_listed(snapshot: Snapshot) -> bool:
    return bool(snapshot.creation_time) and not snapshot.meta.deleting
