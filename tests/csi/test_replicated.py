"""Volumes of a ReplicationPair: made at both sites, room, copies, lists, growth."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import POOL
from tests.csi.requests import GIB, code_of, create_request, from_snapshot, from_volume, on_nodes
from twinvault_core import reasons
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import STORAGE_CLUSTERS, VOLUMES

Code = grpc.StatusCode
METRO = {"pool": POOL, "replicationPair": "metro"}


@pytest.fixture(autouse=True)
async def pair(driver: Driver) -> None:
    driver.operator.add_pair("metro", "east", "west")
    while driver.objects.find_pair("metro") is None:
        await asyncio.sleep(0.01)


def create(driver: Driver, name: str, timeout: float = 20, **more: Any) -> Any:
    request = create_request(name, parameters=METRO, **more)
    return driver.controller.CreateVolume(request, timeout=timeout)


def nodes_of(volume: csi_pb2.Volume) -> list[str]:
    """What every PersistentVolume allows besides: a node that is labelled with its name later."""
    *homes, later = (dict(topology.segments) for topology in volume.accessible_topology)
    key = "topology.csi.twinvault.io/node"
    assert later == {f"replica.twinvault.io/{volume.volume_id}": "true"}
    return [home[key] for home in homes]


async def test_a_replicated_volume_is_usable_at_both_sites(driver: Driver) -> None:
    assert nodes_of((await create(driver, "pvc-1")).volume) == ["node-a", "node-b"]


async def test_the_first_replica_is_where_the_scheduler_wants_the_pod(driver: Driver) -> None:
    wanted = on_nodes("node-b", "node-a")
    answer = await create(driver, "pvc-1", accessibility_requirements=wanted)
    assert nodes_of(answer.volume) == ["node-b", "node-a"]
    spec = driver.api.objects["volumes"]["pvc-1"]["spec"]
    assert spec["accessibility"]["requisite"] == ["node-b"]


async def test_a_retry_that_wants_the_pod_at_the_other_site_gets_the_same_volume(
    driver: Driver,
) -> None:
    await create(driver, "pvc-1", accessibility_requirements=on_nodes("node-a", "node-b"))
    wanted = on_nodes("node-b", "node-a")
    answer = await create(driver, "pvc-1", accessibility_requirements=wanted)
    assert nodes_of(answer.volume) == ["node-a", "node-b"]


async def test_it_is_not_answered_before_both_sides_hold_every_write(driver: Driver) -> None:
    driver.operator.hold_sync = True
    code, message = await code_of(create(driver, "pvc-1", timeout=1.0))
    assert code is Code.DEADLINE_EXCEEDED
    assert "node-a: in sync" in message
    assert "node-b: Ready, not in sync yet" in message
    driver.operator.release()
    assert nodes_of((await create(driver, "pvc-1")).volume) == ["node-a", "node-b"]


async def test_what_a_side_says_of_itself_reaches_the_caller(driver: Driver) -> None:
    driver.operator.hold_sync = True
    await code_of(create(driver, "pvc-1", timeout=0.5))
    driver.operator.hold = True
    far = {"node": "node-b", "state": "Creating", "message": "waiting for drbd"}
    status = {"replicas": [{"node": "node-a", "state": "Ready"}, far]}
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", status))
    code, message = Code.ABORTED, ""
    while code is Code.ABORTED:
        code, message = await code_of(create(driver, "pvc-1", timeout=1.0))
    assert code is Code.DEADLINE_EXCEEDED
    assert "node-b: Creating (waiting for drbd)" in message


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Degraded", "replication": {"inSync": ["node-a"]}},
        {"phase": "Ready", "placement": {"nodes": ["node-a"]}},
        {"phase": "Creating"},
    ],
    ids=["one side lost", "one side not placed", "not ready"],
)
async def test_a_retry_is_not_answered_with_one_side_only(
    driver: Driver, status: dict[str, Any]
) -> None:
    await create(driver, "pvc-1")
    driver.operator.hold = True
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", status))
    assert (await code_of(create(driver, "pvc-1", timeout=0.5)))[0] is Code.DEADLINE_EXCEEDED


async def test_a_pair_that_does_not_exist_is_told_and_nothing_is_left(driver: Driver) -> None:
    driver.operator.refuse = reasons.PAIR_UNKNOWN
    code, message = await code_of(create(driver, "pvc-1"))
    assert (code, message) == (Code.INVALID_ARGUMENT, f"because {reasons.PAIR_UNKNOWN}")
    assert driver.api.objects["volumes"] == {}


async def test_with_a_pair_and_without_are_two_volumes(driver: Driver) -> None:
    await create(driver, "pvc-1")
    code, message = await code_of(
        driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    )
    assert code is Code.ALREADY_EXISTS
    assert "metro" in message


async def test_a_snapshot_is_restored_and_a_volume_cloned_at_both_sites(driver: Driver) -> None:
    await create(driver, "pvc-1")
    take = csi_pb2.CreateSnapshotRequest(name="snap-1", source_volume_id="pvc-1")
    await driver.controller.CreateSnapshot(take, timeout=20)
    wanted = on_nodes("node-b", "node-a")
    for name, source in (("pvc-2", from_snapshot("snap-1")), ("pvc-3", from_volume("pvc-1"))):
        answer = await create(
            driver, name, volume_content_source=source, accessibility_requirements=wanted
        )
        assert sorted(nodes_of(answer.volume)) == ["node-a", "node-b"]
        assert answer.volume.content_source == source
        # A copy may start wherever its source is; the scheduler's wish is only a preference.
        where = driver.api.objects["volumes"][name]["spec"]["accessibility"]
        assert where == {"preferred": ["node-b", "node-a"]}


async def test_a_replicated_volume_is_copied_into_one_without_a_pair(driver: Driver) -> None:
    await create(driver, "pvc-1")
    request = create_request("pvc-2", volume_content_source=from_volume("pvc-1"))
    answer = await driver.controller.CreateVolume(request, timeout=20)
    assert len(nodes_of(answer.volume)) == 1


async def test_lists_show_one_volume_with_both_its_nodes(driver: Driver) -> None:
    await create(driver, "pvc-1")
    await driver.api.patch(VOLUMES, "pvc-1", {"spec": {"publishedTo": ["node-b"]}})
    driver.objects.volumes.saw(driver.api.objects["volumes"]["pvc-1"])
    listed = await driver.controller.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=20)
    got = await driver.controller.ControllerGetVolume(
        csi_pb2.ControllerGetVolumeRequest(volume_id="pvc-1"), timeout=20
    )
    (entry,) = listed.entries
    for one in (entry, got):
        assert sorted(nodes_of(one.volume)) == ["node-a", "node-b"]
        assert list(one.status.published_node_ids) == ["node-b"]


async def test_a_replica_that_is_on_its_way_out_is_no_home(driver: Driver) -> None:
    await create(driver, "pvc-1")
    leaving = [{"node": node, "state": "Ready"} for node in ("node-a", "node-b", "node-c")]
    obj = driver.api.set_status(VOLUMES, "pvc-1", {"replicas": leaving})
    driver.objects.volumes.saw(obj)
    request = csi_pb2.ControllerGetVolumeRequest(volume_id="pvc-1")
    answer = await driver.controller.ControllerGetVolume(request, timeout=20)
    assert sorted(nodes_of(answer.volume)) == ["node-a", "node-b"]


async def test_growth_needs_room_at_both_sites(driver: Driver) -> None:
    await create(driver, "pvc-1")
    set_room(driver, "west", 2 * GIB)

    def expand(size: int) -> Any:
        capacity = csi_pb2.CapacityRange(required_bytes=size)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id="pvc-1", capacity_range=capacity)
        return driver.controller.ControllerExpandVolume(request, timeout=20)

    code, message = await code_of(expand(4 * GIB))
    assert code is Code.OUT_OF_RANGE
    assert "2Gi" in message
    assert (await expand(2 * GIB)).capacity_bytes == 2 * GIB


# -- room ----------------------------------------------------------------------------------------


def set_room(driver: Driver, cluster: str, *available_bytes: int) -> None:
    """What each node of ``cluster`` may still take."""
    obj = driver.api.objects["storageclusters"][cluster]
    for node, size in zip(obj["status"]["nodes"], available_bytes, strict=True):
        node["pools"][0]["availableBytes"] = size
    driver.objects.clusters.saw(driver.api.put(STORAGE_CLUSTERS, obj))


async def room(driver: Driver, *nodes: str, **parameters: str) -> tuple[int, int]:
    request = csi_pb2.GetCapacityRequest(parameters=METRO | parameters)
    if nodes:
        request.accessible_topology.CopyFrom(on_nodes(*nodes).requisite[0])
    answer = await driver.controller.GetCapacity(request, timeout=20)
    return answer.available_capacity, answer.maximum_volume_size.value


async def test_the_room_of_a_pair_is_that_of_its_tighter_site(driver: Driver) -> None:
    set_room(driver, "west", 30 * GIB)
    assert await room(driver) == (30 * GIB, 30 * GIB)
    assert await room(driver, "node-a") == (30 * GIB, 30 * GIB)
    set_room(driver, "east", 20 * GIB)
    assert await room(driver, "node-a") == (20 * GIB, 20 * GIB)
    assert await room(driver, "node-b") == (20 * GIB, 20 * GIB)
    set_room(driver, "west", 0)
    assert await room(driver, "node-a") == (0, 0)


async def test_the_other_site_may_use_any_of_its_nodes(driver: Driver) -> None:
    driver.operator.add_node("node-c", "west")
    while "node-c" not in driver.objects.node_clusters():
        await asyncio.sleep(0.01)
    set_room(driver, "west", 30 * GIB, 50 * GIB)
    assert await room(driver) == (80 * GIB, 50 * GIB)
    assert await room(driver, "node-a") == (80 * GIB, 50 * GIB)
    assert await room(driver, "node-b") == (30 * GIB, 30 * GIB)


async def test_a_node_outside_the_pair_has_no_room_for_it(driver: Driver) -> None:
    driver.operator.add_node("node-c", "north")
    while "node-c" not in driver.objects.node_clusters():
        await asyncio.sleep(0.01)
    assert await room(driver, "node-c") == (0, 0)
    assert await room(driver) == (100 * GIB, 100 * GIB)


async def test_a_pool_that_one_site_lacks_has_no_room(driver: Driver) -> None:
    assert await room(driver, pool="slow") == (0, 0)
    assert await room(driver, pool="") == (100 * GIB, 100 * GIB)
    driver.operator.add_pair("broken", "east", "nowhere")
    while driver.objects.find_pair("broken") is None:
        await asyncio.sleep(0.01)
    assert await room(driver, replicationPair="broken") == (0, 0)


async def test_with_an_unknown_pair_the_volume_is_asked_for_so_that_the_refusal_is_read(
    driver: Driver,
) -> None:
    assert await room(driver, "node-a", replicationPair="typo") == (100 * GIB, 100 * GIB)


async def test_a_volume_whose_far_pool_is_full_is_refused_in_words(driver: Driver) -> None:
    driver.operator.refuse = reasons.NO_CAPACITY
    code, _ = await code_of(create(driver, "pvc-1"))
    assert code is Code.RESOURCE_EXHAUSTED
