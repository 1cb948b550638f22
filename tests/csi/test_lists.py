from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.csi.conftest import Driver
from tests.csi.requests import capability, code_of, create_request, on_nodes
from twinvault_core.errors import InvalidError, TwinvaultError
from twinvault_core.sizing import GIB, MIN_VOLUME_BYTES, MIN_XFS_VOLUME_BYTES
from twinvault_csi.pages import TokenError, choose_page, parse_token
from twinvault_csi.pb import csi_pb2
from twinvault_kube.kinds import VOLUMES

Code = grpc.StatusCode
IDS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.sets(IDS), st.integers(1, 5))
def test_pages_together_are_the_whole_list_once_and_in_order(ids: set[str], size: int) -> None:
    seen: list[str] = []
    token = ""
    while True:
        page = choose_page(list(ids), token, size)
        assert len(page.ids) <= size
        seen += page.ids
        token = page.next_token
        if not token:
            break
    assert seen == sorted(ids)


@given(st.sets(IDS, min_size=2), st.sets(IDS), st.data())
def test_entries_that_come_and_go_between_pages_never_repeat_or_hide_others(
    ids: set[str], added: set[str], data: st.DataObject
) -> None:
    first = choose_page(list(ids), "", data.draw(st.integers(1, len(ids) - 1)))
    gone = data.draw(st.sets(st.sampled_from(sorted(ids))))
    second = choose_page(list((ids | added) - gone), first.next_token, 0)
    assert not set(first.ids) & set(second.ids)
    assert set(second.ids) >= ids - set(first.ids) - gone


@given(st.text(max_size=200))
def test_any_token_is_ours_or_refused(token: str) -> None:
    try:
        parse_token(token)
    except TwinvaultError as error:
        assert isinstance(error, TokenError)


@pytest.mark.parametrize("token", ["invalid-token", "after:", "after:../x", "after:A", "1", "\0"])
def test_a_foreign_token_starts_the_list_anew(token: str) -> None:
    with pytest.raises(TokenError):
        choose_page(["a"], token, 0)


def test_a_negative_page_is_invalid() -> None:
    with pytest.raises(InvalidError):
        choose_page(["a"], "", -1)


async def test_volumes_are_listed_in_pages_with_the_nodes_that_use_them(driver: Driver) -> None:
    for number in range(3):
        await driver.controller.CreateVolume(create_request(f"pvc-{number}"), timeout=20)
    await driver.api.patch(VOLUMES, "pvc-0", {"spec": {"publishedTo": ["node-a"]}})
    driver.objects.volumes.saw(driver.api.objects["volumes"]["pvc-0"])
    first = await driver.controller.ListVolumes(
        csi_pb2.ListVolumesRequest(max_entries=2), timeout=20
    )
    assert [entry.volume.volume_id for entry in first.entries] == ["pvc-0", "pvc-1"]
    assert list(first.entries[0].status.published_node_ids) == ["node-a"]
    rest = await driver.controller.ListVolumes(
        csi_pb2.ListVolumesRequest(starting_token=first.next_token), timeout=20
    )
    assert [entry.volume.volume_id for entry in rest.entries] == ["pvc-2"]
    assert not rest.next_token


async def test_a_bad_token_aborts_the_list(driver: Driver) -> None:
    volumes = csi_pb2.ListVolumesRequest(starting_token="invalid-token")
    snapshots = csi_pb2.ListSnapshotsRequest(starting_token="invalid-token")
    assert (await code_of(driver.controller.ListVolumes(volumes, timeout=20)))[0] is Code.ABORTED
    code, _ = await code_of(driver.controller.ListSnapshots(snapshots, timeout=20))
    assert code is Code.ABORTED


