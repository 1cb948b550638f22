"""Full pools, damaged journals, wrong requests, frozen filesystems: told, and nothing lost."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.root.rig import CLUSTER, GIB, MIB, POOL, Rig, replica, run_killed_at
from twinvault_core.agent_api import Expand, Publish, Stage, Stats, Unpublish, Unstage
from twinvault_core.errors import (
    AlreadyExistsError,
    BusyError,
    DataAtRiskError,
    DeadlineError,
    FailedPreconditionError,
    InUseError,
    InvalidError,
    NoSpaceError,
    NotFoundError,
)
from twinvault_core.model import PoolSpec, Source, VolumeMode
from twinvault_engine import loop, steps
from twinvault_engine.freeze import Freezer
from twinvault_engine.mountinfo import find_mount

FIFREEZE = 0xC0045877


def make_staged(rig: Rig, fs_type: str = "ext4") -> Path:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", fs_type=fs_type))
    rig.engine.stage(rig.stage_request("pg", fs_type=fs_type))
    path = rig.staging_path("pg")
    (path / "row").write_text("kept")
    return path


def fill(path: Path, free_bytes: int) -> None:
    """Take what is free in the filesystem but ``free_bytes``; piece by piece to the last one."""
    with path.open("wb") as file:
        size = 0
        for piece in (64 * MIB, MIB, 4096):
            while _free(path) - free_bytes >= piece:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                except OSError:
                    break
                size += piece


def _free(path: Path) -> int:
    usage = os.statvfs(path.parent)
    return usage.f_bavail * usage.f_frsize


def test_pool_at_its_reserve_refuses_new_volumes_and_snapshots_but_not_writes(rig: Rig) -> None:
    rig.make_pool(reserve_percent=10)
    rig.engine.ensure_volume(replica("pg"))
    rig.engine.stage(rig.stage_request("pg"))
    fill(rig.pool_root / "filler", 200 * MIB)
    with pytest.raises(NoSpaceError, match="reserve"):
        rig.engine.ensure_volume(replica("more"))
    with pytest.raises(NoSpaceError, match="reserve"):
        rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    file = rig.staging_path("pg") / "row"
    with file.open("wb") as row:
        row.write(b"x" * MIB)
        os.fsync(row.fileno())
    assert rig.holdings()["volume"] == ["pg"]
    (rig.pool_root / "filler").unlink()
    assert rig.engine.ensure_volume(replica("more")).ready


def test_pool_full_while_formatting_is_told_and_staging_goes_on_when_there_is_room(
    rig: Rig,
) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    fill(rig.pool_root / "filler", 0)
    with pytest.raises(NoSpaceError, match=r"full|no space"):
        rig.engine.stage(rig.stage_request("pg"))
    (rig.pool_root / "filler").unlink()
    rig.engine.stage(rig.stage_request("pg"))
    (rig.staging_path("pg") / "row").write_text("x")


def test_completely_full_pool_can_still_delete(rig: Rig) -> None:
    make_staged(rig)
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.unstage(Unstage("pg", str(rig.staging_path("pg"))))
    fill(rig.pool_root / "filler", 0)
    rig.engine.erase_snapshot(POOL, "snap")
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    assert rig.holdings() == {}
    (rig.pool_root / "filler").unlink()
    rig.engine.ensure_pool(PoolSpec(POOL, paths=(rig.disks[0].path,)), CLUSTER)
    assert (rig.pool_root / "ballast").stat().st_blocks > 0


def test_interrupted_mkfs_is_done_again_on_an_empty_image(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    request = rig.stage_request("pg")
    names: list[str] = []
    steps.install(names.append)
    rig.engine.stage(request)
    steps.install(None)
    rig.engine.unstage(Unstage("pg", request.staging_path))
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    rig.engine.ensure_volume(replica("pg"))
    run_killed_at(lambda: rig.engine.stage(request), names.index("flush format"))
    device = rig.engine.observe_volume(POOL, "pg")
    assert device is not None
    with Path(device.device_path).open("r+b") as file:
        file.write(b"\xff" * MIB)
        os.fsync(file.fileno())
    rig.engine.stage(request)
    (rig.staging_path("pg") / "row").write_text("x")


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', "[]", '{"version": 2}'])
def test_damaged_journal_stops_everything_and_nothing_is_touched(rig: Rig, text: str) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    directory = rig.pool_root / "volumes/pg"
    (directory / "volume.json").write_text(text)
    with pytest.raises(DataAtRiskError, match="nothing was touched"):
        rig.engine.ensure_volume(replica("pg"))
    with pytest.raises(DataAtRiskError):
        rig.engine.erase_volume(POOL, "pg", "uid-pg")
    with pytest.raises(DataAtRiskError):
        rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    with pytest.raises(DataAtRiskError):
        rig.engine.stage(rig.stage_request("pg"))
    rig.engine.recover()
    assert sorted(p.name for p in directory.iterdir()) == ["data.img", "volume.json"]
    [facts] = rig.engine.list_volumes(POOL)
    assert "volume.json" in facts.problem


def test_data_without_a_journal_is_never_taken_or_swept(rig: Rig) -> None:
    rig.make_pool()
    directory = rig.pool_root / "volumes/pg"
    directory.mkdir()
    (directory / "data.img").write_bytes(b"somebody's")
    with pytest.raises(DataAtRiskError):
        rig.engine.ensure_volume(replica("pg"))
    rig.engine.recover()
    stray = rig.pool_root / "trash/stray"
    stray.mkdir()
    (stray / "data.img").write_bytes(b"somebody's")
    assert any("stray" in line for line in rig.engine.recover().left_alone)
    assert (directory / "data.img").exists()
    assert (stray / "data.img").exists()


def test_data_of_another_volume_of_that_name_is_never_touched(rig: Rig) -> None:
    path = make_staged(rig)
    other = replica("pg", uid="another-uid")
    for call in (
        lambda: rig.engine.ensure_volume(other),
        lambda: rig.engine.erase_volume(POOL, "pg", "another-uid"),
        lambda: rig.engine.ensure_snapshot(POOL, "snap", "pg", "another-uid"),
        lambda: rig.engine.stage(rig.stage_request("pg"), volume_uid="another-uid"),
    ):
        with pytest.raises(DataAtRiskError, match="another volume"):
            call()
    assert (path / "row").read_text() == "kept"


def test_volume_in_use_is_not_erased(rig: Rig) -> None:
    path = make_staged(rig)
    rig.engine.publish(rig.publish_request("pg"))
    with pytest.raises(InUseError, match="mounted at"):
        rig.engine.erase_volume(POOL, "pg", "uid-pg")
    with pytest.raises(InUseError, match="published"):
        rig.engine.unstage(Unstage("pg", str(path)))
    assert (path / "row").read_text() == "kept"


def test_busy_unmount_says_who(rig: Rig) -> None:
    path = make_staged(rig)
    with (path / "row").open(), pytest.raises(InUseError, match=rf"\({os.getpid()}\)"):
        rig.engine.unstage(Unstage("pg", str(path)))
    rig.engine.unstage(Unstage("pg", str(path)))


def test_shrinking_and_sizes_that_are_none_are_refused(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg", GIB))
    for size in (512 * MIB, 0, -4096, GIB + 1):
        with pytest.raises(InvalidError):
            rig.engine.ensure_volume(replica("pg", size))
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    with pytest.raises(InvalidError, match="source"):
        rig.engine.ensure_volume(replica("back", 512 * MIB, source=Source(snapshot="snap")))
    assert rig.holdings() == {"volume": ["pg"], "snapshot": ["snap"]}


def test_missing_sources_pools_and_volumes_are_named(rig: Rig) -> None:
    rig.make_pool()
    cases: list[tuple[str, Callable[[], object]]] = [
        ("snapshot gone", lambda: rig.engine.ensure_volume(
            replica("back", source=Source(snapshot="gone")))),
        ("volume gone", lambda: rig.engine.ensure_volume(
            replica("copy", source=Source(volume="gone")))),
        ("volume gone", lambda: rig.engine.ensure_snapshot(POOL, "snap", "gone", "u")),
        ("pool slow", lambda: rig.engine.ensure_volume(replace(replica("pg"), pool="slow"))),
        ("volume gone", lambda: rig.engine.stage(rig.stage_request("gone"))),
    ]  # fmt: skip
    for name, call in cases:
        with pytest.raises(NotFoundError, match=name):
            call()
    assert rig.holdings() == {}


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "..", "A", "x" * 64, "a\0b"])
def test_ids_that_are_paths_are_refused(rig: Rig, name: str) -> None:
    rig.make_pool()
    for call in (
        lambda: rig.engine.ensure_volume(replica(name)),
        lambda: rig.engine.erase_volume(POOL, name, "uid"),
        lambda: rig.engine.ensure_snapshot(POOL, name, "pg", "uid"),
        lambda: rig.engine.erase_snapshot(POOL, name),
        lambda: rig.engine.stage(Stage(name, str(rig.staging_path("x")), "Filesystem", "ext4")),
    ):
        with pytest.raises((InvalidError, NotFoundError)):
            call()


def test_snapshot_of_another_volume_is_not_taken_for_this_one(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    rig.engine.ensure_volume(replica("other"))
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    with pytest.raises(AlreadyExistsError):
        rig.engine.ensure_snapshot(POOL, "snap", "other", "uid-other")


def test_wrong_filesystem_is_refused_and_content_kept(rig: Rig) -> None:
    path = make_staged(rig)
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.unstage(Unstage("pg", str(path)))
    with pytest.raises(FailedPreconditionError, match="ext4"):
        rig.engine.stage(rig.stage_request("pg", fs_type="xfs"))
    with pytest.raises(FailedPreconditionError, match="ext4"):
        rig.engine.ensure_volume(replica("back", fs_type="xfs", source=Source(snapshot="snap")))
    with pytest.raises(InvalidError, match="ntfs"):
        rig.engine.stage(rig.stage_request("pg", fs_type="ntfs"))
    rig.engine.stage(rig.stage_request("pg"))
    assert (path / "row").read_text() == "kept"


def test_filesystem_volume_with_foreign_content_is_never_formatted(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    image = rig.pool_root / "volumes/pg/data.img"
    with image.open("r+b") as file:
        file.seek(300 * MIB)
        file.write(b"somebody's data")
    with pytest.raises(FailedPreconditionError, match="never formatted"):
        rig.engine.stage(rig.stage_request("pg"))
    with image.open("rb") as file:
        file.seek(300 * MIB)
        assert file.read(15) == b"somebody's data"


def test_repeated_stage_with_other_wishes_is_refused(rig: Rig) -> None:
    path = make_staged(rig)
    for request in (
        rig.stage_request("pg", read_only=True),
        rig.stage_request("pg", options=("noatime",)),
    ):
        with pytest.raises(AlreadyExistsError):
            rig.engine.stage(request)
    elsewhere = replace(rig.stage_request("pg"), staging_path=str(rig.staging_path("other")))
    with pytest.raises(FailedPreconditionError, match="staged at"):
        rig.engine.stage(elsewhere)
    assert rig.engine.stage(rig.stage_request("pg"))["devicePath"]
    assert (path / "row").read_text() == "kept"


def test_mount_options_and_read_only_reach_the_kernel(rig: Rig) -> None:
    path = make_staged(rig)
    rig.engine.unstage(Unstage("pg", str(path)))
    rig.engine.stage(rig.stage_request("pg", options=("noatime", "commit=17"), read_only=True))
    found = find_mount(path)
    assert found is not None
    assert {"ro", "noatime"} <= found.options
    assert "commit=17" in found.super_options
    with pytest.raises(OSError, match="Read-only"):
        (path / "row").write_text("x")
    rig.engine.unstage(Unstage("pg", str(path)))
    with pytest.raises(FailedPreconditionError, match="nonsense"):
        rig.engine.stage(rig.stage_request("pg", options=("nonsense",)))
    with pytest.raises(InvalidError, match="bind"):
        rig.engine.stage(rig.stage_request("pg", options=("bind",)))


def test_publishing_read_only_and_conflicting_repeats(rig: Rig) -> None:
    make_staged(rig)
    writable = rig.publish_request("pg")
    read_only = replace(rig.publish_request("pg", pod="reader"), read_only=True)
    rig.engine.publish(writable)
    rig.engine.publish(read_only)
    rig.engine.publish(read_only)
    with pytest.raises(OSError, match="Read-only"):
        (rig.target_path("pg", "reader") / "row").write_text("x")
    (rig.target_path("pg") / "row").write_text("new")
    with pytest.raises(AlreadyExistsError):
        rig.engine.publish(replace(writable, read_only=True))
    with pytest.raises(AlreadyExistsError):
        rig.engine.publish(replace(read_only, read_only=False))
    with pytest.raises(FailedPreconditionError, match="one writer"):
        rig.engine.publish(replace(rig.publish_request("pg", pod="2"), single_writer=True))


def test_publish_without_stage_and_stats_without_mount_are_refused(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    with pytest.raises(FailedPreconditionError, match="staged"):
        rig.engine.publish(rig.publish_request("pg"))
    with pytest.raises(NotFoundError):
        rig.engine.stats(Stats("pg", str(rig.target_path("pg"))))
    with pytest.raises(NotFoundError):
        rig.engine.expand(Expand("pg", str(rig.target_path("pg"))))
    rig.engine.stage(rig.stage_request("pg"))
    with pytest.raises(FailedPreconditionError, match="controller grows it first"):
        rig.engine.expand(Expand("pg", str(rig.staging_path("pg")), GIB))


def test_volume_mode_must_be_the_volumes(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("raw", mode=VolumeMode.BLOCK))
    with pytest.raises(FailedPreconditionError, match="mode"):
        rig.engine.stage(rig.stage_request("raw"))
    rig.engine.stage(rig.stage_request("raw", mode="Block"))
    with pytest.raises(FailedPreconditionError, match="mode"):
        rig.engine.publish(rig.publish_request("raw"))


def test_paths_outside_the_kubelets_directory_and_symlinks_are_refused(rig: Rig) -> None:
    make_staged(rig)
    outside = rig.root / "outside"
    outside.mkdir()
    (rig.kubelet / "link").symlink_to(outside)
    for target in (str(outside), f"{rig.kubelet}/../outside", "relative", str(rig.kubelet), ""):
        with pytest.raises(InvalidError):
            rig.engine.publish(Publish("pg", str(rig.staging_path("pg")), target, "Filesystem"))
        with pytest.raises(InvalidError):
            rig.engine.unpublish(Unpublish("pg", target))
    with pytest.raises(InvalidError, match="symlink"):
        rig.engine.publish(
            Publish("pg", str(rig.staging_path("pg")), f"{rig.kubelet}/link/x", "Filesystem")
        )
    with pytest.raises(InvalidError, match="symlink"):
        rig.engine.unpublish(Unpublish("pg", f"{rig.kubelet}/link"))
    assert list(outside.iterdir()) == []


def test_unpublish_never_removes_files(rig: Rig) -> None:
    make_staged(rig)
    target = rig.target_path("pg")
    target.mkdir(parents=True)
    (target / "file").write_text("somebody's")
    with pytest.raises(FailedPreconditionError, match="not empty"):
        rig.engine.unpublish(Unpublish("pg", str(target)))
    assert (target / "file").exists()


def test_foreign_mount_at_a_path_is_left(rig: Rig) -> None:
    make_staged(rig)
    target = rig.target_path("pg")
    target.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(target)], check=True, timeout=10)
    with pytest.raises(FailedPreconditionError, match="not of this volume"):
        rig.engine.publish(rig.publish_request("pg"))
    with pytest.raises(FailedPreconditionError, match="not of this volume"):
        rig.engine.unpublish(Unpublish("pg", str(target)))


def can_write(path: Path, timeout_seconds: float) -> bool:
    """Whether a write ends in time; it runs in a thread of its own, which a frozen one keeps."""
    done = threading.Event()

    def write() -> None:
        path.write_text("x")
        done.set()

    threading.Thread(target=write, daemon=True).start()
    return done.wait(timeout_seconds)


def _index_of(rig: Rig, wanted: str) -> int:
    names: list[str] = []
    steps.install(names.append)
    rig.engine.ensure_snapshot(POOL, "probe", "pg", "uid-pg")
    steps.install(None)
    rig.engine.erase_snapshot(POOL, "probe")
    return names.index(wanted)


def test_filesystem_thaws_by_itself_when_the_agent_is_killed_while_it_is_frozen(rig: Rig) -> None:
    path = make_staged(rig)
    index = _index_of(rig, "reflink")
    run_killed_at(lambda: rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg"), index)
    assert can_write(path / "row", 10)


def test_next_start_thaws_when_the_guard_died_with_the_agent(rig: Rig) -> None:
    path = make_staged(rig)

    def die_with_guard(name: str) -> None:
        if name == "reflink":
            tasks = Path("/proc/self/task")
            for child in (p for t in tasks.iterdir() for p in (t / "children").read_text().split()):
                _kill_tree(int(child))
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        steps.install(die_with_guard)
        rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert not can_write(path / "frozen", 0.5)
    assert rig.new_engine().recover().thawed == (str(path),)
    assert can_write(path / "row", 10)


def _kill_tree(pid: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            _kill_tree(int(child))
    os.kill(pid, signal.SIGKILL)


def test_freeze_that_lasts_too_long_ends_and_is_told(rig: Rig) -> None:
    path = make_staged(rig)
    records = rig.root / "freezes"
    records.mkdir()
    found = find_mount(path)
    assert found is not None
    freezer = Freezer(records, timeout_seconds=0.2)
    with pytest.raises(DeadlineError, match="thawed"), freezer.frozen(found, "x"):
        assert can_write(path / "row", 10)
    assert list(records.iterdir()) == []


def test_filesystem_frozen_by_somebody_else_stays_so(rig: Rig) -> None:
    path = make_staged(rig)
    fd = os.open(path, os.O_RDONLY)
    fcntl.ioctl(fd, FIFREEZE, 0)
    try:
        with pytest.raises(BusyError, match="somebody else"):
            rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
        rig.engine.recover()
        assert not can_write(path / "frozen", 0.5)
    finally:
        fcntl.ioctl(fd, 0xC0045878, 0)
        os.close(fd)
    assert rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg").ready


def test_attaching_in_parallel_gives_each_volume_a_device_of_its_own(rig: Rig) -> None:
    rig.make_pool()
    names = [f"v{n}" for n in range(12)]
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            rig.engine.ensure_volume(replica(name, mode=VolumeMode.BLOCK))
            for _ in range(3):
                rig.engine.stage(rig.stage_request(name, mode="Block"))
                rig.engine.unstage(Unstage(name, str(rig.staging_path(name))))
            rig.engine.stage(rig.stage_request(name, mode="Block"))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    used = {facts.device_path for facts in rig.engine.list_volumes(POOL)}
    assert len(used - {""}) == len(names)


def test_unused_device_of_a_killed_stage_is_detached_at_start(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    loop.attach(rig.pool_root / "volumes/pg/data.img")
    assert len(rig.new_engine().recover().detached) == 1
    assert rig.holdings() == {"volume": ["pg"]}


def test_device_with_small_sectors_or_buffered_io_is_not_accepted(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    image = rig.pool_root / "volumes/pg/data.img"
    subprocess.run(["losetup", "--find", str(image)], check=True, timeout=10)
    with pytest.raises(FailedPreconditionError, match="direct I/O"):
        rig.engine.stage(rig.stage_request("pg"))
    device = loop.find_device(image)
    assert device is not None
    loop.detach(device)
    rig.engine.stage(rig.stage_request("pg"))
