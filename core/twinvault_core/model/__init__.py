"""The objects of twinvault as immutable values, parsed from what the API server sends."""

from .cluster import ReplicationPair, StorageCluster, StorageNode
from .meta import Meta, Object, conditions_of
from .pool import DeviceSelector, DeviceState, PoolSpec, PoolState, PoolStatus
from .snapshot import Holder, HolderState, Snapshot
from .volume import (
    Phase,
    ReplicaState,
    ReplicationRecord,
    Role,
    Source,
    Volume,
    VolumeMode,
    VolumeReplica,
)

__all__ = [
    "DeviceSelector",
    "DeviceState",
    "Holder",
    "HolderState",
    "Meta",
    "Object",
    "Phase",
    "PoolSpec",
    "PoolState",
    "PoolStatus",
    "ReplicaState",
    "ReplicationPair",
    "ReplicationRecord",
    "Role",
    "Snapshot",
    "Source",
    "StorageCluster",
    "StorageNode",
    "Volume",
    "VolumeMode",
    "VolumeReplica",
    "conditions_of",
]