async def test_one_volume_is_got_with_its_nodes(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)
    request = csi_pb2.ControllerGetVolumeRequest(volume_id="pvc-1")
    answer = await driver.controller.ControllerGetVolume(request, timeout=20)
    assert answer.volume.volume_id == "pvc-1"
    for missing in ("pvc-2", "../pvc-1"):
        request = csi_pb2.ControllerGetVolumeRequest(volume_id=missing)
        code, _ = await code_of(driver.controller.ControllerGetVolume(request, timeout=20))
        assert code is Code.NOT_FOUND


async def capacity(driver: Driver, **more: object) -> tuple[int, int, int]:
    request = csi_pb2.GetCapacityRequest(**more)  # type: ignore[arg-type]
    answer = await driver.controller.GetCapacity(request, timeout=20)
    return (
        answer.available_capacity,
        answer.maximum_volume_size.value,
        answer.minimum_volume_size.value,
    )


async def test_capacity_is_the_room_in_the_pool_on_the_nodes_asked_for(driver: Driver) -> None:
    hundred = 100 * GIB
    assert await capacity(driver) == (2 * hundred, hundred, MIN_VOLUME_BYTES)
    node = on_nodes("node-b").requisite[0]
    assert await capacity(driver, accessible_topology=node) == (hundred, hundred, MIN_VOLUME_BYTES)
    east = csi_pb2.Topology(segments={"topology.csi.twinvault.io/cluster": "east"})
    assert (await capacity(driver, accessible_topology=east))[0] == hundred
    xfs = {"pool": "fast", "fsType": "xfs"}
    assert (await capacity(driver, parameters=xfs))[2] == MIN_XFS_VOLUME_BYTES
    assert (await capacity(driver, parameters={"pool": "slow"}))[0] == 0
    nowhere = on_nodes("node-z").requisite[0]
    assert (await capacity(driver, accessible_topology=nowhere))[0] == 0


async def test_capacity_is_told_for_a_class_with_the_filesystem_key_of_kubernetes(
    driver: Driver,
) -> None:
    """The provisioner strips that key from CreateVolume, not from GetCapacity."""
    xfs = {"pool": "fast", "csi.storage.k8s.io/fstype": "xfs"}
    assert (await capacity(driver, parameters=xfs))[2] == MIN_XFS_VOLUME_BYTES


async def test_capacity_for_an_unknown_parameter_is_refused_by_name(driver: Driver) -> None:
    code, message = await code_of(capacity(driver, parameters={"tier": "gold"}))
    assert code is Code.INVALID_ARGUMENT
    assert "'tier'" in message


async def test_capabilities_of_a_volume_are_confirmed_or_explained(driver: Driver) -> None:
    await driver.controller.CreateVolume(create_request("pvc-1"), timeout=20)

    async def validate(**more: object) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        more.setdefault("volume_id", "pvc-1")
        more.setdefault("volume_capabilities", [capability()])
        request = csi_pb2.ValidateVolumeCapabilitiesRequest(**more)  # type: ignore[arg-type]
        return await driver.controller.ValidateVolumeCapabilities(request, timeout=20)

    assert (await validate()).confirmed.volume_capabilities == [capability()]
    assert (await validate(parameters={"pool": "fast"})).HasField("confirmed")
    for wrong, word in (
        ({"volume_capabilities": [capability(block=True)]}, "Filesystem"),
        ({"volume_capabilities": [capability(fs_type="xfs")]}, "ext4"),
        ({"volume_capabilities": [capability(mode=5)]}, "MULTI_NODE_MULTI_WRITER"),
        ({"parameters": {"pool": "slow"}}, "fast"),
        ({"parameters": {"tier": "gold"}}, "tier"),
    ):
        answer = await validate(**wrong)
        assert not answer.HasField("confirmed")
        assert word in answer.message
    assert (await code_of(validate(volume_id="gone")))[0] is Code.NOT_FOUND
    assert (await code_of(validate(volume_id="")))[0] is Code.INVALID_ARGUMENT
    assert (await code_of(validate(volume_capabilities=[])))[0] is Code.INVALID_ARGUMENT
