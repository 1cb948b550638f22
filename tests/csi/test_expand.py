from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import condition
from tests.csi.requests import GIB, capability, code_of, create_request
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import STORAGE_CLUSTERS, VOLUMES

Code = grpc.StatusCode


def expand(
    driver: Driver,
    required_bytes: int,
    limit_bytes: int = 0,
    volume_id: str = "pvc-1",
    timeout: float = 20,
) -> Any:
    size = csi_pb2.CapacityRange(required_bytes=required_bytes, limit_bytes=limit_bytes)
    request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=size)
    return driver.controller.ControllerExpandVolume(request, timeout=timeout)


@pytest.mark.parametrize("block", [False, True])
async def test_a_volume_grows_and_the_node_is_to_follow(driver: Driver, block: bool) -> None:
    request = create_request("pvc-1", volume_capabilities=[capability(block=block)])
    await driver.controller.CreateVolume(request, timeout=20)
    for _ in range(2):
        answer = await expand(driver, 2 * GIB)
        assert answer.capacity_bytes == 2 * GIB
        assert answer.node_expansion_required


async def test_what_is_large_enough_already_stays_as_it_is(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1", 2 * GIB), timeout=20)
    answer = await expand(driver, GIB)
    assert answer.capacity_bytes == 2 * GIB


async def test_no_room_is_told_before_the_spec_grows(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    code, message = await code_of(expand(driver, 500 * GIB))
    assert code is Code.OUT_OF_RANGE
    assert "100Gi" in message
    assert driver.api.objects["volumes"]["pvc-1"]["spec"]["sizeBytes"] == GIB
    await expand(driver, 2 * GIB)


async def test_the_operators_no_ends_the_wait(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    no = condition("Progressing", "False", "NoCapacity", "pool fast is full", generation=2)
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [no]})
    driver.operator.hold = True
    assert await code_of(expand(driver, 2 * GIB)) == (Code.OUT_OF_RANGE, "pool fast is full")


async def test_a_growth_without_room_is_taken_back_so_that_a_smaller_one_can_be(
    driver: Driver,
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    no = condition("Progressing", "False", "NoCapacity", "pool fast is full", generation=2)
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [no]})
    driver.operator.hold = True
    assert (await code_of(expand(driver, 4 * GIB)))[0] is Code.OUT_OF_RANGE
    assert driver.api.objects["volumes"]["pvc-1"]["spec"]["sizeBytes"] == GIB
    driver.operator.release()
    assert (await expand(driver, 2 * GIB)).capacity_bytes == 2 * GIB


async def test_an_old_no_is_not_taken_for_the_answer_to_a_new_size(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    old = condition("Progressing", "False", "NoCapacity", "pool fast is full", generation=1)
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [old]})
    await expand(driver, 2 * GIB)


BAD: dict[str, tuple[tuple[int, int, str], Code]] = {
    "no id": ((GIB, 0, ""), Code.INVALID_ARGUMENT),
    "no size": ((0, 0, "pvc-1"), Code.INVALID_ARGUMENT),
    "negative": ((-1, 0, "pvc-1"), Code.INVALID_ARGUMENT),
    "limit below required": ((2 * GIB, GIB, "pvc-1"), Code.INVALID_ARGUMENT),
    "shrink": ((GIB // 4, GIB // 2, "pvc-1"), Code.OUT_OF_RANGE),
    "absurd": ((2**62, 0, "pvc-1"), Code.OUT_OF_RANGE),
    "missing": ((GIB, 0, "missing"), Code.NOT_FOUND),
    "path": ((GIB, 0, "../pvc-1"), Code.NOT_FOUND),
}


@pytest.mark.parametrize(("arguments", "expected"), BAD.values(), ids=BAD.keys())
async def test_bad_sizes_change_nothing(
    driver: Driver, arguments: tuple[int, int, str], expected: Code
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    code, message = await code_of(expand(driver, *arguments))
    assert code is expected, message
    assert driver.api.objects["volumes"]["pvc-1"]["spec"]["sizeBytes"] == GIB


async def test_a_retried_create_meets_a_volume_that_grows(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    driver.operator.hold = True
    assert (await code_of(expand(driver, 2 * GIB, timeout=0.5)))[0] is Code.DEADLINE_EXCEEDED
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", {"phase": "Expanding"}))
    code = Code.ABORTED
    while code is Code.ABORTED:
        code, _ = await code_of(driver.controller.CreateVolume(create_request("pvc-1"), timeout=20))
    assert code is Code.OK


async def test_a_node_that_is_silent_makes_growth_unavailable_not_impossible(
    driver: Driver,
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    cluster = driver.api.objects["storageclusters"]["east"]
    cluster["status"]["nodes"][0]["ready"] = False
    cluster["status"]["nodes"][0]["pools"][0]["availableBytes"] = 0
    driver.objects.clusters.saw(driver.api.put(STORAGE_CLUSTERS, cluster))
    assert (await code_of(expand(driver, 2 * GIB)))[0] is Code.UNAVAILABLE
