"""Objects as the API server would send them, parsed: only what a test cares about is given."""

from __future__ import annotations

from typing import Any

from twinvault_core.model import Snapshot, StorageCluster, StorageNode, Volume, VolumeReplica
from twinvault_core.placement import Candidate, PoolUse

GIB = 1024**3
NOW = "2026-01-01T00:00:00Z"


def metadata(name: str, **extra: Any) -> dict[str, Any]:
    return {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **extra,
    }


def pool(name: str = "fast", **extra: Any) -> dict[str, Any]:
    return {"name": name, "devices": {"paths": ["/dev/vdb"]}, **extra}


def cluster(name: str = "east", pools: tuple[str, ...] = ("fast",), **meta: Any) -> StorageCluster:
    spec = {
        "nodeSelector": {"matchLabels": {"site": name}},
        "pools": [pool(p) for p in pools],
    }
    return StorageCluster.parse({"metadata": metadata(name, **meta), "spec": spec})


def storage_node(
    name: str = "east-1",
    *,
    storage_cluster: str = "east",
    pools: tuple[str, ...] = ("fast",),
    size_bytes: int = 100 * GIB,
    used_bytes: int = 0,
    state: str = "Ready",
    reserve_percent: int = 0,
    over_provisioning_percent: int = 100,
    **meta: Any,
) -> StorageNode:
    numbers = {
        "reservePercent": reserve_percent,
        "overProvisioningPercent": over_provisioning_percent,
    }
    status = {
        "pools": [
            {"name": p, "state": state, "sizeBytes": size_bytes, "usedBytes": used_bytes}
            for p in pools
        ]
    }
    spec = {"storageCluster": storage_cluster, "pools": [pool(p, **numbers) for p in pools]}
    return StorageNode.parse({"metadata": metadata(name, **meta), "spec": spec, "status": status})


def candidate(
    name: str = "east-1",
    *,
    promised_bytes: int = 0,
    volumes: int = 0,
    silent: str = "",
    lost: bool = False,
    **node: Any,
) -> Candidate:
    use = {"fast": PoolUse(promised_bytes, volumes)}
    return Candidate(storage_node(name, **node), use, silent, lost)


def volume(
    name: str = "v",
    *,
    size_bytes: int = GIB,
    status: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
    **spec: Any,
) -> Volume:
    full = {"sizeBytes": size_bytes, "pool": "fast", **spec}
    obj = {"metadata": metadata(name, **(meta or {})), "spec": full, "status": status or {}}
    return Volume.parse(obj)


def placed_status(node: str = "east-1", size_bytes: int = GIB, **extra: Any) -> dict[str, Any]:
    return {
        "phase": "Ready",
        "sizeBytes": size_bytes,
        "placement": {"nodes": [node], "reasons": []},
        "replicas": [{"node": node, "storageCluster": "east", "pool": "fast"}],
        "replication": {"epoch": 1, "serial": 1, "primary": node, "inSync": [node]},
        **extra,
    }


def replica(
    of: str = "v",
    node: str = "east-1",
    *,
    size_bytes: int = GIB,
    state: str = "Ready",
    meta: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> VolumeReplica:
    full = {
        "volume": of,
        "volumeUID": f"uid-{of}",
        "nodeName": node,
        "storageCluster": "east",
        "pool": "fast",
        "sizeBytes": size_bytes,
        **spec,
    }
    made = {"state": state, "sizeBytes": size_bytes} if state else {}
    given = {"finalizers": ["twinvault.io/data"], **(meta or {})}
    return VolumeReplica.parse(
        {
            "metadata": metadata(f"{of}.{node}", **given),
            "spec": full,
            "status": {**made, **(status or {})},
        }
    )


def snapshot(
    name: str = "s",
    *,
    of: str = "v",
    status: dict[str, Any] | None = None,
    meta: dict[str, Any] | None = None,
) -> Snapshot:
    obj = {"metadata": metadata(name, **(meta or {})), "spec": {"volume": of}}
    return Snapshot.parse({**obj, "status": status or {}})


def holder(node: str = "east-1", state: str = "Ready", **extra: Any) -> dict[str, Any]:
    return {"node": node, "storageCluster": "east", "pool": "fast", "state": state, **extra}
