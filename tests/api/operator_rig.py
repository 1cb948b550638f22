"""Agents that live in the test, and the operator as a process: what its tests are made with."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from e2e.lab.config import ROOT
from twinvault_core import ids
from twinvault_core.errors import AlreadyExistsError, NotFoundError, TwinvaultError
from twinvault_core.names import NODE_LEASE_PREFIX
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer

NAMESPACE = "twinvault-system"
GIB = 1024**3
WAIT_SECONDS = 30.0


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class FakeAgent:
    """Writes the statuses that a node's agent writes, through its own watches.

    ``slow``: volumes that it leaves alone. ``silent``: neither Lease nor work.
    """

    client: KubeClient
    node: str
    pool_bytes: int = 100 * GIB
    lease_seconds: int = 2
    slow: set[str] = field(default_factory=set)
    silent: bool = False
    made: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.replicas = self._informer(
            kinds.VOLUME_REPLICAS, "replica", fields=f"spec.nodeName={self.node}"
        )
        self._nodes = self._informer(
            kinds.STORAGE_NODES, "node", fields=f"metadata.name={self.node}"
        )
        label = ids.holder_label(self.node)
        self.snapshots = self._informer(kinds.SNAPSHOTS, "snapshot", labels=label)

    def _informer(
        self, kind: kinds.Kind, what: str, *, labels: str = "", fields: str = ""
    ) -> Informer:
        def changed(name: str, _: Json | None) -> None:
            self._queue.put_nowait((what, name))

        return Informer(self.client, kind, labels=labels, fields=fields, on_change=changed)

    def look_again(self) -> None:
        """After ``slow`` or ``silent`` changed."""
        for name in self.replicas.store:
            self._queue.put_nowait(("replica", name))
        for name in self.snapshots.store:
            self._queue.put_nowait(("snapshot", name))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in (self.replicas, self._nodes, self.snapshots):
                group.create_task(informer.run())
            group.create_task(self._renew())
            for _ in range(4):
                group.create_task(self._work())

    async def _renew(self) -> None:
        name = ids.node_lease_name(self.node)
        while True:
            if not self.silent:
                spec = {
                    "holderIdentity": self.node,
                    "leaseDurationSeconds": self.lease_seconds,
                    "renewTime": _now(),
                }
                body = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
                with suppress(TwinvaultError):
                    try:
                        await self.client.patch(
                            kinds.LEASES, name, {"spec": spec}, namespace=NAMESPACE
                        )
                    except NotFoundError:
                        await self.client.create(kinds.LEASES, body, NAMESPACE)
            await asyncio.sleep(self.lease_seconds / 4)

    async def _work(self) -> None:
        handlers: dict[str, Callable[[str], Awaitable[None]]] = {
            "replica": self._replica,
            "node": self._node,
            "snapshot": self._snapshot,
        }
        while True:
            what, name = await self._queue.get()
            if self.silent:
                continue
            try:
                await handlers[what](name)
            except NotFoundError:
                continue
            except TwinvaultError:
                await asyncio.sleep(0.05)
                self._queue.put_nowait((what, name))

    async def _node(self, name: str) -> None:
        obj = self._nodes.store.get(name)
        if obj is None:
            return
        pools = [
            {
                "name": pool["name"],
                "state": "Ready",
                "sizeBytes": self.pool_bytes,
                "usedBytes": 0,
                "freeBytes": self.pool_bytes,
            }
            for pool in obj["spec"]["pools"]
        ]
        if (obj.get("status") or {}).get("pools") != pools:
            status = {"pools": pools, "maxVolumes": 100}
            self._nodes.saw(await self.client.patch_status(kinds.STORAGE_NODES, name, status))

    async def _replica(self, name: str) -> None:
        obj = self.replicas.store.get(name)
        if obj is None or obj["spec"]["volume"] in self.slow:
            return
        meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        if meta.get("deletionTimestamp"):
            await self.client.patch(
                kinds.VOLUME_REPLICAS, name, {"metadata": {"finalizers": []}}, uid=meta["uid"]
            )
            return
        if status.get("state") == "Ready" and status.get("sizeBytes") == spec["sizeBytes"]:
            return
        if not status.get("state"):
            self.made[spec["volume"]] = self.made.get(spec["volume"], 0) + 1
        answer = await self.client.patch_status(
            kinds.VOLUME_REPLICAS,
            name,
            {
                "state": "Ready",
                "sizeBytes": spec["sizeBytes"],
                "allocatedBytes": 0,
                "observedGeneration": meta["generation"],
            },
            uid=meta["uid"],
        )
        self.replicas.saw(answer)

    async def _snapshot(self, name: str) -> None:
        obj = self.snapshots.store.get(name)
        if obj is None or name in self.slow:
            return
        deleting = bool(obj["metadata"].get("deletionTimestamp"))
        wanted = "Erased" if deleting else "Ready"
        holders = [dict(h) for h in (obj.get("status") or {}).get("holders") or ()]
        mine = next((h for h in holders if h["node"] == self.node), None)
        if mine is None or mine["state"] == wanted:
            return
        mine.update(state=wanted, creationTime=_now(), sizeBytes=obj["status"]["sizeBytes"])
        version = obj["metadata"]["resourceVersion"]
        answer = await self.client.patch_status(
            kinds.SNAPSHOTS, name, {"holders": holders}, resource_version=version
        )
        self.snapshots.saw(answer)


class OperatorProcess:
    """One operator, started as users start it. Its log is kept in ``directory``."""

    def __init__(self, kubeconfig: Path, directory: Path, name: str = "operator-1") -> None:
        self._kubeconfig, self._name = kubeconfig, name
        self._log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def start(self) -> None:
        roots = ("core", "kube", "operator")
        env = {
            **os.environ,
            "KUBECONFIG": str(self._kubeconfig),
            "PYTHONPATH": ":".join(str(ROOT / root) for root in roots),
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": self._name,
            "TWINVAULT_METRICS_PORT": str(self.port),
        }
        argv = [sys.executable, "-m", "twinvault_operator.main"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(argv, env=env, stderr=log, stdout=log)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ValueError("not started")
        return self._process.pid

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        return self._process.wait(timeout=20)

    def log(self) -> str:
        return self._log.read_text()

    async def get(self, path: str) -> str:
        """Body of the answer of /metrics, /healthz or /readyz; OSError while it is not up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
        return answer.decode()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Rig:
    """Two sites of one node each, with agents; operators are started by the test."""

    client: KubeClient
    agents: dict[str, FakeAgent]
    kubeconfig: Path
    directory: Path

    def operator(self, name: str = "operator-1") -> OperatorProcess:
        return OperatorProcess(self.kubeconfig, self.directory, name)

    async def add_cluster(self, name: str, labels: dict[str, str] | None = None) -> None:
        spec = {
            "nodeSelector": {"matchLabels": labels or {"site": name}},
            "pools": [{"name": "fast", "devices": {"paths": ["/dev/vdb"]}}],
        }
        body = {"metadata": {"name": name}, "spec": spec}
        await self.client.create(kinds.STORAGE_CLUSTERS, body)

    async def add_volume(self, name: str, **spec: Any) -> Json:
        full = {"sizeBytes": GIB, "pool": "fast", **spec}
        return await self.client.create(kinds.VOLUMES, {"metadata": {"name": name}, "spec": full})

    async def wait(
        self, kind: kinds.Kind, name: str, done: Callable[[Json], bool], what: str
    ) -> Json:
        """The object once ``done``; AssertionError with its state after WAIT_SECONDS."""
        obj: Json = {}
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    with suppress(NotFoundError):
                        obj = await self.client.get(kind, name)
                        if done(obj):
                            return obj
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited for {what}: {obj}") from None

    async def wait_ready(self, volume: str) -> Json:
        return await self.wait(kinds.VOLUMES, volume, is_ready, f"Volume {volume} to be Ready")

    async def wait_gone(self, kind: kinds.Kind, name: str) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    obj = await self.client.get(kind, name)
                    await asyncio.sleep(0.05)
        except NotFoundError:
            return
        except TimeoutError:
            raise AssertionError(f"{kind.kind} {name} did not go: {obj}") from None

    async def all(self, kind: kinds.Kind) -> list[Json]:
        return (await self.client.list(kind))[0]


