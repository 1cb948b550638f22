"""A VolumeReplica becomes data on this node, grows, and goes only when its data is gone."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

from tests.agent.world import NODE, NODES, REPLICAS, World, node_object, replica_object
from twinvault_core.agent_api import Stage, Unstage
from twinvault_core.sizing import GIB


async def test_a_replica_is_made_with_one_status_write(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.until(lambda: "Created" in world.events(), "the Event")
    status = world.status("v1")
    assert status["sizeBytes"] == GIB
    assert status["observedGeneration"] == 1
    assert status["conditions"][0]["status"] == "True"
    writes = [line for line in world.api.writes() if REPLICAS in line]
    assert writes == [f"PATCH {REPLICAS}/v1.{NODE}/status"]


async def test_fifty_replicas_at_once_are_all_made(world: World) -> None:
    await world.api.put(NODES, node_object())
    async with world.running():
        for number in range(50):
            await world.api.put(REPLICAS, replica_object(f"v{number}"))
        for number in range(50):
            await world.ready(f"v{number}")
    assert len([line for line in world.api.writes() if REPLICAS in line]) == 50


async def test_a_larger_spec_grows_the_image(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        obj = world.replica("v1")
        await world.api.put(REPLICAS, {**obj, "spec": {**obj["spec"], "sizeBytes": 2 * GIB}})
        await world.until(lambda: world.status("v1")["sizeBytes"] == 2 * GIB, "growth")
        await world.until(lambda: "Grown" in world.events(), "the Event")
    assert world.status("v1")["observedGeneration"] == 2


async def test_a_deleted_replica_goes_after_its_data(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.api.delete(REPLICAS, f"v1.{NODE}")
        await world.until(lambda: (REPLICAS, f"v1.{NODE}") not in world.api.objects, "its end")
    assert not world.storage.volumes
    assert "erase_volume v1" in world.storage.calls


async def test_a_replica_in_use_is_kept_until_it_is_unstaged(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running() as agent:
        await world.ready("v1")
        handle = agent._socket._handle
        path = "/var/lib/kubelet/x"
        await handle(Stage("v1", path, "Filesystem", "ext4"))
        await world.until(lambda: world.status("v1")["inUse"], "the attachment to be told")
        assert world.status("v1")["devicePath"] == "/dev/loop7"
        await world.api.delete(REPLICAS, f"v1.{NODE}")
        await world.until(lambda: world.status("v1").get("state") == "Deleting", "Deleting")
        assert world.status("v1")["reason"] == "InUse"
        assert world.storage.volumes
        await handle(Unstage("v1", path))
        await world.until(lambda: (REPLICAS, f"v1.{NODE}") not in world.api.objects, "its end")


async def test_data_of_another_volume_of_that_name_is_left_alone(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
    facts = world.storage.volumes[("fast", "v1")]
    world.storage.volumes[("fast", "v1")] = replace(facts, volume_uid="someone-else")
    del world.api.objects[(REPLICAS, f"v1.{NODE}")]
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.until(lambda: world.status("v1").get("state") == "Failed", "Failed")
        assert world.status("v1")["reason"] == "DataAtRisk"
        await world.until(lambda: world.node_status().get("orphans"), "the orphan")
        await world.api.delete(REPLICAS, f"v1.{NODE}")
        await world.until(lambda: (REPLICAS, f"v1.{NODE}") not in world.api.objects, "its end")
    assert world.storage.volumes[("fast", "v1")].volume_uid == "someone-else"


async def test_an_image_that_vanished_is_never_replaced_by_an_empty_one(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
    world.storage.volumes.clear()
    async with world.running():
        await world.until(lambda: world.status("v1").get("state") == "Failed", "Failed")
    assert world.status("v1")["reason"] == "DataMissing"
    assert not world.storage.volumes


async def test_a_full_pool_fails_the_replica_and_space_heals_it(world: World) -> None:
    world.storage.capacity_bytes = GIB // 2
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.until(lambda: world.status("v1").get("reason") == "NoSpace", "NoSpace")
        assert world.status("v1")["state"] == "Failed"
        world.storage.capacity_bytes = 10 * GIB
        await world.ready("v1")


async def test_a_failure_that_nobody_foresaw_is_told_and_repeated(world: World) -> None:
    failures = iter([OSError("disk on fire")])

    def fail_once(call: str, subject: str) -> None:
        if call == "ensure_volume" and (error := next(failures, None)):
            raise error

    world.storage.before = fail_once
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.until(
            lambda: "disk on fire" in world.status("v1").get("message", ""), "the failure"
        )
        assert world.status("v1")["state"] == "Creating"
        await world.ready("v1")


async def test_conflicts_and_lost_answers_do_not_stop_a_status(world: World) -> None:
    troubles = iter([(500, "InternalError"), (503, "ServiceUnavailable")])

    def trouble(method: str, path: str, body: object) -> tuple[int, str] | None:
        return next(troubles, None) if method == "PATCH" and "/v1." in path else None

    world.api.trouble = trouble
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")


async def test_a_slow_creation_says_so_while_it_lasts(world: World, monkeypatch) -> None:
    monkeypatch.setattr("twinvault_engine.agent.replica_reconciler.PROGRESS_SECONDS", 0.01)
    release = threading.Event()

    def block(call: str, subject: str) -> None:
        if call == "ensure_volume":
            release.wait(10)

    world.storage.before = block
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.until(lambda: world.status("v1").get("state") == "Creating", "Creating")
        release.set()
        await world.ready("v1")


async def test_a_replica_waits_for_its_pool_and_goes_on_by_itself(world: World) -> None:
    from twinvault_core.model import PoolState, PoolStatus

    refused = PoolStatus("fast", PoolState.WAITING, "DeviceNotBlank", "/dev/vdz holds ext4")
    world.storage.refused_pools["fast"] = refused
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running() as agent:
        await world.until(lambda: world.status("v1").get("reason") == "PoolNotReady", "waiting")
        assert "holds ext4" in world.status("v1")["message"]
        await world.until(lambda: _node_condition(world, "reason") == "DeviceNotBlank", "the node")
        await world.until(lambda: "DeviceNotBlank" in world.events(), "the Event")
        world.storage.refused_pools.clear()
        agent.queue.add(agent._node_key)
        await world.ready("v1")
        await world.until(lambda: _node_condition(world, "status") == "True", "the node")


def _node_condition(world: World, key: str) -> str:
    """Of the node's first condition; the node's status may come after the replica's."""
    return str((world.node_status().get("conditions") or [{}])[0].get(key))


async def test_an_agent_that_starts_again_writes_nothing_when_nothing_changed(
    world: World,
) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))
    async with world.running():
        await world.ready("v1")
        await world.until(lambda: "PoolReady" in world.events(), "the last write")
        await world.until(lambda: "Created" in world.events(), "the last write")
        await world.until(lambda: "replication" in world.node_status(), "the last write")
    world.api.requests.clear()
    async with world.running() as agent:
        await world.until(lambda: agent.check_ready().good, "readiness")
        await world.until(lambda: agent.queue.depth == 0, "the queue to be empty")
        await asyncio.sleep(0.05)
    assert [line for line in world.api.writes() if "leases" not in line] == []
