"""Reasons of conditions: the words that programs compare. Messages beside them are for people.

Grouped by condition type. A reason never changes its meaning: the CSI controller, alerts and
scripts match on them.
"""

from __future__ import annotations

from typing import Final

# Placed, on a Volume. True: CHOSEN. False: any other of this group.
CHOSEN: Final = "Chosen"
POOL_UNKNOWN: Final = "PoolUnknown"
"""No StorageCluster that may hold the volume has a pool of that name."""
CLUSTER_UNKNOWN: Final = "ClusterUnknown"
"""spec.storageCluster, or a cluster of a pair, does not exist."""
PAIR_UNKNOWN: Final = "PairUnknown"
"""The ReplicationPair does not exist; also Degraded, on a Volume whose pair is gone."""
PAIR_NOT_IMPLEMENTED: Final = "PairNotImplemented"
"""The ReplicationPair exists but this version has no mode Async yet."""
SOURCE_MISSING: Final = "SourceMissing"
"""The snapshot or volume to start from does not exist, or is being deleted."""
SOURCE_NOT_READY: Final = "SourceNotReady"
"""The snapshot or volume to start from is still being made; this may pass."""
SOURCE_UNSUITABLE: Final = "SourceUnsuitable"
"""The source is larger than the volume, or of another mode or filesystem; this never passes."""
NO_CAPACITY: Final = "NoCapacity"
"""Nodes fit, but none of their pools may promise so many bytes."""
NO_NODE: Final = "NoNode"
"""No node satisfies topology and source."""
POOL_NOT_READY: Final = "PoolNotReady"
"""Nodes fit, but their pools or agents are not ready; this may pass."""

NO_REPLICATION: Final = "NoReplication"
"""A node's kernel cannot replicate, its agent does not say so yet, or no address fits."""
NO_NUMBER: Final = "NoNumber"
"""Every DRBD device number of the cluster is taken."""
POOLS_DIFFER: Final = "PoolsDiffer"
"""The pool of that name is of another kind at the other site; on a pair: every shared one is."""

PLACEMENT_MAY_PASS: Final = frozenset({SOURCE_NOT_READY, POOL_NOT_READY, NO_REPLICATION})
"""Reasons of Placed=False that go away without anybody changing the Volume or adding space."""

# Ready, on every kind. True: READY (clusters: ALL_READY).
READY: Final = "Ready"
NOT_PLACED: Final = "NotPlaced"
CREATING: Final = "Creating"
REPLICA_FAILED: Final = "ReplicaFailed"
REPLICA_LOST: Final = "ReplicaLost"
"""A replica that was ready is gone although its Volume was not deleted."""
NODE_LOST: Final = "NodeLost"
"""The agent of a node that holds data is silent."""
DELETING: Final = "Deleting"

# Progressing, on a Volume. True: CREATING, EXPANDING, DELETING. False: IDLE, or NO_CAPACITY and
# REPLICA_FAILED when an expansion cannot go on (compare the condition's observedGeneration).
EXPANDING: Final = "Expanding"
IDLE: Final = "Idle"

# Degraded. False: HEALTHY. True, on a Volume: any of this group, REPLICA_FAILED, REPLICA_LOST and
# NODE_LOST. It is "one failure from frozen", or frozen.
HEALTHY: Final = "Healthy"
PEER_NOT_IN_SYNC: Final = "PeerNotInSync"
RESYNCING: Final = "Resyncing"
LINK_DOWN: Final = "LinkDown"
"""Both replicas hold every write, but nothing can be written to both now."""
FROZEN: Final = "Frozen"
"""I/O waits; also Ready=False."""
STALLED: Final = "Stalled"
"""A request neither ends nor fails although nothing is frozen; also Ready=False."""
DISK_UNUSABLE: Final = "DiskUnusable"
"""The primary's replica cannot be promoted as it is; also Ready=False."""
DIVERGED: Final = "Diverged"
"""Both replicas hold writes that the other lacks: a person must choose."""
MOVING: Final = "Moving"
"""The primary is to move to another node and waits for something (Progressing)."""
FAILOVER_STUCK: Final = "FailoverStuck"
"""A step of a failover fails again and again; it is tried on (Progressing)."""
FIRST_SYNC: Final = "FirstSync"
"""The two replicas of a new volume are becoming equal (Progressing, Ready=False)."""

# InUse, on a Volume, a StorageCluster and a ReplicationPair.
PUBLISHED: Final = "Published"
"""A node has it by spec.publishedTo."""
STAGED: Final = "Staged"
"""A node's agent still has it attached or mounted."""
SOURCE_OF_CLONE: Final = "SourceOfClone"
"""A replica that is still being made reads from it."""
HAS_VOLUMES: Final = "HasVolumes"
NOT_IN_USE: Final = "NotInUse"

# StorageCluster.
ALL_READY: Final = "AllReady"
NO_NODES: Final = "NoNodes"
NODES_NOT_READY: Final = "NodesNotReady"
OVERLAP: Final = "Overlap"
"""A node is selected by two StorageClusters; the older one keeps it."""
NODE_LEFT: Final = "NodeLeft"
"""A node that is no longer selected still holds volumes."""

# Snapshot.
VOLUME_MISSING: Final = "VolumeMissing"
VOLUME_NOT_READY: Final = "VolumeNotReady"
TAKING: Final = "Taking"
HOLDER_FAILED: Final = "HolderFailed"
ERASING: Final = "Erasing"

# ReplicationPair.
NOT_IMPLEMENTED: Final = "NotImplemented"
INVALID: Final = "Invalid"
NETWORK_UNREACHABLE: Final = "NetworkUnreachable"
"""Nodes of both sites are well and call one another, and no volume between them gets through."""

# Verified, on a ReplicationPair. True: EQUAL. False: DIFFERENT. Unknown: NOT_YET or INVALID.
EQUAL: Final = "Equal"
DIFFERENT: Final = "Different"
"""A comparison found blocks that differ; they are copied anew from the primary."""
NOT_YET: Final = "NotYet"
