"""The agent against a real API server; storage in memory, so that only the API is under test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.lab.standalone import ApiServer
from tests.agent.fake_storage import FakeStorage
from tests.agent.world import NODE, node_object, replica_object, snapshot_object
from tests.api.conftest import Freezer
from twinvault_core.agent_api import Stage
from twinvault_core.errors import TwinvaultError
from twinvault_core.sizing import GIB
from twinvault_engine.agent.app import Agent
from twinvault_engine.agent.config import AgentConfig
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import LEASES, SNAPSHOTS, STORAGE_NODES, VOLUME_REPLICAS

pytestmark = pytest.mark.api


@contextlib.asynccontextmanager
async def running_agent(storage: FakeStorage, directory: Path) -> AsyncIterator[Agent]:
    config = AgentConfig(
        node_name=NODE,
        pod_name="agent-x",
        data_dir=directory,
        socket_path=directory / "agent.sock",
        metrics_address="127.0.0.1",
        metrics_port=0,
        lease_duration_seconds=2.0,
        lease_renew_seconds=0.5,
    )
    client = KubeClient.from_environment(user_agent="agent-under-test", timeout_seconds=2.0)
    agent = Agent(config, client, storage)
    task = asyncio.ensure_future(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await client.close()


@contextlib.asynccontextmanager
async def watching(kube: KubeClient, kind: object = VOLUME_REPLICAS) -> AsyncIterator[Informer]:
    informer = Informer(kube, kind)  # type: ignore[arg-type]
    task = asyncio.ensure_future(informer.run())
    try:
        await informer.wait_synced(10)
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def state_is(state: str):
    return lambda obj: obj is not None and (obj.get("status") or {}).get("state") == state


async def test_replicas_become_ready_and_go(kube: KubeClient, tmp_path: Path) -> None:
    storage = FakeStorage()
    async with running_agent(storage, tmp_path), watching(kube) as replicas:
        await kube.create(STORAGE_NODES, node_object())
        await asyncio.gather(
            *(kube.create(VOLUME_REPLICAS, replica_object(f"v{n}")) for n in range(50))
        )
        for number in range(50):
            name = f"v{number}.{NODE}"
            obj = await replicas.wait_for(name, state_is("Ready"), 20, f"{name} to be ready")
            assert obj is not None
            assert obj["status"]["sizeBytes"] == GIB
        await asyncio.gather(*(kube.delete(VOLUME_REPLICAS, f"v{n}.{NODE}") for n in range(50)))
        for number in range(50):
            name = f"v{number}.{NODE}"
            await replicas.wait_for(name, lambda obj: obj is None, 20, f"{name} to go")
    assert not storage.volumes


async def test_the_socket_serves_while_the_api_server_is_frozen(
    kube: KubeClient, freeze_api: Freezer, tmp_path: Path
) -> None:
    storage = FakeStorage()
    async with running_agent(storage, tmp_path) as agent, watching(kube) as replicas:
        await kube.create(STORAGE_NODES, node_object())
        await kube.create(VOLUME_REPLICAS, replica_object("v1"))
        await replicas.wait_for(f"v1.{NODE}", state_is("Ready"), 20, "v1 to be ready")
        freeze_api.freeze()
        await asyncio.sleep(3)
        stage = Stage("v1", "/var/lib/kubelet/x", "Filesystem", "ext4")
        answer = await agent._socket._handle(stage)
        assert answer == {"devicePath": "/dev/loop7"}
        freeze_api.thaw()
        await replicas.wait_for(
            f"v1.{NODE}",
            lambda obj: obj is not None and obj["status"].get("inUse"),
            30,
            "the attachment to be told after the API server is back",
        )
        before = (await kube.get(LEASES, f"agent-{NODE}", "twinvault-system"))["spec"]["renewTime"]
        async with asyncio.timeout(10):
            while True:
                lease = await kube.get(LEASES, f"agent-{NODE}", "twinvault-system")
                if lease["spec"]["renewTime"] != before:
                    break
                await asyncio.sleep(0.1)


async def test_a_snapshot_entry_is_written_beside_the_operators(
    kube: KubeClient, tmp_path: Path
) -> None:
    """Others write the same status all the time: no entry of theirs is lost."""
    storage = FakeStorage()
    async with running_agent(storage, tmp_path), watching(kube, SNAPSHOTS) as snapshots:
        await kube.create(STORAGE_NODES, node_object())
        await kube.create(VOLUME_REPLICAS, replica_object("v1"))
        async with asyncio.timeout(10):
            while not storage.volumes:
                await asyncio.sleep(0.02)
        obj = snapshot_object("s1", "v1")
        await kube.create(SNAPSHOTS, {key: obj[key] for key in ("metadata", "spec")})
        await kube.patch_status(SNAPSHOTS, "s1", obj["status"])
        for turn in range(20):
            await _race(kube, turn)
        taken = await snapshots.wait_for("s1", _is_taken, 20, "the snapshot to be taken")
        assert taken is not None
        assert taken["status"]["readyToUse"] is False
        await kube.delete(SNAPSHOTS, "s1")
        await snapshots.wait_for("s1", _is_erased, 20, "the snapshot to be erased")
    assert not storage.snapshots


async def _race(kube: KubeClient, turn: int) -> None:
    try:
        current = await kube.get(SNAPSHOTS, "s1")
        current["status"]["readyToUse"] = False
        current["status"]["observedGeneration"] = turn + 1
        await kube.replace_status(SNAPSHOTS, current)
    except ConflictError:
        return


def _is_taken(obj: Json | None) -> bool:
    return obj is not None and obj["status"]["holders"][0]["state"] == "Ready"


def _is_erased(obj: Json | None) -> bool:
    return obj is not None and obj["status"]["holders"][0]["state"] == "Erased"


async def test_a_replica_is_not_confused_with_its_successor(
    kube: KubeClient, tmp_path: Path
) -> None:
    storage = FakeStorage()
    async with running_agent(storage, tmp_path), watching(kube) as replicas:
        await kube.create(STORAGE_NODES, node_object())
        for turn in range(5):
            await kube.create(VOLUME_REPLICAS, replica_object("v1", uid=f"life-{turn}"))
            await replicas.wait_for(f"v1.{NODE}", state_is("Ready"), 20, "v1 to be ready")
            assert storage.volumes[("fast", "v1")].volume_uid == f"life-{turn}"
            await kube.delete(VOLUME_REPLICAS, f"v1.{NODE}")
            await replicas.wait_for(f"v1.{NODE}", lambda obj: obj is None, 20, "v1 to go")


async def test_an_agent_starts_from_memory_when_the_api_server_is_away(
    kube: KubeClient, freeze_api: Freezer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinvault_engine.agent.app.SYNC_SECONDS", 0.5)
    storage = FakeStorage()
    async with running_agent(storage, tmp_path), watching(kube) as replicas:
        await kube.create(STORAGE_NODES, node_object())
        await kube.create(VOLUME_REPLICAS, replica_object("v1"))
        await replicas.wait_for(f"v1.{NODE}", state_is("Ready"), 20, "v1 to be ready")
    freeze_api.freeze()
    async with running_agent(storage, tmp_path) as agent:
        stage = Stage("v1", "/var/lib/kubelet/x", "Filesystem", "ext4")
        answer = None
        async with asyncio.timeout(10):
            while answer is None:
                with contextlib.suppress(TwinvaultError):
                    answer = await agent._socket._handle(stage)
                await asyncio.sleep(0.05)
        assert answer == {"devicePath": "/dev/loop7"}
        assert not agent.check_ready().good
        freeze_api.thaw()
        async with asyncio.timeout(20):
            while not agent.check_ready().good:
                await asyncio.sleep(0.05)


async def test_what_was_asked_during_a_restart_of_the_api_server_is_done(
    api_server: ApiServer, kube: KubeClient, tmp_path: Path
) -> None:
    """The API server goes in the middle of a storm and comes back; the storm goes on to its end."""
    storage = FakeStorage()
    async with running_agent(storage, tmp_path):
        await kube.create(STORAGE_NODES, node_object())
        await asyncio.gather(
            *(kube.create(VOLUME_REPLICAS, replica_object(f"v{n}")) for n in range(30))
        )
        await asyncio.to_thread(api_server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(api_server.start)
        async with watching(kube) as replicas:
            for number in range(30):
                name = f"v{number}.{NODE}"
                await replicas.wait_for(name, state_is("Ready"), 30, f"{name} to be ready")
    assert len(storage.volumes) == 30
