from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import TAKEN, condition
from tests.csi.requests import GIB, code_of, create_request, from_snapshot
from twinvault_core.ids import is_valid_id
from twinvault_core.names import FINALIZER_SNAPSHOT
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import SNAPSHOTS

Code = grpc.StatusCode


def take(
    driver: Driver,
    name: str = "snap-1",
    volume_id: str = "pvc-1",
    timeout: float = 20,
    parameters: dict[str, str] | None = None,
) -> Any:
    request = csi_pb2.CreateSnapshotRequest(
        name=name, source_volume_id=volume_id, parameters=parameters
    )
    return driver.controller.CreateSnapshot(request, timeout=timeout)


def delete(driver: Driver, snapshot_id: str) -> Any:
    request = csi_pb2.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    return driver.controller.DeleteSnapshot(request, timeout=20)


@pytest.fixture
async def volume(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)


async def test_a_snapshot_is_answered_when_it_can_be_restored(driver: Driver, volume: None) -> None:
    first = await take(driver)
    again = await take(driver)
    assert first == again
    assert first.snapshot.ready_to_use
    assert first.snapshot.size_bytes == GIB
    assert first.snapshot.creation_time.ToJsonString() == TAKEN
    meta = driver.api.objects["snapshots"]["snap-1"]["metadata"]
    assert meta["finalizers"] == [FINALIZER_SNAPSHOT]
    request = create_request("pvc-2", volume_content_source=from_snapshot("snap-1"))
    answer = await driver.controller.CreateVolume(request, timeout=20)
    assert answer.volume.content_source.snapshot.snapshot_id == "snap-1"


async def test_the_same_name_of_another_volume_already_exists(driver: Driver, volume: None) -> None:
    await driver.controller.CreateVolume(create_request("pvc-2"), timeout=20)
    await take(driver)
    code, message = await code_of(take(driver, volume_id="pvc-2"))
    assert code is Code.ALREADY_EXISTS
    assert "pvc-1" in message


async def test_a_retry_succeeds_although_its_volume_is_gone_by_then(
    driver: Driver, volume: None
) -> None:
    first = await take(driver)
    request = csi_pb2.DeleteVolumeRequest(volume_id="pvc-1")
    await driver.controller.DeleteVolume(request, timeout=20)
    assert await take(driver) == first


async def test_metadata_of_the_snapshotter_is_accepted_and_anything_else_named(
    driver: Driver, volume: None
) -> None:
    known = {"csi.storage.k8s.io/volumesnapshot/name": "before-upgrade"}
    await take(driver, parameters=known)
    code, message = await code_of(take(driver, "snap-2", parameters={"deduplicate": "yes"}))
    assert code is Code.INVALID_ARGUMENT
    assert "'deduplicate'" in message


async def test_a_snapshot_of_what_is_not_there_is_not_found(driver: Driver) -> None:
    for volume_id in ("missing", "../..", "A"):
        assert (await code_of(take(driver, volume_id=volume_id)))[0] is Code.NOT_FOUND
    assert driver.api.objects.get("snapshots", {}) == {}


async def test_name_and_volume_are_required(driver: Driver) -> None:
    assert (await code_of(take(driver, "")))[0] is Code.INVALID_ARGUMENT
    assert (await code_of(take(driver, "x", "")))[0] is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "x" * 128, "Snap Shot"])
async def test_any_name_becomes_a_harmless_id(driver: Driver, volume: None, name: str) -> None:
    answer = await take(driver, name)
    assert is_valid_id(answer.snapshot.snapshot_id)


async def test_a_holder_without_room_exhausts(driver: Driver, volume: None) -> None:
    driver.operator.hold = True
    assert (await code_of(take(driver, timeout=0.5)))[0] is Code.DEADLINE_EXCEEDED
    full = condition("Ready", "False", "NoCapacity", "pool fast is full")
    driver.api.set_status(SNAPSHOTS, "snap-1", {"conditions": [full]})
    code, message = Code.ABORTED, ""
    while code is Code.ABORTED:
        code, message = await code_of(take(driver))
    assert (code, message) == (Code.RESOURCE_EXHAUSTED, "pool fast is full")


async def test_a_snapshot_not_taken_yet_is_not_listed_and_not_restored(
    driver: Driver, volume: None
) -> None:
    driver.operator.hold = True
    await code_of(take(driver, timeout=0.5))
    listed = await driver.controller.ListSnapshots(csi_pb2.ListSnapshotsRequest(), timeout=20)
    assert not listed.entries
    request = create_request("pvc-2", volume_content_source=from_snapshot("snap-1"))
    code, _ = await code_of(driver.controller.CreateVolume(request, timeout=20))
    assert code is Code.UNAVAILABLE


async def test_deletion_may_be_repeated_and_needs_an_id(driver: Driver, volume: None) -> None:
    await take(driver)
    for snapshot_id in ("snap-1", "snap-1", "never was", "../.."):
        await delete(driver, snapshot_id)
    assert driver.api.objects["snapshots"] == {}
    assert (await code_of(delete(driver, "")))[0] is Code.INVALID_ARGUMENT


async def test_lists_are_filtered_by_snapshot_and_by_volume(driver: Driver, volume: None) -> None:
    await driver.controller.CreateVolume(create_request("pvc-2"), timeout=20)
    await take(driver, "snap-1", "pvc-1")
    await take(driver, "snap-2", "pvc-2")

    async def listed(**filters: Any) -> list[str]:
        request = csi_pb2.ListSnapshotsRequest(**filters)
        answer = await driver.controller.ListSnapshots(request, timeout=20)
        return [entry.snapshot.snapshot_id for entry in answer.entries]

    assert await listed() == ["snap-1", "snap-2"]
    assert await listed(snapshot_id="snap-2") == ["snap-2"]
    assert await listed(source_volume_id="pvc-1") == ["snap-1"]
    assert await listed(source_volume_id="pvc-1", snapshot_id="snap-2") == []
    assert await listed(snapshot_id="never") == []


async def test_one_snapshot_is_got_by_its_id(driver: Driver, volume: None) -> None:
    await take(driver)
    request = csi_pb2.GetSnapshotRequest(snapshot_id="snap-1")
    answer = await driver.controller.GetSnapshot(request, timeout=20)
    assert answer.snapshot.source_volume_id == "pvc-1"
    for missing in ("snap-2", "../x"):
        request = csi_pb2.GetSnapshotRequest(snapshot_id=missing)
        code, _ = await code_of(driver.controller.GetSnapshot(request, timeout=20))
        assert code is Code.NOT_FOUND
