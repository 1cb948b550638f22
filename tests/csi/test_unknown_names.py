"""Creating what the local copy does not know: one write, and a look where the copy lags."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.requests import GIB, capability, code_of, create_request, from_volume, on_nodes
from twinvault_core.errors import AlreadyExistsError
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import SNAPSHOTS, VOLUMES, Kind

Code = grpc.StatusCode
Json = dict[str, Any]


def create(driver: Driver, name: str, **more: Any) -> Any:
    return driver.controller.CreateVolume(create_request(name, **more), timeout=20)


def take(driver: Driver, name: str, volume_id: str = "pvc-1") -> Any:
    request = csi_pb2.CreateSnapshotRequest(name=name, source_volume_id=volume_id)
    return driver.controller.CreateSnapshot(request, timeout=20)


@pytest.fixture
def reads(driver: Driver) -> list[str]:
    """The names that the API server is asked for."""
    asked: list[str] = []
    get = driver.api.get

    async def watched(kind: Kind, name: str, namespace: str | None = None) -> Json:
        asked.append(name)
        return await get(kind, name, namespace)

    driver.api.get = watched  # type: ignore[method-assign]
    return asked


def forget(driver: Driver) -> None:
    """As if the watch lagged behind everything."""
    driver.objects.volumes.store.clear()
    driver.objects.snapshots.store.clear()


async def test_nobody_asks_for_a_new_name_before_it_is_made(
    driver: Driver, reads: list[str]
) -> None:
    await create(driver, "pvc-1")
    await take(driver, "snap-1")
    assert reads == []


async def test_a_retry_that_is_known_asks_nobody(driver: Driver, reads: list[str]) -> None:
    for _ in range(2):
        await create(driver, "pvc-1")
        await take(driver, "snap-1")
    assert reads == []


@pytest.mark.parametrize(
    "more",
    [
        {"required_bytes": 2 * GIB},
        {"volume_capabilities": [capability(block=True)]},
        {"accessibility_requirements": on_nodes("node-b")},
    ],
    ids=["size", "mode", "node"],
)
async def test_another_volume_of_an_unknown_name_already_exists(
    driver: Driver, more: dict[str, Any]
) -> None:
    await create(driver, "pvc-1")
    forget(driver)
    assert (await code_of(create(driver, "pvc-1", **more)))[0] is Code.ALREADY_EXISTS


async def test_a_retry_succeeds_although_its_source_and_all_knowledge_are_gone(
    driver: Driver,
) -> None:
    await create(driver, "pvc-1")
    copy = {"volume_content_source": from_volume("pvc-1")}
    first = await create(driver, "pvc-2", **copy)
    snapshot = await take(driver, "snap-1")
    request = csi_pb2.DeleteVolumeRequest(volume_id="pvc-1")
    await driver.controller.DeleteVolume(request, timeout=20)
    forget(driver)
    assert await create(driver, "pvc-2", **copy) == first
    assert await take(driver, "snap-1") == snapshot


async def test_a_source_that_is_gone_and_a_name_that_is_new_is_not_found(driver: Driver) -> None:
    call = create(driver, "pvc-2", volume_content_source=from_volume("pvc-1"))
    assert (await code_of(call))[0] is Code.NOT_FOUND
    assert (await code_of(take(driver, "snap-1")))[0] is Code.NOT_FOUND


async def test_an_unknown_pool_of_a_name_that_is_taken_is_another_volume(driver: Driver) -> None:
    await create(driver, "pvc-1")
    forget(driver)
    code, _ = await code_of(create(driver, "pvc-1", parameters={"pool": "gone"}))
    assert code is Code.ALREADY_EXISTS


async def test_an_unknown_name_that_is_being_deleted_is_told_to_come_again(
    driver: Driver,
) -> None:
    await create(driver, "pvc-1")
    await take(driver, "snap-1")
    driver.operator.hold = True
    await driver.api.delete(SNAPSHOTS, "snap-1")
    await driver.api.delete(VOLUMES, "pvc-1")
    forget(driver)
    for call in (create(driver, "pvc-1"), take(driver, "snap-1")):
        code, message = await code_of(call)
        assert code is Code.ABORTED
        assert "being deleted" in message


async def test_a_name_that_was_taken_and_is_free_a_moment_later_is_told_to_come_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(driver, "pvc-1")

    async def taken(kind: Kind, obj: Json, namespace: str | None = None) -> Json:
        raise AlreadyExistsError("it was there when you asked")

    monkeypatch.setattr(driver.api, "create", taken)
    assert (await code_of(create(driver, "pvc-2")))[0] is Code.ABORTED
    assert (await code_of(take(driver, "snap-1")))[0] is Code.ABORTED
