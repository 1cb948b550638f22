"""This node's copies of snapshots: taken, told beside other holders, erased, never lied about."""

from __future__ import annotations

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
from twinvault_core.model import PoolState, PoolStatus


async def with_volume(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(REPLICAS, replica_object("v1"))


async def test_a_pending_copy_is_taken_and_told(world: World) -> None:
    await with_volume(world)
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")
        await world.until(lambda: "SnapshotTaken" in world.events(), "the Event")
    assert world.holder("s1")["creationTime"]
    assert world.holder("s1")["sizeBytes"] == world.storage.snapshots[("fast", "s1")].size_bytes


async def test_the_entries_of_other_holders_stay_as_they_are(world: World) -> None:
    await with_volume(world)
    obj = snapshot_object("s1", "v1")
    other = {"node": "west-1", "storageCluster": "west", "pool": "fast", "state": "Pending"}
    obj["status"]["holders"].append(other)
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, obj)
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")
    assert world.api.objects[(SNAPSHOTS, "s1")]["status"]["holders"][1] == other


async def test_a_conflict_is_answered_with_the_newest_list(world: World) -> None:
    await with_volume(world)
    conflicts = iter([True, True])

    def trouble(method: str, path: str, body: object) -> tuple[int, str] | None:
        if method == "PATCH" and path.endswith("/s1/status") and next(conflicts, False):
            return 409, "Conflict"
        return None

    world.api.trouble = trouble
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")


async def test_a_snapshot_of_a_missing_volume_fails_for_good(world: World) -> None:
    await world.api.put(NODES, node_object())
    await world.api.put(SNAPSHOTS, snapshot_object("s1", "nowhere"))
    async with world.running() as agent:
        await world.until(lambda: world.holder("s1")["state"] == "Failed", "the failure")
        await world.until(lambda: agent.queue.depth == 0, "rest")
    assert world.holder("s1")["reason"] == "NotFound"
    assert world.storage.calls.count("ensure_snapshot s1") == 1


async def test_a_deleted_snapshot_is_erased_and_told(world: World) -> None:
    await with_volume(world)
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")
        await world.api.delete(SNAPSHOTS, "s1")
        await world.until(lambda: world.holder("s1")["state"] == "Erased", "the erasing")
    assert not world.storage.snapshots


async def test_a_copy_that_is_gone_is_no_longer_called_ready(world: World) -> None:
    await with_volume(world)
    async with world.running():
        await world.ready("v1")
        await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
        await world.until(lambda: world.holder("s1")["state"] == "Ready", "the copy")
    world.storage.snapshots.clear()
    async with world.running():
        await world.until(lambda: world.holder("s1")["state"] == "Failed", "the truth")
    assert world.holder("s1")["reason"] == "DataMissing"


async def test_a_copy_waits_for_its_pool(world: World) -> None:
    world.storage.refused_pools["fast"] = PoolStatus(
        "fast", PoolState.WAITING, "DeviceMissing", "it is not there"
    )
    await world.api.put(NODES, node_object())
    await world.api.put(SNAPSHOTS, snapshot_object("s1", "v1"))
    async with world.running():
        await world.until(lambda: world.holder("s1").get("reason") == "PoolNotReady", "waiting")
    assert world.holder("s1")["state"] == "Pending"


async def test_a_snapshot_without_an_entry_for_this_node_is_left_alone(world: World) -> None:
    await with_volume(world)
    obj = snapshot_object("s1", "v1")
    obj["status"]["holders"][0]["node"] = "west-1"
    await world.api.put(SNAPSHOTS, obj)
    async with world.running() as agent:
        await world.ready("v1")
        await world.until(lambda: agent.queue.depth == 0, "rest")
    assert NODE not in str(world.api.objects[(SNAPSHOTS, "s1")]["status"])
    assert not world.storage.snapshots
