"""Two agents, one API, one pair of kernels: a replicated volume ``v`` at east-1 and west-1."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

from tests.agent.fake_drbd import MINOR, NODES, VOLUME, FakeEvents, FakeReplication, Pair
from tests.agent.fake_storage import FakeStorage
from tests.agent.world import NODES as NODE_OBJECTS
from tests.agent.world import REPLICAS, SNAPSHOTS
from tests.kube.fake_api import FakeApi, Json
from twinvault_core.agent_api import Request, Stage, Unstage
from twinvault_core.errors import UnavailableError
from twinvault_core.model import ReplicationRecord
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.sizing import GIB
from twinvault_engine.agent.app import Agent
from twinvault_engine.agent.config import AgentConfig
from twinvault_kube.client import KubeClient
from twinvault_kube.transport import Answer, Transport

VOLUMES = "/apis/twinvault.io/v1alpha1/volumes"
EAST, WEST = NODES
UID = "uid-of-v"
STAGING = "/var/lib/kubelet/plugins/v/globalmount"


class Wire:
    """One node's way to the API. ``cut``: nothing passes; ``late_seconds``: all is slow;
    ``swallow``: writes of records arrive, their answers do not.
    """

    def __init__(self, api: Transport) -> None:
        self.api = api
        self.cut = False
        self.swallow = False
        self.late_seconds = 0.0
        self.before_write: Callable[[], None] | None = None

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        await asyncio.sleep(self.late_seconds)
        if self.cut:
            raise UnavailableError("no answer from the API server: no route")
        record_write = method == "PATCH" and target.startswith(f"{VOLUMES}/")
        if record_write and self.before_write is not None:
            hook, self.before_write = self.before_write, None
            hook()
        answer = await self.api.request(method, target, headers, body)
        if record_write and self.swallow:
            self.swallow = False
            raise UnavailableError("no answer from the API server: connection reset")
        return answer

    async def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        async for line in self.api.stream(target, idle_seconds):
            while self.cut:
                await asyncio.sleep(0.01)
            yield line

    async def close(self) -> None:
        """Of the client."""


class Side:
    """One node: its storage, its way to the API, and its agent while one runs.

    ``observe``: the node's VolumeReplica as the API has it now.
    """

    def __init__(
        self,
        pair: Pair,
        api: Transport,
        node: str,
        directory: Path,
        observe: Callable[[], Json] = dict,
    ) -> None:
        self._pair, self._observe, self.node = pair, observe, node
        self.wire = Wire(api)
        self.storage = FakeStorage()
        self.drbd = FakeReplication(pair, node)
        self.storage.replication = self.drbd
        self.config = AgentConfig(
            node_name=node,
            pod_name=f"agent-{node}",
            data_dir=directory / node,
            socket_path=directory / f"{node}.sock",
            metrics_address="127.0.0.1",
            metrics_port=0,
            observe_seconds=3600.0,
            node_address="10.0.0.1",
        )
        pair.sockets[node] = self.config.data_dir / "fence" / "fence.sock"
        self.agent: Agent | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        (self.config.data_dir / "records").mkdir(parents=True, exist_ok=True)
        client = KubeClient(self.wire)
        agent = self.agent = Agent(
            self.config,
            client,
            self.storage,
            make_events=lambda on_change: FakeEvents(self._pair, self.node, on_change),
        )
        task = asyncio.ensure_future(agent.run())
        try:
            yield agent
        finally:
            self.agent = None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def ask(self, request: Request) -> Json:
        assert self.agent is not None
        return await self.agent._socket._handle(request)

    async def stage(self) -> Json:
        """As kubelet does; a pod has it then."""
        answer = await self.ask(Stage(VOLUME, STAGING, "Filesystem", "ext4"))
        self.drbd.targets.append("/var/lib/kubelet/pods/x/mount")
        return answer

    async def unstage(self) -> None:
        self.drbd.targets.clear()
        await self.ask(Unstage(VOLUME, STAGING))

    @property
    def status(self) -> Json:
        """``status.replication`` of this node's replica."""
        return dict((self._observe().get("status") or {}).get("replication") or {})


def node_object(node: str) -> Json:
    pools = [{"name": "fast", "filesystem": "xfs", "devices": {"paths": ["/dev/vdz"]}}]
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": "StorageNode",
        "metadata": {"name": node},
        "spec": {"storageCluster": node[:4], "pools": pools},
    }


