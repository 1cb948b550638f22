from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import condition
from tests.csi.requests import code_of, create_request
from twinvault_csi import volumes
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import VOLUMES

Code = grpc.StatusCode


def delete(driver: Driver, volume_id: str, timeout: float = 20.0) -> asyncio.Future[object]:
    request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
    return asyncio.ensure_future(driver.controller.DeleteVolume(request, timeout=timeout))


async def test_deletion_returns_when_the_object_is_gone_and_may_be_repeated(
    driver: Driver,
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    await delete(driver, "pvc-1")
    assert driver.api.objects["volumes"] == {}
    await delete(driver, "pvc-1")


@pytest.mark.parametrize("volume_id", ["missing", "../..", "/etc", "A", "x" * 200, "reallyfake id"])
async def test_a_volume_that_never_was_is_deleted_already(driver: Driver, volume_id: str) -> None:
    assert (await code_of(delete(driver, volume_id)))[0] is Code.OK


async def test_no_id_is_invalid(driver: Driver) -> None:
    assert (await code_of(delete(driver, "")))[0] is Code.INVALID_ARGUMENT


async def test_a_published_volume_is_not_even_asked_to_go(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    await driver.api.patch(VOLUMES, "pvc-1", {"spec": {"publishedTo": ["node-a"]}})
    driver.objects.volumes.saw(driver.api.objects["volumes"]["pvc-1"])
    code, message = await code_of(delete(driver, "pvc-1"))
    assert code is Code.FAILED_PRECONDITION
    assert "node-a" in message
    assert "deletionTimestamp" not in driver.api.objects["volumes"]["pvc-1"]["metadata"]


async def test_a_staged_volume_is_left_alone_with_the_operators_words(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "IN_USE_GRACE_SECONDS", 0.05)
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    used = condition("InUse", "True", "Staged", "node-a has it mounted")
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [used]}))
    code, message = await code_of(delete(driver, "pvc-1"))
    assert (code, message) == (Code.FAILED_PRECONDITION, "node-a has it mounted")
    assert "deletionTimestamp" not in driver.api.objects["volumes"]["pvc-1"]["metadata"]


async def test_the_report_of_an_unstage_may_be_late(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    used = condition("InUse", "True", "Staged", "node-a has it mounted")
    driver.objects.volumes.saw(driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [used]}))
    deleting = delete(driver, "pvc-1")
    await asyncio.sleep(0.05)
    free = condition("InUse", "False", "NotInUse", "")
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [free]})
    await deleting
    assert driver.api.objects["volumes"] == {}


async def unpublish_unseen(driver: Driver) -> None:
    """A volume that the operator called free before it was published, staged and unpublished."""
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    free = condition("InUse", "False", "NotInUse", "")
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [free]})
    for nodes in (["node-a"], None):
        obj = await driver.api.patch(VOLUMES, "pvc-1", {"spec": {"publishedTo": nodes}})
        driver.objects.volumes.saw(obj)


async def test_a_word_from_before_the_volume_was_published_is_not_believed(driver: Driver) -> None:
    await unpublish_unseen(driver)
    deleting = delete(driver, "pvc-1")
    await asyncio.sleep(0.05)
    staged = condition("InUse", "True", "Staged", "node-a has it mounted", generation=3)
    obj = driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [staged]})
    assert "deletionTimestamp" not in obj["metadata"]
    free = condition("InUse", "False", "NotInUse", "", generation=3)
    driver.api.set_status(VOLUMES, "pvc-1", {"conditions": [free]})
    await deleting
    assert driver.api.objects["volumes"] == {}


async def test_an_operator_that_says_nothing_does_not_keep_a_volume_from_being_deleted(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "IN_USE_GRACE_SECONDS", 0.05)
    await unpublish_unseen(driver)
    await delete(driver, "pvc-1")
    assert driver.api.objects["volumes"] == {}


async def test_deletion_is_waited_for_until_the_deadline(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    driver.operator.hold = True
    code, message = await code_of(delete(driver, "pvc-1", timeout=1.0))
    assert code is Code.DEADLINE_EXCEEDED
    assert "erased" in message
    driver.operator.release()
    await delete(driver, "pvc-1")


async def test_a_create_during_deletion_is_told_to_come_again(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    driver.operator.hold = True
    await code_of(delete(driver, "pvc-1", timeout=0.5))
    code = Code.ABORTED
    message = "in flight"
    while "in flight" in message:
        code, message = await code_of(
            driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
        )
    assert code is Code.ABORTED
    assert "being deleted" in message
