"""Superblocks as the real tools write them, into plain files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from twinvault_core.errors import DataAtRiskError
from twinvault_core.model import DeviceSelector
from twinvault_engine import devices, ext4, pool_record, xfs

MIB = 1024**2


def make_file(path: Path, size_bytes: int, *argv: str) -> bytes:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*argv, str(path)], check=True, capture_output=True, timeout=60)
    with path.open("rb") as file:
        return file.read(4096)


def test_ext4_size_and_damage_are_read(tmp_path: Path) -> None:
    head = make_file(tmp_path / "disk", 64 * MIB, "mkfs.ext4", "-q", "-F", "-b", "4096")
    assert ext4.parse_superblock(head) == ext4.Superblock(64 * MIB, has_errors=False)
    damaged = bytearray(head)
    damaged[1024 + 0x3A] |= 2
    found = ext4.parse_superblock(bytes(damaged))
    assert found is not None
    assert found.has_errors
    assert xfs.parse_superblock(head) is None


def test_xfs_size_uuid_and_label_are_read(tmp_path: Path) -> None:
    uuid = "3bf08134-2159-43c4-8535-ebb4f064d08b"
    head = make_file(
        tmp_path / "disk", 320 * MIB, "mkfs.xfs", "-q", "-f", "-L", "tv-fast", "-m", f"uuid={uuid}"
    )
    assert xfs.parse_superblock(head) == xfs.Superblock(320 * MIB, uuid, "tv-fast", False)
    assert ext4.parse_superblock(head) is None


@pytest.mark.parametrize("head", [b"", b"\0" * 4096, b"XFSB", b"\xff" * 4096])
def test_what_is_no_superblock_is_none(head: bytes) -> None:
    assert ext4.parse_superblock(head) is None
    assert xfs.parse_superblock(head) is None


def test_signatures_are_named_once_each() -> None:
    text = '{"signatures": [{"type": "gpt"}, {"type": "gpt"}, {"type": "PMBR"}]}'
    assert devices.parse_signatures(text) == ["gpt", "PMBR"]
    assert devices.parse_signatures("") == []


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (DeviceSelector(), True),
        (DeviceSelector(min_size_bytes=100, max_size_bytes=100), True),
        (DeviceSelector(min_size_bytes=101), False),
        (DeviceSelector(max_size_bytes=99), False),
        (DeviceSelector(rotational=True), False),
        (DeviceSelector(rotational=False, model_pattern="SAMSUNG*"), True),
        (DeviceSelector(model_pattern="samsung*"), False),
    ],
)
def test_selector_needs_every_property(selector: DeviceSelector, matches: bool) -> None:
    device = devices.BlockDevice(
        "/dev/x", "8:0", Path("/sys"), 100, "SAMSUNG MZ1", False, False, "1"
    )
    assert devices.matches_selector(device, selector) is matches


def test_labels_fit_and_tell_pools_apart() -> None:
    assert pool_record.choose_label("fast") == "tv-fast"
    long = [pool_record.choose_label(f"archive-of-images-{n}") for n in range(2)]
    assert all(len(label) == xfs.LABEL_BYTES for label in long)
    assert long[0] != long[1]


def test_damaged_pool_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "fast.json").write_text('{"name": "fast"}')
    with pytest.raises(DataAtRiskError, match=r"fast\.json"):
        pool_record.load_record(tmp_path, "fast")
    assert pool_record.list_records(tmp_path) == []
