from __future__ import annotations

import asyncio
import copy
from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import GIB
from tests.csi.requests import Mode, capability, code_of, create_request
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import STORAGE_NODES

Code = grpc.StatusCode
DEFAULT: Any = object()


def publish(
    driver: Driver,
    node: str = "node-a",
    *,
    volume_id: str = "pvc-1",
    readonly: bool = False,
    with_capability: Any = DEFAULT,
) -> Any:
    request = csi_pb2.ControllerPublishVolumeRequest(
        volume_id=volume_id,
        node_id=node,
        readonly=readonly,
        volume_capability=capability() if with_capability is DEFAULT else with_capability,
    )
    return driver.controller.ControllerPublishVolume(request, timeout=20)


def unpublish(driver: Driver, node: str = "node-a", volume_id: str = "pvc-1") -> Any:
    request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=node)
    return driver.controller.ControllerUnpublishVolume(request, timeout=20)


@pytest.fixture
async def volume(driver: Driver) -> dict[str, Any]:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    return driver.api.objects["volumes"]


async def test_publishing_names_the_node_and_may_be_repeated(
    driver: Driver, volume: dict[str, Any]
) -> None:
    for _ in range(2):
        assert dict((await publish(driver)).publish_context) == {}
        assert volume["pvc-1"]["spec"]["publishedTo"] == ["node-a"]
    for _ in range(2):
        await unpublish(driver)
        assert "publishedTo" not in volume["pvc-1"]["spec"]


async def test_a_swap_lost_to_the_operator_is_tried_again(
    driver: Driver, volume: dict[str, Any]
) -> None:
    driver.api.lose_swaps = 3
    await publish(driver)
    assert volume["pvc-1"]["spec"]["publishedTo"] == ["node-a"]
    driver.api.lose_swaps = 3
    await unpublish(driver)
    assert "publishedTo" not in volume["pvc-1"]["spec"]


async def test_two_nodes_never_both_get_the_volume(driver: Driver, volume: dict[str, Any]) -> None:
    await publish(driver)
    code, message = await code_of(publish(driver, "node-b"))
    assert code is Code.FAILED_PRECONDITION
    assert "node-a" in message
    await unpublish(driver, "node-b")
    assert volume["pvc-1"]["spec"]["publishedTo"] == ["node-a"]


async def test_a_node_without_a_replica_is_refused(driver: Driver, volume: dict[str, Any]) -> None:
    code, message = await code_of(publish(driver, "node-b"))
    assert code is Code.FAILED_PRECONDITION
    assert "replica" in message


async def test_read_only_is_remembered_and_told_to_the_node(
    driver: Driver, volume: dict[str, Any]
) -> None:
    answer = await publish(driver, readonly=True)
    assert dict(answer.publish_context) == {"readOnly": "true"}
    assert (await code_of(publish(driver)))[0] is Code.ALREADY_EXISTS
    await publish(driver, with_capability=capability(Mode.SINGLE_NODE_READER_ONLY))
    await unpublish(driver)
    await publish(driver)
    assert (await code_of(publish(driver, readonly=True)))[0] is Code.ALREADY_EXISTS


async def test_a_full_node_takes_no_more(driver: Driver, volume: dict[str, Any]) -> None:
    node = driver.api.objects["storagenodes"]["node-a"]
    node["status"]["maxVolumes"] = 1
    driver.objects.nodes.saw(driver.api.put(STORAGE_NODES, node))
    await publish(driver)
    await driver.controller.CreateVolume(create_request("pvc-2", GIB), timeout=20)
    code, _ = await code_of(publish(driver, volume_id="pvc-2"))
    assert code is Code.RESOURCE_EXHAUSTED
    await publish(driver)


BAD: dict[str, tuple[dict[str, Any], Code]] = {
    "no volume id": ({"volume_id": ""}, Code.INVALID_ARGUMENT),
    "no node id": ({"node": ""}, Code.INVALID_ARGUMENT),
    "no capability": ({"with_capability": None}, Code.INVALID_ARGUMENT),
    "block on filesystem": ({"with_capability": capability(block=True)}, Code.INVALID_ARGUMENT),
    "missing volume": ({"volume_id": "missing"}, Code.NOT_FOUND),
    "path as volume": ({"volume_id": "../pvc-1"}, Code.NOT_FOUND),
    "unknown node": ({"node": "node-z"}, Code.NOT_FOUND),
}


@pytest.mark.parametrize(("more", "expected"), BAD.values(), ids=BAD.keys())
async def test_bad_input_publishes_nothing(
    driver: Driver, volume: dict[str, Any], more: dict[str, Any], expected: Code
) -> None:
    code, message = await code_of(publish(driver, **more))
    assert code is expected, message
    assert "publishedTo" not in volume["pvc-1"]["spec"]


async def test_unpublishing_what_is_gone_is_done_already(driver: Driver) -> None:
    await unpublish(driver, volume_id="missing")
    await unpublish(driver, volume_id="../..")
    assert (await code_of(unpublish(driver, volume_id="")))[0] is Code.INVALID_ARGUMENT


async def test_without_a_node_it_is_unpublished_from_wherever_it_is(
    driver: Driver, volume: dict[str, Any]
) -> None:
    await publish(driver)
    await unpublish(driver, "")
    assert "publishedTo" not in volume["pvc-1"]["spec"]


async def test_many_at_once_for_one_volume_end_with_one_node(
    driver: Driver, volume: dict[str, Any]
) -> None:
    calls = [code_of(publish(driver, node)) for node in ("node-a", "node-b", "node-a")]
    codes = {code for code, _ in await asyncio.gather(*calls)}
    assert codes <= {Code.OK, Code.ABORTED, Code.FAILED_PRECONDITION}
    assert volume["pvc-1"]["spec"].get("publishedTo") in (None, ["node-a"])


async def test_an_old_copy_of_the_volume_is_not_believed(
    driver: Driver, volume: dict[str, Any]
) -> None:
    await publish(driver)
    old = copy.deepcopy(driver.objects.volumes.store["pvc-1"])
    await unpublish(driver)
    driver.objects.volumes.store["pvc-1"] = old
    await publish(driver)
    assert volume["pvc-1"]["spec"]["publishedTo"] == ["node-a"]
    old["spec"].pop("publishedTo")
    driver.objects.volumes.store["pvc-1"] = old
    await unpublish(driver)
    assert "publishedTo" not in volume["pvc-1"]["spec"]
