from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from tests.csi.conftest import Driver
from tests.csi.fake_operator import POOL
from tests.csi.requests import (
    GIB,
    Mode,
    capability,
    code_of,
    create_request,
    from_snapshot,
    from_volume,
    on_nodes,
)
from twinvault_core import reasons
from twinvault_core.ids import is_valid_id
from twinvault_core.names import ANNOTATION_CSI_NAME, ANNOTATION_PVC, FINALIZER_VOLUME
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import STORAGE_CLUSTERS, VOLUMES

Code = grpc.StatusCode


async def test_a_new_volume_is_answered_with_its_size_and_its_node(driver: Driver) -> None:
    answer = await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    assert answer.volume.volume_id == "pvc-1"
    assert answer.volume.capacity_bytes == GIB
    assert [dict(one.segments) for one in answer.volume.accessible_topology] == [
        {"topology.csi.twinvault.io/node": "node-a"},
        {"replica.twinvault.io/pvc-1": "true"},
    ]
    assert dict(answer.volume.volume_context) == {"fsType": "ext4"}


async def test_the_object_carries_finalizer_name_and_claim_from_its_creation(
    driver: Driver,
) -> None:
    metadata = {
        "csi.storage.k8s.io/pvc/name": "data-his-0",
        "csi.storage.k8s.io/pvc/namespace": "hospital",
        "csi.storage.k8s.io/pv/name": "pvc-1",
    }
    request = create_request("pvc-1", parameters={"pool": POOL, **metadata})
    created: list[dict[str, Any]] = []
    create = driver.api.create

    async def record(kind: Any, obj: Any, namespace: str | None = None) -> dict[str, Any]:
        created.append(obj)
        return await create(kind, obj, namespace)

    driver.api.create = record  # type: ignore[method-assign]
    await driver.controller.CreateVolume(request, timeout=20)
    (obj,) = created
    assert obj["metadata"]["finalizers"] == [FINALIZER_VOLUME]
    assert obj["metadata"]["annotations"] == {
        ANNOTATION_CSI_NAME: "pvc-1",
        ANNOTATION_PVC: "hospital/data-his-0",
    }


async def test_a_retry_finds_the_volume_of_the_first_try(driver: Driver) -> None:
    first = await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    again = await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    assert first == again
    assert len(driver.api.objects["volumes"]) == 1


async def test_a_retry_after_a_lost_answer_waits_for_the_same_object(driver: Driver) -> None:
    driver.operator.hold = True
    code, _ = await code_of(driver.controller.CreateVolume(create_request("pvc-1"), timeout=0.5))
    assert code is Code.DEADLINE_EXCEEDED
    driver.operator.release()
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    assert len(driver.api.objects["volumes"]) == 1


async def test_a_deadline_says_what_was_waited_for(driver: Driver) -> None:
    driver.operator.hold = True
    call = driver.controller.CreateVolume(create_request("pvc-1"), timeout=1.0)
    code, message = await code_of(call)
    assert code is Code.DEADLINE_EXCEEDED
    assert "operator" in message


