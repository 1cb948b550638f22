from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.requests import GIB, Mode, capability, code_of
from twinvault_core.agent_api import Expand, Publish, Stage, Stats, Unpublish, Unstage
from twinvault_core.errors import ErrorCode, TwinvaultError
from twinvault_csi.pb import csi_pb2
from twinvault_csi.status import CODES

Code = grpc.StatusCode


def stage(**more: Any) -> csi_pb2.NodeStageVolumeRequest:
    more.setdefault("volume_id", "pvc-1")
    more.setdefault("staging_target_path", "/kubelet/staging")
    more.setdefault("volume_capability", capability())
    return csi_pb2.NodeStageVolumeRequest(**more)


def publish(**more: Any) -> csi_pb2.NodePublishVolumeRequest:
    more.setdefault("volume_id", "pvc-1")
    more.setdefault("staging_target_path", "/kubelet/staging")
    more.setdefault("target_path", "/kubelet/target")
    more.setdefault("volume_capability", capability())
    return csi_pb2.NodePublishVolumeRequest(**more)


async def test_the_node_is_told_with_its_topology_and_its_limit(driver: Driver) -> None:
    info = await driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=20)
    assert info.node_id == "node-a"
    assert info.max_volumes_per_node == 16
    assert dict(info.accessible_topology.segments) == {"topology.csi.twinvault.io/node": "node-a"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"node": "node-a", "maxVolumes": 0, "ready": False}, Code.UNAVAILABLE),
        ({"node": "node-b", "maxVolumes": 16, "ready": True}, Code.INTERNAL),
        (TwinvaultError("no answer", ErrorCode.UNAVAILABLE), Code.UNAVAILABLE),
    ],
)
async def test_a_node_whose_agent_is_not_ready_is_not_told(
    driver: Driver, answer: Any, expected: Code
) -> None:
    driver.agent.answers["node_info"] = answer
    call = driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=20)
    assert (await code_of(call))[0] is expected


async def test_staging_asks_the_agent_for_what_the_call_says(driver: Driver) -> None:
    wanted = capability(fs_type="xfs", mount_flags=("noatime", "nouuid"))
    await driver.node.NodeStageVolume(stage(volume_capability=wanted), timeout=20)
    await driver.node.NodeStageVolume(stage(volume_context={"fsType": "ext4"}), timeout=20)
    block = stage(volume_capability=capability(block=True), volume_context={"fsType": "ext4"})
    await driver.node.NodeStageVolume(block, timeout=20)
    path = "/kubelet/staging"
    assert driver.agent.requests == [
        Stage("pvc-1", path, "Filesystem", "xfs", ("noatime", "nouuid")),
        Stage("pvc-1", path, "Filesystem", "ext4"),
        Stage("pvc-1", path, "Block"),
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"publish_context": {"readOnly": "true"}},
        {"volume_capability": capability(Mode.SINGLE_NODE_READER_ONLY)},
    ],
)
async def test_what_was_published_read_only_is_staged_read_only(
    driver: Driver, more: dict[str, Any]
) -> None:
    await driver.node.NodeStageVolume(stage(**more), timeout=20)
    await driver.node.NodePublishVolume(publish(**more), timeout=20)
    assert [request.read_only for request in driver.agent.requests] == [True, True]  # type: ignore[union-attr]


async def test_publishing_says_whether_it_is_read_only_and_the_only_writer(driver: Driver) -> None:
    single = capability(Mode.SINGLE_NODE_SINGLE_WRITER)
    await driver.node.NodePublishVolume(publish(volume_capability=single), timeout=20)
    await driver.node.NodePublishVolume(publish(readonly=True), timeout=20)
    one = Publish("pvc-1", "/kubelet/staging", "/kubelet/target", "Filesystem", single_writer=True)
    two = Publish("pvc-1", "/kubelet/staging", "/kubelet/target", "Filesystem", read_only=True)
    assert driver.agent.requests == [one, two]


async def test_undoing_asks_the_agent(driver: Driver) -> None:
    unpublish = csi_pb2.NodeUnpublishVolumeRequest(volume_id="pvc-1", target_path="/kubelet/target")
    unstage = csi_pb2.NodeUnstageVolumeRequest(volume_id="pvc-1", staging_target_path="/staging")
    await driver.node.NodeUnpublishVolume(unpublish, timeout=20)
    await driver.node.NodeUnstageVolume(unstage, timeout=20)
    assert driver.agent.requests == [
        Unpublish("pvc-1", "/kubelet/target"),
        Unstage("pvc-1", "/staging"),
    ]


async def test_usage_has_inodes_for_a_filesystem_and_only_bytes_for_a_device(
    driver: Driver,
) -> None:
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id="pvc-1", volume_path="/kubelet/target")
    sizes = {"totalBytes": GIB, "usedBytes": 5, "availableBytes": 7}
    inodes = {"totalInodes": 100, "usedInodes": 1, "availableInodes": 99}
    driver.agent.answers["stats"] = {"volumeMode": "Filesystem", **sizes, **inodes}
    answer = await driver.node.NodeGetVolumeStats(request, timeout=20)
    assert [(u.unit, u.total, u.used, u.available) for u in answer.usage] == [
        (csi_pb2.VolumeUsage.BYTES, GIB, 5, 7),
        (csi_pb2.VolumeUsage.INODES, 100, 1, 99),
    ]
    driver.agent.answers["stats"] = {"volumeMode": "Block", "totalBytes": GIB}
    answer = await driver.node.NodeGetVolumeStats(request, timeout=20)
    assert [(u.unit, u.total) for u in answer.usage] == [(csi_pb2.VolumeUsage.BYTES, GIB)]
    assert driver.agent.requests[0] == Stats("pvc-1", "/kubelet/target")


