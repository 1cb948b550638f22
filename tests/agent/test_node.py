"""A StorageNode's status tells devices, pools and left-overs; orders to erase are done once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.agent.world import (
    NODE,
    NODES,
    REPLICAS,
    SNAPSHOTS,
    World,
    node_object,
    replica_object,
    snapshot_object,
)
from twinvault_core.agent_api import NodeInfo, Stage
from twinvault_core.errors import NotFoundError, UnavailableError
from twinvault_core.sizing import GIB
from twinvault_engine.agent.app import Agent


async def observe(world: World, agent: Agent) -> None:
    """What the agent does now and then."""
    agent.queue.add(agent._node_key)
    await asyncio.sleep(0.01)
    await world.until(lambda: agent.queue.depth == 0, "rest")


async def test_pools_devices_and_limits_are_told(world: World) -> None:
    await world.api.put(NODES, node_object())
    async with world.running() as agent:
        await world.until(lambda: agent.check_ready().good, "readiness")
        await world.until(lambda: world.node_status().get("pools"), "the pools")
    status = world.node_status()
    assert status["pools"][0]["state"] == "Ready"
    assert status["devices"][0]["path"] == "/dev/vdz"
    assert status["summary"]["pools"] == "fast Ready"
    assert status["summary"]["devices"].startswith("/dev/vdz ")
    assert status["maxVolumes"] == 256
    assert status["conditions"][0]["reason"] == "PoolsReady"


async def test_only_usage_that_moved_far_is_written(world: World) -> None:
    await world.api.put(NODES, node_object())
    async with world.running() as agent:
        await world.until(lambda: "PoolReady" in world.events(), "the pool")
        pool = world.storage.pools["fast"]
        world.api.requests.clear()
        world.storage.pools["fast"] = replace(pool, used_bytes=1000)
        await observe(world, agent)
        first = world.node_status()["pools"][0]["usedBytes"]
        world.storage.pools["fast"] = replace(pool, used_bytes=2000)
        await observe(world, agent)
        assert world.node_status()["pools"][0]["usedBytes"] == first == 1000
        world.storage.pools["fast"] = replace(pool, used_bytes=10 * GIB)
        await observe(world, agent)
        assert world.node_status()["pools"][0]["usedBytes"] == 10 * GIB


async def test_a_node_of_no_cluster_is_ready_and_does_nothing(world: World) -> None:
    async with world.running() as agent:
        await world.until(lambda: agent.check_ready().good, "readiness")
        answer = await agent._socket._handle(NodeInfo())
    assert answer["storageCluster"] == ""
    assert [call for call in world.storage.calls if call != "recover"] == []


async def test_data_that_nothing_speaks_of_is_told_and_kept(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
    del world.api.objects[(REPLICAS, f"v1.{NODE}")]
    async with world.running():
        await world.until(lambda: world.node_status().get("orphans"), "the orphan")
    orphan = world.node_status()["orphans"][0]
    assert orphan["volume"] == "v1"
    assert "eraseOrphans" in orphan["message"]
    assert world.storage.volumes


async def test_a_replica_that_was_given_up_becomes_an_orphan(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.api._remove(REPLICAS, f"v1.{NODE}")
        await world.until(lambda: world.node_status().get("orphans"), "the orphan")
    assert world.storage.volumes


async def test_a_listed_orphan_is_erased_once_and_taken_off_the_list(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.api._remove(REPLICAS, f"v1.{NODE}")
        await world.until(lambda: world.node_status().get("orphans"), "the orphan")
        obj = world.api.objects[(NODES, NODE)]
        await world.api.put(NODES, {**obj, "spec": {**obj["spec"], "eraseOrphans": ["v1"]}})
        await world.until(lambda: not world.storage.volumes, "the erasing")
        await world.until(lambda: world.node_status().get("orphans") == [], "the list")
        spec = lambda: world.api.objects[(NODES, NODE)]["spec"]  # noqa: E731
        await world.until(lambda: spec()["eraseOrphans"] == [], "the order to be done")
        await world.until(lambda: "OrphanErased" in world.events(), "the Event")


async def test_a_volume_that_is_spoken_of_is_never_erased_as_an_orphan(world: World) -> None:
    await world.api.put(NODES, node_object(eraseOrphans=["v1"]))
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        spec = lambda: world.api.objects[(NODES, NODE)]["spec"]  # noqa: E731
        await world.until(lambda: spec()["eraseOrphans"] == [], "the order to be dropped")
    assert world.storage.volumes


async def test_an_orphan_is_spared_when_the_api_server_knows_better(world: World) -> None:
    """The informer is behind: the replica came, but its news did not."""
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running() as agent:
        await world.ready("v1")
        await world.until(lambda: agent.queue.depth == 0, "rest")
        agent.replicas.store.clear()
        obj = world.api.objects[(NODES, NODE)]
        await world.api.put(NODES, {**obj, "spec": {**obj["spec"], "eraseOrphans": ["v1"]}})
        spec = lambda: world.api.objects[(NODES, NODE)]["spec"]  # noqa: E731
        await world.until(lambda: spec()["eraseOrphans"] == [], "the order to be dropped")
    assert world.storage.volumes


async def test_a_left_over_snapshot_is_told_and_erased_when_listed(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")
    await world.api._remove(SNAPSHOTS, "s1")
    async with world.running():
        await world.until(lambda: world.node_status().get("orphans"), "the orphan")
        assert world.node_status()["orphans"][0]["volume"] == "s1"
        obj = world.api.objects[(NODES, NODE)]
        await world.api.put(NODES, {**obj, "spec": {**obj["spec"], "eraseOrphans": ["s1"]}})
        await world.until(lambda: not world.storage.snapshots, "the erasing")
    assert world.storage.volumes


async def test_an_agent_without_api_server_mounts_what_it_remembers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinvault_engine.agent.app.SYNC_SECONDS", 0.05)
    await world.api.put(NODES, node_object(eraseOrphans=["precious"]))
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
    await world.api.set_down(True)
    world.storage.pools.clear()
    stage = Stage("v1", "/var/lib/kubelet/x", "Filesystem", "ext4")
    async with world.running() as agent:
        await world.until(lambda: agent.view.looked, "the pools")
        assert await agent._socket._handle(stage) == {"devicePath": "/dev/loop7"}
        assert not agent.check_ready().good
        assert agent.view.spec is not None
        assert agent.view.spec.erase_orphans == ()


async def test_staging_waits_for_the_pools_and_knows_whose_volume_it_is(world: World) -> None:
    stage = Stage("v1", "/var/lib/kubelet/x", "Filesystem", "ext4")
    await world.api.put(NODES, node_object())
    async with world.running() as agent:
        with pytest.raises(UnavailableError, match="starting"):
            agent._socket._handle.__self__._choose_stage(stage)  # type: ignore[attr-defined]
        await world.until(lambda: agent.check_ready().good, "readiness")
        with pytest.raises(NotFoundError, match="no replica of volume v1"):
            await agent._socket._handle(stage)


async def test_metrics_tell_pools_replicas_and_operations(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running() as agent:
        await world.ready("v1")
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.status_port)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        text = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        await writer.wait_closed()
    assert 'twinvault_pool_ready{pool="fast"} 1.0' in text
    assert 'twinvault_replicas{state="Ready"} 1.0' in text
    assert 'twinvault_agent_operations_total{kind="create_volume"} 1.0' in text
    assert "process_resident_memory_bytes" in text