DIFFERENT: dict[str, dict[str, Any]] = {
    "larger": {"required_bytes": 2 * GIB},
    "limit below": {"required_bytes": GIB // 2, "limit_bytes": GIB - 4096},
    "block": {"volume_capabilities": [capability(block=True)]},
    "other filesystem": {"volume_capabilities": [capability(fs_type="xfs")]},
    "other pair": {"parameters": {"pool": POOL, "replicationPair": "metro"}},
    "with a source": {"volume_content_source": from_snapshot("snap")},
    "elsewhere": {"accessibility_requirements": on_nodes("node-b")},
}


@pytest.mark.parametrize("more", DIFFERENT.values(), ids=DIFFERENT.keys())
async def test_the_same_name_for_another_volume_already_exists(
    driver: Driver, more: dict[str, Any]
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    code, message = await code_of(
        driver.controller.CreateVolume(create_request("pvc-1", **more), timeout=20)
    )
    assert code is Code.ALREADY_EXISTS, message
    assert "pvc-1" in message


async def test_a_hand_made_volume_of_that_name_is_not_taken_for_ours(driver: Driver) -> None:
    spec = {"sizeBytes": GIB, "pool": POOL, "volumeMode": "Filesystem", "fsType": "ext4"}
    driver.api.put(VOLUMES, {"metadata": {"name": "pvc-1"}, "spec": spec})
    code, _ = await code_of(driver.controller.CreateVolume(create_request("pvc-1"), timeout=20))
    assert code is Code.ALREADY_EXISTS


async def test_an_object_that_the_informer_has_not_seen_yet_is_found_by_its_conflict(
    driver: Driver,
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    driver.objects.volumes.store.clear()
    answer = await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    assert answer.volume.volume_id == "pvc-1"


async def test_a_second_call_for_the_name_in_flight_is_aborted(driver: Driver) -> None:
    driver.operator.hold = True
    first = asyncio.ensure_future(
        driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    )
    while "pvc-1" not in driver.api.objects.get("volumes", {}):
        await asyncio.sleep(0.01)
    for call in (
        driver.controller.CreateVolume(create_request("pvc-1"), timeout=20),
        driver.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id="pvc-1"), timeout=20),
    ):
        code, message = await code_of(call)
        assert code is Code.ABORTED
        assert "in flight" in message
    driver.operator.release()
    assert (await first).volume.volume_id == "pvc-1"


async def test_a_caller_that_gives_up_leaves_no_lock_behind(driver: Driver) -> None:
    driver.operator.hold = True
    call = driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    first = asyncio.ensure_future(call)
    while "pvc-1" not in driver.api.objects.get("volumes", {}):
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    driver.operator.release()
    code = Code.ABORTED
    while code is Code.ABORTED:
        code, _ = await code_of(driver.controller.CreateVolume(create_request("pvc-1"), timeout=20))
    assert code is Code.OK


REFUSED: dict[str, tuple[str, Code]] = {
    reasons.POOL_UNKNOWN: (reasons.POOL_UNKNOWN, Code.INVALID_ARGUMENT),
    reasons.PAIR_UNKNOWN: (reasons.PAIR_UNKNOWN, Code.INVALID_ARGUMENT),
    reasons.PAIR_NOT_IMPLEMENTED: (reasons.PAIR_NOT_IMPLEMENTED, Code.INVALID_ARGUMENT),
    reasons.CLUSTER_UNKNOWN: (reasons.CLUSTER_UNKNOWN, Code.INVALID_ARGUMENT),
    reasons.SOURCE_MISSING: (reasons.SOURCE_MISSING, Code.NOT_FOUND),
    reasons.NO_CAPACITY: (reasons.NO_CAPACITY, Code.RESOURCE_EXHAUSTED),
    reasons.NO_NODE: (reasons.NO_NODE, Code.RESOURCE_EXHAUSTED),
    reasons.NO_NUMBER: (reasons.NO_NUMBER, Code.RESOURCE_EXHAUSTED),
    reasons.POOLS_DIFFER: (reasons.POOLS_DIFFER, Code.INVALID_ARGUMENT),
    "ANewReason": ("ANewReason", Code.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("reason", "expected"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_placement_that_cannot_be_is_told_and_taken_back(
    driver: Driver, reason: str, expected: Code
) -> None:
    driver.operator.refuse = reason
    code, message = await code_of(
        driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    )
    assert (code, message) == (expected, f"because {reason}")
    assert driver.api.objects["volumes"] == {}
    driver.operator.refuse = ""
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)


async def test_a_pool_that_may_still_become_ready_is_waited_for(driver: Driver) -> None:
    driver.operator.refuse = reasons.POOL_NOT_READY
    code, message = await code_of(
        driver.controller.CreateVolume(create_request("pvc-1"), timeout=1.0)
    )
    assert code is Code.DEADLINE_EXCEEDED
    assert f"because {reasons.POOL_NOT_READY}" in message
    assert "pvc-1" in driver.api.objects["volumes"]


async def test_the_only_pool_is_taken_when_none_is_named(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1", parameters={}), timeout=20)
    assert driver.api.objects["volumes"]["pvc-1"]["spec"]["pool"] == POOL


async def test_a_resync_priority_stands_in_the_volume_and_may_be_changed_there(
    driver: Driver,
) -> None:
    request = create_request("pvc-1", parameters={"pool": POOL, "resyncPriority": "-7"})
    await driver.controller.CreateVolume(request, timeout=20)
    volume = driver.api.objects["volumes"]["pvc-1"]
    assert volume["spec"]["resyncPriority"] == -7
    volume["spec"]["resyncPriority"] = 5
    driver.api.put(VOLUMES, volume)
    answer = await driver.controller.CreateVolume(request, timeout=20)
    assert answer.volume.volume_id == "pvc-1"
    assert driver.api.objects["volumes"]["pvc-1"]["spec"]["resyncPriority"] == 5


async def test_a_pool_must_be_named_when_there_are_several(driver: Driver) -> None:
    obj = driver.api.objects["storageclusters"]["east"]
    obj["spec"]["pools"].append({"name": "slow", "devices": {"paths": ["/dev/vdc"]}})
    driver.api.put(STORAGE_CLUSTERS, obj)
    while len(driver.objects.pool_names()) < 2:
        await asyncio.sleep(0.01)
    call = driver.controller.CreateVolume(create_request("pvc-1", parameters={}), timeout=20)
    code, message = await code_of(call)
    assert code is Code.INVALID_ARGUMENT
    assert "fast, slow" in message


BAD: dict[str, tuple[csi_pb2.CreateVolumeRequest, Code, str]] = {
    "no name": (create_request(""), Code.INVALID_ARGUMENT, "name"),
    "name too long": (create_request("n" * 129), Code.INVALID_ARGUMENT, "128"),
    "no capability": (create_request("a", volume_capabilities=[]), Code.INVALID_ARGUMENT, ""),
    "many nodes": (
        create_request("a", volume_capabilities=[capability(Mode.MULTI_NODE_MULTI_WRITER)]),
        Code.INVALID_ARGUMENT,
        "MULTI_NODE_MULTI_WRITER",
    ),
    "no mode": (
        create_request("a", volume_capabilities=[capability(Mode.UNKNOWN)]),
        Code.INVALID_ARGUMENT,
        "UNKNOWN",
    ),
    "mount and block": (
        create_request("a", volume_capabilities=[capability(), capability(block=True)]),
        Code.INVALID_ARGUMENT,
        "block",
    ),
    "unknown filesystem": (
        create_request("a", volume_capabilities=[capability(fs_type="ntfs")]),
        Code.INVALID_ARGUMENT,
        "ntfs",
    ),
    "two filesystems": (
        create_request(
            "a",
            volume_capabilities=[capability(fs_type="xfs")],
            parameters={"pool": POOL, "fsType": "ext4"},
        ),
        Code.INVALID_ARGUMENT,
        "fsType",
    ),
    "unknown parameter": (
        create_request("a", parameters={"pool": POOL, "iops": "9"}),
        Code.INVALID_ARGUMENT,
        "'iops'",
    ),
    "priority that is no number": (
        create_request("a", parameters={"pool": POOL, "resyncPriority": "high"}),
        Code.INVALID_ARGUMENT,
        "'high'",
    ),
    "priority too high": (
        create_request("a", parameters={"pool": POOL, "resyncPriority": "1001"}),
        Code.INVALID_ARGUMENT,
        "1000",
    ),
    "unknown pool": (
        create_request("a", parameters={"pool": "slow"}),
        Code.INVALID_ARGUMENT,
        "'slow'",
    ),
    "mutable parameter": (
        create_request("a", mutable_parameters={"iops": "9"}),
        Code.INVALID_ARGUMENT,
        "'iops'",
    ),
    "negative": (create_request("a", -1), Code.INVALID_ARGUMENT, "negative"),
    "limit below": (create_request("a", GIB, limit_bytes=4096), Code.INVALID_ARGUMENT, "limit"),
    "absurd": (create_request("a", 2**63 - 4096), Code.OUT_OF_RANGE, "largest"),
    "no size fits": (create_request("a", 1, limit_bytes=5000), Code.OUT_OF_RANGE, "no size fits"),
    "missing snapshot": (
        create_request("a", volume_content_source=from_snapshot("gone")),
        Code.NOT_FOUND,
        "gone",
    ),
    "missing volume": (
        create_request("a", volume_content_source=from_volume("gone")),
        Code.NOT_FOUND,
        "gone",
    ),
    "path as source": (
        create_request("a", volume_content_source=from_snapshot("../../etc")),
        Code.NOT_FOUND,
        "etc",
    ),
    "unknown node": (
        create_request("a", accessibility_requirements=on_nodes("node-z")),
        Code.RESOURCE_EXHAUSTED,
        "node-z",
    ),
    "unknown topology key": (
        create_request(
            "a",
            accessibility_requirements=csi_pb2.TopologyRequirement(
                requisite=[csi_pb2.Topology(segments={"zone": "1"})]
            ),
        ),
        Code.INVALID_ARGUMENT,
        "'zone'",
    ),
}


@pytest.mark.parametrize(("request_", "expected", "word"), BAD.values(), ids=BAD.keys())
async def test_bad_input_is_refused_and_makes_nothing(
    driver: Driver, request_: csi_pb2.CreateVolumeRequest, expected: Code, word: str
) -> None:
    code, message = await code_of(driver.controller.CreateVolume(request_, timeout=20))
    assert code is expected, message
    assert word in message
    assert driver.api.objects.get("volumes", {}) == {}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/", ".", "..", "a/b", "A B", "äöü", "x" * 128, "-a", "volume-0/"]
)
async def test_any_name_becomes_a_harmless_id(driver: Driver, name: str) -> None:
    answer = await driver.controller.CreateVolume(create_request(name), timeout=20)
    assert is_valid_id(answer.volume.volume_id)
    again = await driver.controller.CreateVolume(create_request(name), timeout=20)
    assert again.volume.volume_id == answer.volume.volume_id


async def test_a_zero_size_makes_the_default_size(driver: Driver) -> None:
    answer = await driver.controller.CreateVolume(create_request("pvc-1", 0), timeout=20)
    assert answer.volume.capacity_bytes == GIB


async def test_a_copy_has_at_least_the_size_and_the_filesystem_of_its_source(
    driver: Driver,
) -> None:
    xfs = {"volume_capabilities": [capability(fs_type="xfs")]}
    await driver.controller.CreateVolume(create_request("pvc-1", 2 * GIB, **xfs), timeout=20)
    source = from_volume("pvc-1")
    request = create_request("pvc-2", 0, parameters={}, volume_content_source=source)
    answer = await driver.controller.CreateVolume(request, timeout=20)
    assert answer.volume.capacity_bytes == 2 * GIB
    assert answer.volume.content_source == source
    assert dict(answer.volume.volume_context) == {"fsType": "xfs"}


UNFIT: dict[str, tuple[dict[str, Any], Code]] = {
    "smaller": ({"required_bytes": GIB // 2}, Code.OUT_OF_RANGE),
    "limit below": ({"required_bytes": 0, "limit_bytes": GIB // 2}, Code.OUT_OF_RANGE),
    "block": ({"volume_capabilities": [capability(block=True)]}, Code.INVALID_ARGUMENT),
    "xfs": ({"volume_capabilities": [capability(fs_type="xfs")]}, Code.INVALID_ARGUMENT),
}


@pytest.mark.parametrize(("more", "expected"), UNFIT.values(), ids=UNFIT.keys())
async def test_a_copy_that_does_not_fit_its_source_is_refused(
    driver: Driver, more: dict[str, Any], expected: Code
) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    request = create_request("pvc-2", volume_content_source=from_volume("pvc-1"), **more)
    code, message = await code_of(driver.controller.CreateVolume(request, timeout=20))
    assert code is expected, message
    assert sorted(driver.api.objects["volumes"]) == ["pvc-1"]


async def test_a_retry_succeeds_although_its_source_is_gone_by_then(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    request = create_request("pvc-2", volume_content_source=from_volume("pvc-1"))
    await driver.controller.CreateVolume(request, timeout=20)
    await driver.controller.DeleteVolume(csi_pb2.DeleteVolumeRequest(volume_id="pvc-1"), timeout=20)
    answer = await driver.controller.CreateVolume(request, timeout=20)
    assert answer.volume.volume_id == "pvc-2"


async def test_blank_volume_is_made_only_where_the_scheduler_wants_the_pod(driver: Driver) -> None:
    wanted = on_nodes("node-b", "node-a")
    request = create_request("pvc-1", accessibility_requirements=wanted)
    await driver.controller.CreateVolume(request, timeout=20)
    spec = driver.api.objects["volumes"]["pvc-1"]["spec"]
    assert spec["accessibility"]["requisite"] == ["node-b"]
    copy = create_request(
        "pvc-2", accessibility_requirements=wanted, volume_content_source=from_volume("pvc-1")
    )
    await driver.controller.CreateVolume(copy, timeout=20)
    spec = driver.api.objects["volumes"]["pvc-2"]["spec"]
    assert "node-a" in (spec.get("accessibility") or {}).get("requisite", ["node-a"])


async def test_topology_becomes_nodes_and_preference_keeps_its_order(driver: Driver) -> None:
    request = create_request("pvc-1", accessibility_requirements=on_nodes("node-b"))
    answer = await driver.controller.CreateVolume(request, timeout=20)
    spec = driver.api.objects["volumes"]["pvc-1"]["spec"]
    assert spec["accessibility"] == {"requisite": ["node-b"], "preferred": ["node-b"]}
    segments = answer.volume.accessible_topology[0].segments
    assert segments["topology.csi.twinvault.io/node"] == "node-b"


async def test_an_api_server_that_is_away_is_unavailable(driver: Driver) -> None:
    driver.api.away = True
    code, _ = await code_of(driver.controller.CreateVolume(create_request("pvc-1"), timeout=20))
    assert code is Code.UNAVAILABLE