async def test_expansion_answers_the_size_that_the_device_has(driver: Driver) -> None:
    driver.agent.answers["expand"] = {"sizeBytes": 2 * GIB}
    request = csi_pb2.NodeExpandVolumeRequest(
        volume_id="pvc-1",
        volume_path="/kubelet/target",
        capacity_range=csi_pb2.CapacityRange(required_bytes=GIB),
    )
    answer = await driver.node.NodeExpandVolume(request, timeout=20)
    assert answer.capacity_bytes == 2 * GIB
    assert driver.agent.requests == [Expand("pvc-1", "/kubelet/target", GIB)]


BAD: dict[str, tuple[str, Any, Code]] = {
    "stage without id": ("NodeStageVolume", stage(volume_id=""), Code.INVALID_ARGUMENT),
    "stage of a path": ("NodeStageVolume", stage(volume_id="../x"), Code.NOT_FOUND),
    "stage nowhere": (
        "NodeStageVolume",
        stage(staging_target_path=""),
        Code.INVALID_ARGUMENT,
    ),
    "stage upwards": (
        "NodeStageVolume",
        stage(staging_target_path="/kubelet/../etc"),
        Code.INVALID_ARGUMENT,
    ),
    "stage without capability": (
        "NodeStageVolume",
        stage(volume_capability=None),
        Code.INVALID_ARGUMENT,
    ),
    "stage as another filesystem": (
        "NodeStageVolume",
        stage(volume_capability=capability(fs_type="xfs"), volume_context={"fsType": "ext4"}),
        Code.INVALID_ARGUMENT,
    ),
    "stage with a comma": (
        "NodeStageVolume",
        stage(volume_capability=capability(mount_flags=("ro,exec",))),
        Code.INVALID_ARGUMENT,
    ),
    "publish without staging": (
        "NodePublishVolume",
        publish(staging_target_path=""),
        Code.FAILED_PRECONDITION,
    ),
    "publish nowhere": ("NodePublishVolume", publish(target_path=""), Code.INVALID_ARGUMENT),
    "publish relative": ("NodePublishVolume", publish(target_path="a"), Code.INVALID_ARGUMENT),
    "stats relative": (
        "NodeGetVolumeStats",
        csi_pb2.NodeGetVolumeStatsRequest(volume_id="pvc-1", volume_path="some/path"),
        Code.NOT_FOUND,
    ),
    "stats without path": (
        "NodeGetVolumeStats",
        csi_pb2.NodeGetVolumeStatsRequest(volume_id="pvc-1"),
        Code.INVALID_ARGUMENT,
    ),
    "expand without id": (
        "NodeExpandVolume",
        csi_pb2.NodeExpandVolumeRequest(volume_path="/a"),
        Code.INVALID_ARGUMENT,
    ),
    "expand negative": (
        "NodeExpandVolume",
        csi_pb2.NodeExpandVolumeRequest(
            volume_id="pvc-1",
            volume_path="/a",
            capacity_range=csi_pb2.CapacityRange(required_bytes=-1),
        ),
        Code.INVALID_ARGUMENT,
    ),
    "unstage without path": (
        "NodeUnstageVolume",
        csi_pb2.NodeUnstageVolumeRequest(volume_id="pvc-1"),
        Code.INVALID_ARGUMENT,
    ),
    "unpublish without path": (
        "NodeUnpublishVolume",
        csi_pb2.NodeUnpublishVolumeRequest(volume_id="pvc-1"),
        Code.INVALID_ARGUMENT,
    ),
}


@pytest.mark.parametrize(("method", "request_", "expected"), BAD.values(), ids=BAD.keys())
async def test_bad_input_never_reaches_the_agent(
    driver: Driver, method: str, request_: Any, expected: Code
) -> None:
    code, message = await code_of(getattr(driver.node, method)(request_, timeout=20))
    assert code is expected, message
    assert driver.agent.requests == []


@pytest.mark.parametrize("code", ErrorCode)
async def test_the_agents_failures_keep_their_meaning_and_words(
    driver: Driver, code: ErrorCode
) -> None:
    driver.agent.answers["stage"] = TwinvaultError("as it is", code)
    call = driver.node.NodeStageVolume(stage(), timeout=20)
    assert await code_of(call) == (CODES[code], "as it is")


async def test_a_second_change_of_a_volume_in_flight_is_aborted(driver: Driver) -> None:
    driver.agent.blocked = asyncio.Event()
    first = asyncio.ensure_future(driver.node.NodeStageVolume(stage(), timeout=20))
    while not driver.agent.requests:
        await asyncio.sleep(0.01)
    code, _ = await code_of(driver.node.NodePublishVolume(publish(), timeout=20))
    assert code is Code.ABORTED
    driver.agent.blocked.set()
    await first
