from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.csi.fake_operator import POOL
from tests.csi.requests import GIB, Mode, capability, create_request
from twinvault_core.errors import ErrorCode, InvalidError, NotFoundError, TwinvaultError
from twinvault_core.ids import is_valid_id
from twinvault_core.model import VolumeMode
from twinvault_core.sizing import BLOCK_BYTES, MAX_VOLUME_BYTES
from twinvault_csi.requests import Origin, VolumeRequest, plan_volume
from twinvault_csi.status import CODES
from twinvault_csi.validation import (
    SUPPORTED_MODES,
    find_path,
    is_clean_path,
    parse_capability,
    parse_mount_flags,
    parse_name,
    parse_path,
)

CLUSTERS = {"node-a": "east", "node-b": "west"}


def test_every_kind_of_failure_has_its_grpc_code() -> None:
    assert set(CODES) == set(ErrorCode)


@given(st.text(max_size=140))
def test_a_name_is_refused_or_becomes_one_harmless_id(name: str) -> None:
    try:
        request = VolumeRequest.parse(create_request(name), CLUSTERS)
    except InvalidError:
        long = len(name.encode()) > 128
        assert not name or long or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)
        return
    assert is_valid_id(request.volume_id)
    meta = plan_volume(request, Origin())["metadata"]
    assert meta["annotations"]["csi.twinvault.io/name"] == name


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_two_names_never_share_an_id_unless_one_is_the_other_ones_hash(a: str, b: str) -> None:
    try:
        first, second = (VolumeRequest.parse(create_request(n), CLUSTERS) for n in (a, b))
    except InvalidError:
        return
    assert (first.volume_id == second.volume_id) == (a == b)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_capacity_range_is_refused_or_kept(required: int, limit: int) -> None:
    try:
        request = VolumeRequest.parse(create_request("a", required, limit_bytes=limit), CLUSTERS)
    except TwinvaultError as error:
        assert error.code in (ErrorCode.INVALID, ErrorCode.OUT_OF_RANGE)
        return
    size = plan_volume(request, Origin(pool=POOL))["spec"]["sizeBytes"]
    assert required <= size <= MAX_VOLUME_BYTES
    assert limit == 0 or size <= limit
    assert size % BLOCK_BYTES == 0


@pytest.mark.parametrize("mode", sorted(Mode.Mode.values()))
def test_exactly_the_modes_of_one_node_are_supported(mode: int) -> None:
    if mode in SUPPORTED_MODES:
        parsed = parse_capability(capability(mode))
        assert parsed.read_only == (mode == Mode.SINGLE_NODE_READER_ONLY)
        assert parsed.single_writer == (mode == Mode.SINGLE_NODE_SINGLE_WRITER)
    else:
        with pytest.raises(InvalidError, match="one node at a time"):
            parse_capability(capability(mode))


def test_a_mode_of_a_later_specification_is_refused() -> None:
    with pytest.raises(InvalidError, match="99"):
        parse_capability(capability(99))


def test_block_and_mount_are_told_apart() -> None:
    assert parse_capability(capability(block=True)).volume_mode is VolumeMode.BLOCK
    assert parse_capability(capability()).volume_mode is VolumeMode.FILESYSTEM


def test_a_capability_of_no_kind_is_refused() -> None:
    bare = capability()
    bare.ClearField("mount")
    with pytest.raises(InvalidError, match="block nor a mount"):
        parse_capability(bare)


@pytest.mark.parametrize("flag", ["noatime", "ro", "errors=remount-ro", "commit=5", "nouuid"])
def test_ordinary_mount_flags_pass(flag: str) -> None:
    assert parse_mount_flags([flag]) == (flag,)


SMUGGLED = (
    *("", "noatime,exec", "-o", "--bind", "bind", "remount", "loop=/dev/sda", "logdev=/dev/sda"),
    *("a b", "x\n", "a=\0", "journal_path=x", "uhelper=sh", "a=b=c", "ß", "n" * 200),
)


@pytest.mark.parametrize("flag", SMUGGLED)
def test_mount_flags_cannot_smuggle_anything(flag: str) -> None:
    with pytest.raises(InvalidError):
        parse_mount_flags([flag])


def test_too_many_mount_flags_are_refused() -> None:
    with pytest.raises(InvalidError):
        parse_mount_flags(["ro"] * 65)


@pytest.mark.parametrize(
    "path", ["/var/lib/kubelet/pods/1/mount", "/a", "/a/", "/a/..b/c...", "/a b"]
)
def test_plain_absolute_paths_pass(path: str) -> None:
    assert parse_path(path, "target_path") == path.rstrip("/")


BAD_PATHS = ["a", "some/path", "/a/../b", "/..", "/a/..", "//a", "/a//b", "/a/./b", "/a\0b"]


@pytest.mark.parametrize("path", [*BAD_PATHS, "/" + "x" * 5000])
def test_path_tricks_are_refused(path: str) -> None:
    with pytest.raises(InvalidError):
        parse_path(path, "target_path")
    with pytest.raises(NotFoundError):
        find_path(path, "volume_path")


def test_a_missing_path_is_invalid_everywhere() -> None:
    for parse in (parse_path, find_path):
        with pytest.raises(InvalidError, match="missing"):
            parse("", "path")


@given(st.text(max_size=60))
def test_a_clean_path_never_leaves_where_it_points(path: str) -> None:
    if is_clean_path(path):
        assert path.startswith("/")
        assert ".." not in path.split("/")
        assert "\0" not in path


def test_control_characters_are_refused_in_names_but_other_writing_is_not() -> None:
    assert parse_name("Röntgen 二", "name") == "Röntgen 二"
    for bad in ("a\x00b", "a\x7f", "\x1b[2J"):
        with pytest.raises(InvalidError, match="control"):
            parse_name(bad, "name")


def test_sizes_without_a_source_are_rounded_up_to_blocks() -> None:
    request = VolumeRequest.parse(create_request("a", GIB + 1), CLUSTERS)
    assert plan_volume(request, Origin())["spec"]["sizeBytes"] == GIB + 4096


def test_a_class_with_a_filesystem_serves_block_claims_too() -> None:
    block = create_request(
        "a",
        volume_capabilities=[capability(block=True)],
        parameters={"pool": POOL, "fsType": "xfs"},
    )
    spec = plan_volume(VolumeRequest.parse(block, CLUSTERS), Origin())["spec"]
    assert spec["volumeMode"] == "Block"
    assert "fsType" not in spec