def is_ready(volume: Json) -> bool:
    return bool((volume.get("status") or {}).get("phase") == "Ready")


def condition(obj: Json, type_: str) -> Json:
    """The condition of that type, or {}."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == type_), {})


def has_reason(type_: str, reason: str) -> Callable[[Json], bool]:
    return lambda obj: condition(obj, type_).get("reason") == reason


async def add_kube_node(client: KubeClient, name: str, **labels: str) -> None:
    """A Node object that Kubernetes calls Ready, as kubelet would register it."""
    with suppress(AlreadyExistsError):
        await client.create(kinds.NODES, {"metadata": {"name": name}})
    await client.patch(kinds.NODES, name, {"metadata": {"labels": labels}})
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch_status(kinds.NODES, name, status)


async def remove_everything(client: KubeClient) -> None:
    """All objects of the rig, finalizers first."""
    ours = (
        kinds.VOLUMES,
        kinds.SNAPSHOTS,
        kinds.REPLICATION_PAIRS,
        kinds.STORAGE_CLUSTERS,
        kinds.VOLUME_REPLICAS,
        kinds.STORAGE_NODES,
        kinds.NODES,
    )
    for kind in ours:
        for obj in (await client.list(kind))[0]:
            name = obj["metadata"]["name"]
            with suppress(NotFoundError):
                if obj["metadata"].get("finalizers"):
                    await client.patch(kind, name, {"metadata": {"finalizers": []}})
                await client.delete(kind, name)
    for lease in (await client.list(kinds.LEASES, namespace=NAMESPACE))[0]:
        name = lease["metadata"]["name"]
        if name.startswith(NODE_LEASE_PREFIX):
            with suppress(NotFoundError):
                await client.delete(kinds.LEASES, name, namespace=NAMESPACE)
