"""The objects of twinvault as immutable values, parsed from what the API server sends."""

from .cluster import NodeReplication, ReplicationPair, StorageCluster, StorageNode
from .meta import Meta, Object, conditions_of
from .pool import DeviceSelector, DeviceState, PoolSpec, PoolState, PoolStatus
from .replication import (
    FirstSync,
    ForcePrimary,
    ReplicationRecord,
    ReplicationSettings,
    ReplicationSpec,
    ReplicationStatus,
)
from .snapshot import Holder, HolderState, Snapshot
from .verify import VerifyReport, VerifyResult
from .volume import (
    Phase,
    ReplicaState,
    Role,
    Source,
    Volume,
    VolumeMode,
    VolumeReplica,
)

__all__ = [
    "DeviceSelector",
    "DeviceState",
    "FirstSync",
    "ForcePrimary",
    "Holder",
    "HolderState",
    "Meta",
    "NodeReplication",
    "Object",
    "Phase",
    "PoolSpec",
    "PoolState",
    "PoolStatus",
    "ReplicaState",
    "ReplicationPair",
    "ReplicationRecord",
    "ReplicationSettings",
    "ReplicationSpec",
    "ReplicationStatus",
    "Role",
    "Snapshot",
    "Source",
    "StorageCluster",
    "StorageNode",
    "VerifyReport",
    "VerifyResult",
    "Volume",
    "VolumeMode",
    "VolumeReplica",
    "conditions_of",
]
