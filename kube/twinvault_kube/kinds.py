"""The kinds of objects that twinvault reads or writes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from twinvault_core.names import GROUP, VERSION


@dataclass(frozen=True)
class Kind:
    """One resource of the API; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """URL path of the collection, or of one object; ValueError on a missing namespace."""
        if name is not None and not name:
            raise ValueError(f"empty name of a {self.kind}")
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace is not None and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        elif name is not None and self.namespaced:
            raise ValueError(f"{self.kind} {name} needs a namespace")
        parts.append(self.plural)
        if name is not None:
            # A name from outside stays one part of the path, whatever is in it.
            parts.append(quote(name, safe=""))
        return "/".join(parts)


STORAGE_CLUSTERS = Kind(GROUP, VERSION, "storageclusters", "StorageCluster")
STORAGE_NODES = Kind(GROUP, VERSION, "storagenodes", "StorageNode")
VOLUMES = Kind(GROUP, VERSION, "volumes", "Volume")
VOLUME_REPLICAS = Kind(GROUP, VERSION, "volumereplicas", "VolumeReplica")
SNAPSHOTS = Kind(GROUP, VERSION, "snapshots", "Snapshot")
REPLICATION_PAIRS = Kind(GROUP, VERSION, "replicationpairs", "ReplicationPair")
NODES = Kind("", "v1", "nodes", "Node")
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
EVENTS = Kind("", "v1", "events", "Event", namespaced=True)
PERSISTENT_VOLUMES = Kind("", "v1", "persistentvolumes", "PersistentVolume")
PODS = Kind("", "v1", "pods", "Pod", namespaced=True)
VOLUME_ATTACHMENTS = Kind("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment")
