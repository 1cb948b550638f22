"""An agent over the in-memory API and storage, and objects to give it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.agent.fake_storage import FakeStorage
from tests.kube.fake_api import FakeApi, Json
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.sizing import GIB
from twinvault_engine.agent.app import Agent
from twinvault_engine.agent.config import AgentConfig

GROUP = "/apis/twinvault.io/v1alpha1"
NODES = f"{GROUP}/storagenodes"
REPLICAS = f"{GROUP}/volumereplicas"
SNAPSHOTS = f"{GROUP}/snapshots"
EVENTS = "/api/v1/namespaces/default/events"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/twinvault-system/leases"
NODE = "east-1"


def node_object(**spec: Any) -> Json:
    pools = [{"name": "fast", "filesystem": "xfs", "devices": {"paths": ["/dev/vdz"]}}]
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": "StorageNode",
        "metadata": {"name": NODE},
        "spec": {"storageCluster": "east", "pools": pools, **spec},
    }


def replica_object(volume: str, *, size_bytes: int = GIB, uid: str = "", **spec: Any) -> Json:
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": "VolumeReplica",
        "metadata": {"name": f"{volume}.{NODE}", "finalizers": [FINALIZER_REPLICA]},
        "spec": {
            "volume": volume,
            "volumeUID": uid or f"uid-of-{volume}",
            "nodeName": NODE,
            "storageCluster": "east",
            "pool": "fast",
            "sizeBytes": size_bytes,
            "volumeMode": "Filesystem",
            "fsType": "ext4",
            **spec,
        },
    }


def snapshot_object(name: str, volume: str, state: str = "Pending") -> Json:
    holder = {"node": NODE, "storageCluster": "east", "pool": "fast", "state": state}
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": "Snapshot",
        "metadata": {
            "name": name,
            "labels": {f"holder.twinvault.io/{NODE}": "true"},
            "finalizers": ["twinvault.io/holders"],
        },
        "spec": {"volume": volume},
        "status": {"volumeUID": f"uid-of-{volume}", "holders": [holder]},
    }


class World:
    """``until`` waits for something to become true; what is awaited is named when it does not."""

    def __init__(self, directory: Path) -> None:
        self.api = FakeApi()
        self.storage = FakeStorage()
        self.config = AgentConfig(
            node_name=NODE,
            pod_name="agent-x",
            data_dir=directory,
            socket_path=directory / "agent.sock",
            metrics_address="127.0.0.1",
            metrics_port=0,
            observe_seconds=3600.0,
        )
        self.agent: Agent | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        client = self.api.client()
        self.agent = Agent(self.config, client, self.storage)
        task = asyncio.ensure_future(self.agent.run())
        try:
            yield self.agent
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await client.close()

    def replica(self, volume: str) -> Json:
        return self.api.objects[(REPLICAS, f"{volume}.{NODE}")]

    def status(self, volume: str) -> Json:
        obj = self.api.objects.get((REPLICAS, f"{volume}.{NODE}"), {})
        status: Json = obj.get("status") or {}
        return status

    def node_status(self) -> Json:
        status: Json = self.api.objects[(NODES, NODE)].get("status") or {}
        return status

    def holder(self, snapshot: str) -> Json:
        entry: Json = self.api.objects[(SNAPSHOTS, snapshot)]["status"]["holders"][0]
        return entry

    def events(self) -> set[str]:
        return {obj["reason"] for (where, _), obj in self.api.objects.items() if where == EVENTS}

    async def until(
        self, condition: Callable[[], object], what: str, timeout_seconds: float = 10.0
    ) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"waited {timeout_seconds} s for {what}") from None

    async def ready(self, volume: str) -> None:
        await self.until(
            lambda: self.status(volume).get("state") == "Ready", f"{volume} to be ready"
        )
