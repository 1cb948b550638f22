"""Operator and agents of a test: answers each object as the real ones do when all goes well."""

from __future__ import annotations

from typing import Any

from tests.csi.fake_api import FakeApi
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import SNAPSHOTS, STORAGE_CLUSTERS, STORAGE_NODES, VOLUMES

Json = dict[str, Any]
GIB = 1024**3
POOL = "fast"
TAKEN = "2026-03-01T10:00:00Z"


def condition(type_: str, status: str, reason: str, message: str, generation: int = 1) -> Json:
    return {
        "type": type_,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": TAKEN,
    }


class FakeOperator:
    """``refuse`` answers the next volumes with Placed=False and that reason; ``hold`` leaves
    objects as they are, until ``release`` is called.
    """

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.refuse = ""
        self.hold = False
        self.informers = (
            Informer(api, VOLUMES, on_change=self._volume),  # type: ignore[arg-type]
            Informer(api, SNAPSHOTS, on_change=self._snapshot),  # type: ignore[arg-type]
        )

    def add_node(self, node: str, cluster: str, *, available_bytes: int = 100 * GIB) -> None:
        """A storage node with one pool, and its entry in the status of its StorageCluster."""
        clusters = self.api.objects.setdefault("storageclusters", {})
        known = clusters.get(cluster)
        entries = list((known or {}).get("status", {}).get("nodes", ()))
        pool = {"name": POOL, "state": "Ready", "availableBytes": available_bytes}
        entries.append({"name": node, "ready": True, "pools": [pool]})
        self.api.put(
            STORAGE_CLUSTERS,
            {
                "metadata": {"name": cluster},
                "spec": {
                    "nodeSelector": {"matchLabels": {"site": cluster}},
                    "pools": [{"name": POOL, "devices": {"paths": ["/dev/vdb"]}}],
                },
                "status": {"nodes": entries},
            },
        )
        self.api.put(
            STORAGE_NODES,
            {
                "metadata": {"name": node},
                "spec": {"storageCluster": cluster, "pools": []},
                "status": {"maxVolumes": 16},
            },
        )

    def release(self) -> None:
        """Answer everything that was held back."""
        self.hold = False
        for name, obj in dict(self.api.objects.get("volumes", {})).items():
            self._volume(name, obj)
        for name, obj in dict(self.api.objects.get("snapshots", {})).items():
            self._snapshot(name, obj)

    def _volume(self, name: str, obj: Json | None) -> None:
        if obj is None or self.hold or name not in self.api.objects["volumes"]:
            return
        if obj["metadata"].get("deletionTimestamp"):
            if not obj["spec"].get("publishedTo"):
                self.api.remove_finalizers(VOLUMES, name)
            return
        status = obj.get("status") or {}
        if self.refuse and not status.get("replicas"):
            if not status.get("conditions"):
                refused = condition("Placed", "False", self.refuse, f"because {self.refuse}")
                self.api.set_status(VOLUMES, name, {"conditions": [refused]})
            return
        if status.get("sizeBytes", 0) < obj["spec"]["sizeBytes"]:
            allowed = (obj["spec"].get("accessibility") or {}).get("requisite")
            node = (allowed or sorted(self.api.objects["storagenodes"]))[0]
            self.api.set_status(
                VOLUMES,
                name,
                {
                    "phase": "Ready",
                    "sizeBytes": obj["spec"]["sizeBytes"],
                    "replicas": [{"node": node, "pool": obj["spec"]["pool"]}],
                    "replication": {"epoch": 1, "serial": 1, "primary": node, "inSync": [node]},
                },
            )

    def _snapshot(self, name: str, obj: Json | None) -> None:
        if obj is None or self.hold or name not in self.api.objects["snapshots"]:
            return
        if obj["metadata"].get("deletionTimestamp"):
            self.api.remove_finalizers(SNAPSHOTS, name)
            return
        volume = self.api.objects["volumes"].get(obj["spec"]["volume"])
        if volume is None or (obj.get("status") or {}).get("readyToUse"):
            return
        spec = volume["spec"]
        node = volume["status"]["replication"]["primary"]
        self.api.set_status(
            SNAPSHOTS,
            name,
            {
                "readyToUse": True,
                "creationTime": TAKEN,
                "volumeUID": volume["metadata"]["uid"],
                "sizeBytes": spec["sizeBytes"],
                "volumeMode": spec["volumeMode"],
                "fsType": spec.get("fsType", ""),
                "holders": [{"node": node, "pool": spec["pool"], "state": "Ready"}],
            },
        )
