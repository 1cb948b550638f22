"""Operator and agents of a test: answers each object as the real ones do when all goes well."""

from __future__ import annotations

from typing import Any

from tests.csi.fake_api import FakeApi
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import (
    REPLICATION_PAIRS,
    SNAPSHOTS,
    STORAGE_CLUSTERS,
    STORAGE_NODES,
    VOLUMES,
)

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
    objects as they are, until ``release`` is called. ``hold_sync`` keeps the second replica of new
    volumes from getting in sync, ``hold_switch`` keeps primaries where they are.
    """

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.refuse = ""
        self.hold = False
        self.hold_sync = False
        self.hold_switch = False
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

    def add_pair(self, name: str, *clusters: str) -> None:
        spec = {"clusters": list(clusters), "mode": "Sync"}
        self.api.put(REPLICATION_PAIRS, {"metadata": {"name": name}, "spec": spec})

    def move_record(self, name: str, **changes: Any) -> None:
        """Write the record of volume ``name`` with ``changes``, as operator and agents do."""
        record = self.api.objects["volumes"][name]["status"]["replication"]
        serial = record["serial"] + 1
        self.api.set_status(VOLUMES, name, {"replication": {"serial": serial, **changes}})

    def release(self) -> None:
        """Answer everything that was held back."""
        self.hold = self.hold_sync = self.hold_switch = False
        for name, obj in dict(self.api.objects.get("volumes", {})).items():
            self._volume(name, obj)
        for name, obj in dict(self.api.objects.get("snapshots", {})).items():
            self._snapshot(name, obj)

    def _volume(self, name: str, obj: Json | None) -> None:
        if obj is None or self.hold or name not in self.api.objects["volumes"]:
            return
        obj = self.api.objects["volumes"][name]
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
            self._make(name, obj)
            return
        self._switch(name, obj["spec"].get("publishedTo") or (), status["replication"])

    def _make(self, name: str, obj: Json) -> None:
        """Place it and make it; with both sides in sync it is ready."""
        status = obj.get("status") or {}
        nodes = (status.get("placement") or {}).get("nodes") or self._choose_nodes(obj["spec"])
        if "replication" not in status:
            pool = obj["spec"]["pool"]
            record = {"epoch": 1, "serial": 1, "primary": nodes[0], "inSync": nodes[:1]}
            placed = {
                "phase": "Creating",
                "placement": {"nodes": nodes},
                "replicas": [{"node": node, "pool": pool, "state": "Ready"} for node in nodes],
                "replication": record,
            }
            self.api.set_status(VOLUMES, name, placed)
        if len(nodes) > 1 and self.hold_sync:
            return
        if not status.get("sizeBytes"):
            self.move_record(name, inSync=nodes)
        made = {"phase": "Ready", "sizeBytes": obj["spec"]["sizeBytes"]}
        self.api.set_status(VOLUMES, name, made)

    def _choose_nodes(self, spec: Json) -> list[str]:
        """The first that is allowed and, with a pair, the first at the other site."""
        clusters = {
            node: one["spec"]["storageCluster"]
            for node, one in sorted(self.api.objects["storagenodes"].items())
        }
        where = spec.get("accessibility") or {}
        first = next(iter(where.get("preferred") or where.get("requisite") or clusters))
        if not spec.get("replicationPair"):
            return [first]
        pair = self.api.objects["replicationpairs"][spec["replicationPair"]]
        (far,) = set(pair["spec"]["clusters"]) - {clusters[first]}
        return [first, next(node for node, cluster in clusters.items() if cluster == far)]

    def _switch(self, name: str, wanted: Any, record: Json) -> None:
        """The primary follows the pod where that is safe."""
        if self.hold_switch or not wanted or wanted[0] == record["primary"]:
            return
        if wanted[0] in record["inSync"]:
            self.move_record(name, epoch=record["epoch"] + 1, primary=wanted[0])

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
