"""Publishing a volume of a pair: the primary follows the pod, and calls race with failovers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import POOL, TAKEN, condition
from tests.csi.requests import capability, code_of, create_request, from_volume
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import VOLUMES

Code = grpc.StatusCode
Json = dict[str, Any]


def publish(driver: Driver, node: str, timeout: float = 20) -> Any:
    request = csi_pb2.ControllerPublishVolumeRequest(
        volume_id="pvc-1", node_id=node, volume_capability=capability()
    )
    return driver.controller.ControllerPublishVolume(request, timeout=timeout)


def unpublish(driver: Driver, node: str) -> Any:
    request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id="pvc-1", node_id=node)
    return driver.controller.ControllerUnpublishVolume(request, timeout=20)


@pytest.fixture(autouse=True)
async def volume(driver: Driver) -> None:
    driver.operator.add_pair("metro", "east", "west")
    request = create_request("pvc-1", parameters={"pool": POOL, "replicationPair": "metro"})
    await driver.controller.CreateVolume(request, timeout=20)


def published(driver: Driver) -> list[str]:
    found: list[str] = driver.api.objects["volumes"]["pvc-1"]["spec"].get("publishedTo") or []
    return found


def record(driver: Driver) -> Json:
    found: Json = driver.api.objects["volumes"]["pvc-1"]["status"]["replication"]
    return found


def report(driver: Driver, **status: Any) -> None:
    """What the operator says of the volume, known to the driver at once."""
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", status))


def move(driver: Driver, **changes: Any) -> None:
    driver.operator.move_record("pvc-1", **changes)
    driver.objects.volumes.saw(driver.api.objects["volumes"]["pvc-1"])


def fail_over(driver: Driver, node: str) -> None:
    move(driver, epoch=record(driver)["epoch"] + 1, primary=node, inSync=[node])


async def start_waiting(driver: Driver, node: str = "node-b") -> asyncio.Task[Any]:
    """A publish to ``node`` that has written its wish and waits, because the operator holds."""
    driver.operator.hold_switch = True
    waiting = asyncio.ensure_future(code_of(publish(driver, node)))
    while published(driver) != [node]:
        await asyncio.sleep(0.01)
    return waiting


async def test_where_the_primary_is_already_nothing_is_waited_for(driver: Driver) -> None:
    driver.operator.hold = True
    for _ in range(2):
        await publish(driver, "node-a")
    assert published(driver) == ["node-a"]
    assert record(driver)["epoch"] == 1


async def test_the_primary_of_an_idle_volume_follows_its_pod(driver: Driver) -> None:
    await publish(driver, "node-b")
    assert (record(driver)["primary"], record(driver)["epoch"]) == ("node-b", 2)
    await unpublish(driver, "node-b")
    await publish(driver, "node-a")
    assert (record(driver)["primary"], record(driver)["epoch"]) == ("node-a", 3)
    assert record(driver)["inSync"] == ["node-a", "node-b"]


async def test_it_is_answered_only_when_the_record_names_the_node(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    move(driver, inSync=["node-a", "node-b"])
    report(driver, usedBytes=4096)
    assert not waiting.done()
    driver.operator.release()
    assert (await waiting)[0] is Code.OK
    assert record(driver)["primary"] == "node-b"


async def test_a_deadline_says_who_has_not_let_go_and_a_retry_goes_on(driver: Driver) -> None:
    driver.operator.hold_switch = True
    code, message = await code_of(publish(driver, "node-b", timeout=1.0))
    assert code is Code.DEADLINE_EXCEEDED
    assert "node-a is still primary: its pod has not let the volume go" in message
    assert published(driver) == ["node-b"]
    driver.operator.release()
    assert (await code_of(publish(driver, "node-b")))[0] is Code.OK


async def test_a_deadline_tells_what_the_operator_says_of_a_degraded_volume(
    driver: Driver,
) -> None:
    waiting = asyncio.ensure_future(code_of(publish(driver, "node-b", timeout=1.0)))
    driver.operator.hold_switch = True
    report(driver, conditions=[condition("Degraded", "True", "NodeLost", "node-a is silent")])
    code, message = await waiting
    assert code is Code.DEADLINE_EXCEEDED
    assert f"degraded since {TAKEN}; node-a is silent" in message


async def test_a_node_that_is_not_in_sync_is_refused_at_once_with_the_reason(
    driver: Driver,
) -> None:
    degraded = condition("Degraded", "True", "Resyncing", "resync of node-b: 43 %")
    report(driver, conditions=[degraded])
    move(driver, inSync=["node-a"])
    code, message = await code_of(publish(driver, "node-b"))
    assert code is Code.FAILED_PRECONDITION
    assert f"node-b is not in sync since {TAKEN}: only node-a holds every write" in message
    assert "43 %" in message
    assert published(driver) == []
    await publish(driver, "node-a")


async def test_a_primary_that_lost_its_own_disk_takes_no_new_pod(driver: Driver) -> None:
    move(driver, inSync=["node-b"])
    code, message = await code_of(publish(driver, "node-a"))
    assert code is Code.FAILED_PRECONDITION
    assert "only node-b holds every write" in message
    await publish(driver, "node-b")


async def test_a_pod_that_runs_on_is_confirmed_although_its_own_disk_is_gone(
    driver: Driver,
) -> None:
    await publish(driver, "node-a")
    move(driver, inSync=["node-b"])
    await publish(driver, "node-a")


async def test_a_volume_without_a_pair_is_never_waited_for(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("single"), timeout=20)
    driver.operator.hold = True
    status = {"replication": {"primary": "node-elsewhere"}}
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "single", status))
    request = csi_pb2.ControllerPublishVolumeRequest(
        volume_id="single", node_id="node-a", volume_capability=capability()
    )
    await driver.controller.ControllerPublishVolume(request, timeout=20)


# -- failover ------------------------------------------------------------------------------------


async def test_after_a_failover_the_volume_is_free_once_the_lost_node_is_unpublished(
    driver: Driver,
) -> None:
    await publish(driver, "node-a")
    code, message = await code_of(publish(driver, "node-b"))
    assert (code, "one node at a time" in message) == (Code.FAILED_PRECONDITION, True)
    driver.operator.hold = True
    fail_over(driver, "node-b")
    code, message = await code_of(publish(driver, "node-b"))
    assert code is Code.FAILED_PRECONDITION
    assert "free when the VolumeAttachment of node-a is gone" in message
    await unpublish(driver, "node-a")
    await publish(driver, "node-b")
    assert published(driver) == ["node-b"]


async def test_a_dead_node_is_unpublished_without_being_asked(driver: Driver) -> None:
    await publish(driver, "node-a")
    fail_over(driver, "node-b")
    driver.operator.hold = True
    asked = len(driver.agent.requests)
    del driver.objects.nodes.store["node-a"]
    await unpublish(driver, "node-a")
    assert published(driver) == []
    assert len(driver.agent.requests) == asked


async def test_a_late_unpublish_of_the_lost_node_takes_nothing_from_the_new_one(
    driver: Driver,
) -> None:
    await publish(driver, "node-a")
    fail_over(driver, "node-b")
    await unpublish(driver, "node-a")
    await publish(driver, "node-b")
    await unpublish(driver, "node-a")
    assert published(driver) == ["node-b"]


async def test_the_old_primary_is_refused_until_it_has_caught_up(driver: Driver) -> None:
    fail_over(driver, "node-b")
    assert (await code_of(publish(driver, "node-a")))[0] is Code.FAILED_PRECONDITION
    move(driver, inSync=["node-a", "node-b"])
    await publish(driver, "node-a")
    assert record(driver)["primary"] == "node-a"


# -- races with a call that waits ----------------------------------------------------------------


async def test_a_failover_to_the_wanted_node_ends_the_wait(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    fail_over(driver, "node-b")
    assert (await waiting)[0] is Code.OK


async def test_a_wait_ends_when_the_wanted_node_falls_out_of_sync(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    move(driver, inSync=["node-a"])
    code, message = await waiting
    assert code is Code.FAILED_PRECONDITION
    assert "node-b is not in sync" in message
    # The wish stands until the caller takes it back, so the primary follows when it can.
    driver.operator.release()
    move(driver, inSync=["node-a", "node-b"])
    assert (await code_of(publish(driver, "node-b")))[0] is Code.OK


async def test_an_unpublish_is_not_held_up_by_a_wait_and_ends_it(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    await unpublish(driver, "node-b")
    code, message = await waiting
    assert code is Code.ABORTED
    assert "unpublished" in message
    assert published(driver) == []
    assert record(driver)["primary"] == "node-a"


async def test_a_move_of_the_pod_while_a_call_waits_leaves_one_node(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    await unpublish(driver, "node-b")
    await publish(driver, "node-a")
    assert (await waiting)[0] is Code.ABORTED
    assert published(driver) == ["node-a"]


async def test_two_calls_for_one_node_both_end_well(driver: Driver) -> None:
    first = await start_waiting(driver)
    second = asyncio.ensure_future(code_of(publish(driver, "node-b")))
    await asyncio.sleep(0.05)
    driver.operator.release()
    assert {(await one)[0] for one in (first, second)} == {Code.OK}


async def test_a_volume_that_goes_while_it_is_waited_for_is_unavailable_then_not_found(
    driver: Driver,
) -> None:
    waiting = await start_waiting(driver)
    driver.operator.hold = True
    await driver.api.delete(VOLUMES, "pvc-1")
    driver.api.remove_finalizers(VOLUMES, "pvc-1")
    assert (await waiting)[0] is Code.UNAVAILABLE
    assert (await code_of(publish(driver, "node-b")))[0] is Code.NOT_FOUND


async def test_an_in_sync_lost_between_the_look_and_the_write_is_noticed(driver: Driver) -> None:
    """1. node-b is in sync. 2. The record drops it. 3. The publish writes over what it saw."""
    patch = driver.api.patch

    async def dropped_just_before(*args: Any, **more: Any) -> Json:
        driver.api.patch = patch  # type: ignore[method-assign]
        move(driver, inSync=["node-a"])
        return await patch(*args, **more)

    driver.api.patch = dropped_just_before  # type: ignore[method-assign]
    assert (await code_of(publish(driver, "node-b")))[0] is Code.FAILED_PRECONDITION
    assert published(driver) == []


async def test_a_record_that_is_written_all_the_time_does_not_keep_a_pod_from_its_volume(
    driver: Driver,
) -> None:
    driver.api.lose_swaps = 5
    await publish(driver, "node-b")
    assert record(driver)["primary"] == "node-b"


async def test_a_caller_that_gives_up_leaves_the_wish_and_no_lock(driver: Driver) -> None:
    driver.operator.hold_switch = True
    call = publish(driver, "node-b")
    giving_up = asyncio.ensure_future(call)
    while published(driver) != ["node-b"]:
        await asyncio.sleep(0.01)
    giving_up.cancel()
    await asyncio.gather(giving_up, return_exceptions=True)
    await unpublish(driver, "node-b")
    await publish(driver, "node-a")


async def test_a_volume_grows_and_is_cloned_while_a_publish_waits(driver: Driver) -> None:
    waiting = await start_waiting(driver)
    size = csi_pb2.CapacityRange(required_bytes=2 * 1024**3)
    grow = csi_pb2.ControllerExpandVolumeRequest(volume_id="pvc-1", capacity_range=size)
    answer = await driver.controller.ControllerExpandVolume(grow, timeout=20)
    assert answer.capacity_bytes == 2 * 1024**3
    clone = create_request("pvc-2", 0, volume_content_source=from_volume("pvc-1"))
    await driver.controller.CreateVolume(clone, timeout=20)
    driver.operator.release()
    assert (await waiting)[0] is Code.OK