def replica_object(node: str, uid: str, first_sync: str = "") -> Json:
    """As the operator makes it; ``first_sync`` goes to the primary's only."""
    replication = {
        "minor": MINOR,
        "port": 7000,
        "address": "10.0.0.1" if node == EAST else "10.0.0.2",
        "peerNode": WEST if node == EAST else EAST,
        "peerAddress": "10.0.0.2" if node == EAST else "10.0.0.1",
        "epoch": 1,
        "firstSync": first_sync if node == EAST else "",
    }
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": "VolumeReplica",
        "metadata": {"name": f"{VOLUME}.{node}", "finalizers": [FINALIZER_REPLICA]},
        "spec": {
            "volume": VOLUME,
            "volumeUID": uid,
            "nodeName": node,
            "storageCluster": node[:4],
            "pool": "fast",
            "sizeBytes": GIB,
            "volumeMode": "Filesystem",
            "fsType": "ext4",
            "role": "Primary" if node == EAST else "Secondary",
            "replication": replication,
        },
    }


class MetroWorld:
    def __init__(self, directory: Path) -> None:
        self.api = FakeApi()
        self.pair = Pair()
        self.east, self.west = (
            Side(self.pair, self.api, node, directory, partial(self._replica, node))
            for node in NODES
        )

    def _replica(self, node: str) -> Json:
        return self.api.objects[(REPLICAS, f"{VOLUME}.{node}")]

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.east, self.west)

    async def create(self, *, first_sync: str = "Skip") -> None:
        """As the operator: the nodes, the Volume with its first record, both replicas."""
        for side in self.sides:
            await self.api.put(NODE_OBJECTS, node_object(side.node))
        record = ReplicationRecord(1, EAST, frozenset({EAST}), 1)
        await self.api.put(
            VOLUMES,
            {
                "apiVersion": "twinvault.io/v1alpha1",
                "kind": "Volume",
                "metadata": {"name": VOLUME, "uid": UID},
                "spec": {"sizeBytes": GIB, "pool": "fast"},
                "status": {"replication": record.to_dict()},
            },
        )
        for side in self.sides:
            await self.api.put(REPLICAS, replica_object(side.node, UID, first_sync))

    @property
    def record(self) -> ReplicationRecord:
        obj = self.api.objects[(VOLUMES, VOLUME)]
        record = ReplicationRecord.parse(obj["status"]["replication"])
        assert record is not None
        return record

    async def set_record(self, record: ReplicationRecord, *, forced_to: str = "") -> None:
        """As the operator, with the hint for both agents. ``forced_to``: on a person's word."""
        obj = self.api.objects[(VOLUMES, VOLUME)]
        status: Json = {"replication": record.to_dict()}
        if forced_to:
            status["forcedPromotions"] = [{"node": forced_to, "epoch": record.epoch}]
        await self.api.put(VOLUMES, {**obj, "status": status})
        for side in self.sides:
            await self.change_spec(side.node, epoch=record.epoch)

    async def change_spec(self, node: str, **replication: object) -> None:
        obj = self.api.objects[(REPLICAS, f"{VOLUME}.{node}")]
        told = {**obj["spec"]["replication"], **replication}
        await self.api.put(REPLICAS, {**obj, "spec": {**obj["spec"], "replication": told}})

    async def fail_over(self, to: str) -> None:
        """As the operator when the primary is lost."""
        before = self.record
        assert to in before.in_sync
        await self.set_record(
            ReplicationRecord(before.epoch + 1, to, frozenset({to}), before.serial + 1)
        )

    async def take_snapshot(self, name: str) -> None:
        """As the operator: an entry and a label for each node."""
        holders = [{"node": node, "pool": "fast", "state": "Pending"} for node in NODES]
        await self.api.put(
            SNAPSHOTS,
            {
                "apiVersion": "twinvault.io/v1alpha1",
                "kind": "Snapshot",
                "metadata": {
                    "name": name,
                    "labels": {f"holder.twinvault.io/{node}": "true" for node in NODES},
                    "finalizers": ["twinvault.io/holders"],
                },
                "spec": {"volume": VOLUME},
                "status": {"volumeUID": UID, "holders": holders},
            },
        )

    def holders(self, name: str) -> list[Json]:
        entries: list[Json] = self.api.objects[(SNAPSHOTS, name)]["status"]["holders"]
        return entries

    def is_taken(self, name: str) -> bool:
        return all(entry["state"] == "Ready" for entry in self.holders(name))

    async def until(
        self, condition: Callable[[], object], what: str, timeout_seconds: float = 10.0
    ) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not condition():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"waited {timeout_seconds} s for {what}; {self}") from None

    async def until_in_sync(self) -> None:
        await self.until(
            lambda: (
                self.record.in_sync == {EAST, WEST}
                and all(side.status.get("step") == "Nothing" for side in self.sides)
                and all(side.status.get("peerDisk") == "UpToDate" for side in self.sides)
            ),
            "both replicas to be in sync",
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both agents, and a volume that is in sync."""
        await self.create()
        async with self.east.running(), self.west.running():
            await self.until_in_sync()
            yield

    def __str__(self) -> str:
        lines = [f"record {self.record}", f"answers {self.pair.answers}"]
        for side in self.sides:
            lines += [f"{side.node}: {side.status}", f"  told {side.drbd.told}"]
        return "\n".join(lines)
