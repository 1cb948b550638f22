"""The whole course of a volume on real devices: made, used, copied, grown, deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.root.rig import CAP_SYS_RESOURCE, CLUSTER, GIB, MIB, POOL, Rig, has_capability, replica
from twinvault_core.agent_api import Expand, Stats, Unpublish, Unstage
from twinvault_core.model import PoolSpec, PoolState, Source, VolumeMode
from twinvault_engine import loop, mount


@pytest.fixture(params=["ext4", "xfs"])
def fs_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stage(rig: Rig, name: str, fs_type: str) -> Path:
    rig.engine.stage(rig.stage_request(name, fs_type=fs_type), pool=POOL)
    return rig.staging_path(name)


def test_attached_volume_has_direct_io_and_4096_byte_sectors(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    device = rig.engine.stage(rig.stage_request("pg"))["devicePath"]
    name = Path(device).name
    assert Path(f"/sys/block/{name}/loop/dio").read_text().strip() == "1"
    assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "4096"
    facts = rig.engine.observe_volume(POOL, "pg")
    assert facts is not None
    assert (facts.device_path, facts.in_use) == (device, True)


def test_content_survives_unstage_and_stage(rig: Rig, fs_type: str) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    path = stage(rig, "pg", fs_type)
    (path / "row").write_text("patient 1")
    rig.engine.unstage(Unstage("pg", str(path)))
    assert not (path / "row").exists()
    assert (stage(rig, "pg", fs_type) / "row").read_text() == "patient 1"


def test_snapshot_restore_and_clone_hold_what_was_written_before_them(
    rig: Rig, fs_type: str
) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    path = stage(rig, "pg", fs_type)
    (path / "row").write_text("before")
    snapshot = rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    (path / "row").write_text("after")
    again = rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    assert snapshot.ready
    assert again == snapshot
    rig.engine.ensure_volume(replica("back", fs_type=fs_type, source=Source(snapshot="snap")))
    rig.engine.ensure_volume(replica("copy", fs_type=fs_type, source=Source(volume="pg")))
    assert (stage(rig, "back", fs_type) / "row").read_text() == "before"
    assert (stage(rig, "copy", fs_type) / "row").read_text() == "after"
    assert (path / "row").read_text() == "after"


def test_snapshot_outlives_its_volume(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    path = stage(rig, "pg", "ext4")
    (path / "row").write_text("kept")
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.unstage(Unstage("pg", str(path)))
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    rig.engine.ensure_volume(replica("back", source=Source(snapshot="snap")))
    assert (stage(rig, "back", "ext4") / "row").read_text() == "kept"


def _require_online_growth(fs_type: str) -> None:
    if fs_type == "ext4" and not has_capability(CAP_SYS_RESOURCE):
        pytest.skip("growing a mounted ext4 needs CAP_SYS_RESOURCE, which this host withholds")


def test_volume_grows_while_it_is_mounted(rig: Rig, fs_type: str) -> None:
    _require_online_growth(fs_type)
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    path = stage(rig, "pg", fs_type)
    (path / "row").write_text("kept")
    before = os.statvfs(path).f_blocks
    assert rig.engine.ensure_volume(replica("pg", GIB, fs_type=fs_type)).size_bytes == GIB
    assert rig.engine.expand(Expand("pg", str(path), GIB)) == {"sizeBytes": GIB}
    assert rig.engine.expand(Expand("pg", str(path), GIB)) == {"sizeBytes": GIB}
    assert os.statvfs(path).f_blocks > before * 1.8
    assert (path / "row").read_text() == "kept"


def test_volume_restored_to_a_larger_size_has_a_larger_filesystem(rig: Rig, fs_type: str) -> None:
    _require_online_growth(fs_type)
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    before = os.statvfs(stage(rig, "pg", fs_type)).f_blocks
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.ensure_volume(replica("back", GIB, fs_type=fs_type, source=Source(snapshot="snap")))
    assert os.statvfs(stage(rig, "back", fs_type)).f_blocks > before * 1.8


def test_block_volume_is_published_as_a_device_and_grows(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("raw", mode=VolumeMode.BLOCK))
    rig.engine.stage(rig.stage_request("raw", mode="Block"))
    rig.engine.publish(rig.publish_request("raw", mode="Block"))
    rig.engine.publish(rig.publish_request("raw", mode="Block"))
    target = rig.target_path("raw")
    assert stat.S_ISBLK(target.stat().st_mode)
    target.write_bytes(b"x" * MIB)
    rig.engine.ensure_volume(replica("raw", GIB, mode=VolumeMode.BLOCK))
    rig.engine.expand(Expand("raw", str(target), GIB))
    assert rig.engine.stats(Stats("raw", str(target))) == {
        "volumeMode": "Block",
        "totalBytes": GIB,
    }
    rig.engine.unpublish(Unpublish("raw", str(target)))
    assert not target.exists()
    rig.engine.unstage(Unstage("raw", str(rig.staging_path("raw"))))
    rig.engine.stage(rig.stage_request("raw", mode="Block"))
    rig.engine.publish(rig.publish_request("raw", mode="Block"))
    with target.open("rb") as device:
        assert device.read(4) == b"xxxx"


def test_nothing_is_left_after_everything_was_deleted(rig: Rig, fs_type: str) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    stage(rig, "pg", fs_type)
    rig.engine.publish(rig.publish_request("pg"))
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.unpublish(Unpublish("pg", str(rig.target_path("pg"))))
    rig.engine.unstage(Unstage("pg", str(rig.staging_path("pg"))))
    rig.engine.erase_snapshot(POOL, "snap")
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    assert rig.holdings() == {}
    rig.engine.erase_snapshot(POOL, "snap")
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    rig.engine.unstage(Unstage("pg", str(rig.staging_path("pg"))))
    rig.engine.unpublish(Unpublish("pg", str(rig.target_path("pg"))))


def test_pool_is_found_again_after_a_reboot_of_the_node(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    mount.unmount(rig.pool_root)
    engine = rig.new_engine()
    assert engine.recover().left_alone == ()
    spec = PoolSpec(POOL, paths=(rig.root.as_posix() + "/missing", rig.disks[0].path))
    assert engine.ensure_pool(spec, CLUSTER).state is PoolState.READY
    assert [facts.volume_id for facts in engine.list_volumes(POOL)] == ["pg"]


def test_pool_grows_with_its_device(rig: Rig) -> None:
    before = rig.make_pool().size_bytes
    disk = rig.disks[0]
    with Path(disk.backing_file).open("r+b") as file:
        file.truncate(5 * GIB)
    loop.refresh_capacity(disk)
    status = rig.engine.ensure_pool(PoolSpec(POOL, paths=(disk.path,)), CLUSTER)
    assert status.size_bytes > before + GIB
