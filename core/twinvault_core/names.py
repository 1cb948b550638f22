"""Every name that another program reads: API group, driver, labels, finalizers, topology."""

from __future__ import annotations

from typing import Final

GROUP: Final = "twinvault.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

DRIVER_NAME: Final = "csi.twinvault.io"
TOPOLOGY_NODE: Final = "topology.csi.twinvault.io/node"
"""Topology segment: the node that holds a volume. Every node has its own value."""
TOPOLOGY_CLUSTER: Final = "topology.csi.twinvault.io/cluster"
"""Topology segment: the StorageCluster of the node."""

LABEL_REPLICA_PREFIX: Final = "replica.twinvault.io/"
"""Label ``replica.twinvault.io/<volume>: "true"`` on a Kubernetes node that got a replica after the
volume was made. A PersistentVolume names its nodes for ever; every one of ours also allows nodes
with this label, so a pod may follow a replica that was moved."""
LABEL_REPLICA_VALUE: Final = "true"

FINALIZER_VOLUME: Final = "twinvault.io/replicas"
"""On a Volume; held by the operator until no VolumeReplica of it is left."""
FINALIZER_REPLICA: Final = "twinvault.io/data"
"""On a VolumeReplica; held by the node's agent until the data is erased."""
FINALIZER_SNAPSHOT: Final = "twinvault.io/holders"
"""On a Snapshot; held by the operator until every holder has erased its copy."""
FINALIZER_CLUSTER: Final = "twinvault.io/volumes"
"""On a StorageCluster and a ReplicationPair; held while volumes use it."""

HOLDER_LABEL_PREFIX: Final = "holder.twinvault.io/"
"""Label ``holder.twinvault.io/<node>`` on a Snapshot: that node's agent watches it."""

ANNOTATION_CSI_NAME: Final = "csi.twinvault.io/name"
"""On a Volume and a Snapshot: the name that the CSI caller asked for."""
ANNOTATION_PVC: Final = "csi.twinvault.io/claim"
"""On a Volume: namespace/name of the PersistentVolumeClaim."""

ANNOTATION_GIVE_UP: Final = "twinvault.io/give-up"
"""On a Snapshot that is being deleted: the lost node whose copy is forgotten."""
ANNOTATION_READ_ONLY: Final = "csi.twinvault.io/read-only"
"""On a Volume: "true" while it is published read-only."""

ANNOTATION_HOLDER: Final = "twinvault.io/holder"
"""On a Snapshot: it is taken on this node alone, in sync or not (before a forced promotion)."""
ANNOTATION_LOST: Final = "twinvault.io/lost"
"""On a StorageNode: since when it was lost and is not trusted again, in words."""
TAINT_OUT_OF_SERVICE: Final = "node.kubernetes.io/out-of-service"
TAINT_VALUE: Final = "twinvault"
"""Value of the taint, so that ours is told from one that a person put on."""
TAINT_LOST: Final = "twinvault.io/lost"
"""NoSchedule, while the node is lost or not yet well for long enough: its pods start elsewhere."""
TAINT_RESYNCING: Final = "twinvault.io/resyncing"
"""On a node that was lost and is well again, while volumes are not in sync there yet."""
TAINT_DRILL: Final = "twinvault.io/drill"
"""NoSchedule on a node that a drill is emptying of the chosen pods; the value names the pair."""

PARAMETER_POOL: Final = "pool"
PARAMETER_FS_TYPE: Final = "fsType"
PARAMETER_REPLICATION_PAIR: Final = "replicationPair"
PARAMETER_RESYNC_PRIORITY: Final = "resyncPriority"
STORAGE_CLASS_PARAMETERS: Final = frozenset(
    {
        PARAMETER_POOL,
        PARAMETER_FS_TYPE,
        PARAMETER_REPLICATION_PAIR,
        PARAMETER_RESYNC_PRIORITY,
    }
)

LEASE_NAMESPACE_DEFAULT: Final = "twinvault-system"
NODE_LEASE_PREFIX: Final = "agent-"
"""Lease ``agent-<node>`` is renewed by that node's agent."""
OPERATOR_LEASE: Final = "twinvault-operator"

HOST_DATA_DIR: Final = "/var/lib/twinvault"
"""On every node: ``pools/<pool>`` are mounted here."""
AGENT_SOCKET: Final = "/run/twinvault/agent.sock"
