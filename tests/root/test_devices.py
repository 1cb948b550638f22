"""A device that holds anything is named, refused, and unchanged byte for byte."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.root.rig import CLUSTER, GIB, MIB, POOL, Rig, fingerprint
from twinvault_core.model import DeviceSelector, PoolSpec, PoolState
from twinvault_engine import devices, loop, mount, pool_record

DISK_BYTES = 1 * GIB


def command(*argv: str) -> Callable[[str], None]:
    def put(path: str) -> None:
        subprocess.run([*argv, path], check=True, capture_output=True, timeout=60)

    return put


def content(*pieces: tuple[int, bytes]) -> Callable[[str], None]:
    """Writes each piece at its offset; a negative one counts from the end."""

    def put(path: str) -> None:
        with Path(path).open("r+b") as file:
            for offset, data in pieces:
                file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
                file.write(data)

    return put


def _partition_table() -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\0\0", 0x83, b"\0\0\0", 2048, 100000)
    return b"\0" * 446 + entry + b"\0" * 48 + b"\x55\xaa"


LVM2 = b"LABELONE" + struct.pack("<QII8s", 1, 0, 32, b"LVM2 001")
LUKS = b"LUKS\xba\xbe\x00\x02" + b"\0" * 500
ZFS_UBERBLOCK = struct.pack("<QQ", 0x00BAB10C, 5000)

KINDS: dict[str, tuple[Callable[[str], None], str]] = {
    "ext4": (command("mkfs.ext4", "-q", "-F"), "ext4"),
    "xfs": (command("mkfs.xfs", "-q", "-f"), "xfs"),
    "btrfs": (command("mkfs.btrfs", "-q", "-f"), "btrfs"),
    "swap": (command("mkswap"), "swap"),
    "partition table": (content((0, _partition_table())), "dos"),
    "LVM2": (content((512, LVM2)), ""),
    "LUKS": (content((0, LUKS)), "LUKS"),
    "zfs": (content(*((128 * 1024 + n * 1024, ZFS_UBERBLOCK) for n in range(8))), ""),
    "unknown data in the first MiB": (content((4096, b"our own format")), ""),
    "one byte at 3.9 MiB": (content((4 * MIB - 100_000, b"\x01")), "4094304"),
    "one byte in the last MiB": (content((-1, b"\x01")), f"{DISK_BYTES - 1}"),
    "VMFS at 1 MiB": (content((MIB, b"\x0d\xd0\x01\xc0")), ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_device_with_data_is_refused_and_unchanged(rig: Rig, kind: str) -> None:
    put, name = KINDS[kind]
    disk = rig.add_disk(DISK_BYTES)
    put(disk.path)
    fd = os.open(disk.path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    before = fingerprint(rig.disk_image(disk))
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    assert status.state is PoolState.WAITING
    assert status.reason == "DeviceNotBlank"
    assert disk.path in status.message
    assert name in status.message
    assert "wipefs" in status.message
    with pytest.raises(Exception, match="is not blank"):
        devices.require_blank(devices.resolve_device(disk.path))
    assert fingerprint(rig.disk_image(disk)) == before


def test_hint_for_blanking_a_device_makes_it_acceptable(rig: Rig) -> None:
    disk = rig.add_disk(DISK_BYTES)
    command("mkfs.btrfs", "-q", "-f")(disk.path)
    hint = devices.how_to_blank(disk.path)
    for quoted in hint.split("'")[1::2]:
        subprocess.run(quoted.split(), check=True, capture_output=True, timeout=60)
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    assert status.state is PoolState.READY


def test_device_in_use_is_refused(rig: Rig) -> None:
    disk = rig.add_disk(DISK_BYTES)
    holder = os.open(disk.path, os.O_RDWR | os.O_EXCL)
    try:
        status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    finally:
        os.close(holder)
    assert status.state is PoolState.WAITING
    assert "Held" in status.message


def test_mounted_device_is_refused(rig: Rig) -> None:
    disk = rig.add_disk(DISK_BYTES)
    command("mkfs.ext4", "-q", "-F")(disk.path)
    place = rig.root / "elsewhere"
    place.mkdir()
    mount.mount_filesystem(disk.path, str(place), "ext4", 0, "")
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    mount.unmount(place)
    assert status.state is PoolState.WAITING
    assert f"mounted at {place}" in status.message


def test_device_that_is_too_small_or_not_there_is_named(rig: Rig) -> None:
    disk = rig.add_disk(64 * MIB)
    missing = "/dev/disk/by-id/not-there"
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(missing, disk.path)), CLUSTER)
    assert status.state is PoolState.WAITING
    assert "TooSmall" in status.message
    assert missing in status.message
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(missing,)), CLUSTER)
    assert (status.state, status.reason) == (PoolState.WAITING, "DeviceMissing")


def test_selector_never_takes_loop_or_mounted_devices(rig: Rig) -> None:
    rig.add_disk(DISK_BYTES)
    spec = PoolSpec(POOL, selector=DeviceSelector(min_size_bytes=DISK_BYTES))
    assert rig.engine.ensure_pool(spec, CLUSTER).state is PoolState.WAITING
    assert all(not facts.path.startswith("/dev/loop") for facts in rig.engine.observe_devices())


def test_pool_is_recognised_by_its_marker_when_the_records_are_lost(rig: Rig) -> None:
    made = rig.make_pool()
    mount.unmount(rig.pool_root)
    engine = rig.new_engine(data="other-data")
    status = engine.ensure_pool(PoolSpec(POOL, paths=(made.device,)), CLUSTER)
    assert (status.state, status.filesystem_uuid) == (PoolState.READY, made.filesystem_uuid)


def test_pool_of_another_node_or_site_is_left_alone(rig: Rig) -> None:
    made = rig.make_pool()
    mount.unmount(rig.pool_root)
    spec = PoolSpec(POOL, paths=(made.device,))
    other = rig.new_engine(data="other-data", node="node-b").ensure_pool(spec, CLUSTER)
    assert other.state is PoolState.FAILED
    assert "node-a" in other.message
    assert rig.engine.ensure_pool(spec, "west").state is PoolState.FAILED
    assert rig.engine.ensure_pool(spec, CLUSTER).state is PoolState.READY


def test_pool_whose_device_is_gone_is_not_made_anew_elsewhere(rig: Rig) -> None:
    rig.make_pool()
    mount.unmount(rig.pool_root)
    blank = rig.add_disk(DISK_BYTES)
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(blank.path,)), CLUSTER)
    assert (status.state, status.reason) == (PoolState.WAITING, "DeviceMissing")
    assert "no other device is taken" in status.message


def test_two_copies_of_a_pool_are_refused(rig: Rig) -> None:
    made = rig.make_pool()
    mount.unmount(rig.pool_root)
    copy = rig.add_disk(3 * GIB)
    subprocess.run(
        ["cp", "--sparse=always", str(rig.disk_image(rig.disks[0])), str(rig.disk_image(copy))],
        check=True,
        timeout=60,
    )
    loop.drop_cache(copy)
    spec = PoolSpec(POOL, paths=(made.device, copy.path))
    status = rig.engine.ensure_pool(spec, CLUSTER)
    assert status.state is PoolState.FAILED
    assert copy.path in status.message


def test_device_changed_between_choice_and_format_is_refused(rig: Rig) -> None:
    disk = rig.add_disk(DISK_BYTES)
    chosen = devices.resolve_device(disk.path)
    loop.detach(disk)
    loop.attach(rig.disk_image(disk))
    with pytest.raises(Exception, match="changed"):
        devices.require_blank(chosen)


def test_mount_point_with_files_is_not_covered(rig: Rig) -> None:
    disk = rig.add_disk(DISK_BYTES)
    rig.pool_root.mkdir()
    (rig.pool_root / "stray").write_text("x")
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    assert status.state is PoolState.WAITING
    assert "not empty" in status.message
    (rig.pool_root / "stray").unlink()
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    assert status.state is PoolState.READY, status
    record = pool_record.load_record(rig.root / "data/records/pools", POOL)
    assert record is not None
    assert record.state == pool_record.MADE
