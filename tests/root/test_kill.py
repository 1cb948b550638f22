"""The engine is killed between every two steps of each operation; then it goes on.

For every step: the state before is made, a child process is killed at that step, a new engine
recovers and does the operation again. The result must be as if nothing had happened, and nothing
may be left over.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.root.rig import CLUSTER, GIB, MIB, POOL, Rig, replica, run_killed_at
from twinvault_core.agent_api import Expand, Unpublish, Unstage
from twinvault_core.model import PoolSpec, PoolState, Source
from twinvault_engine import loop, mount
from twinvault_engine.engine import Engine

MOST_STEPS = 100


def kill_at_every_step(
    rig: Rig, operation: Callable[[Engine], object], check: Callable[[str], None]
) -> list[str]:
    """Names of the steps that were met. ``check`` verifies the result and restores the state."""
    met: list[str] = []
    for index in range(MOST_STEPS):
        name = run_killed_at(lambda: operation(rig.new_engine()), index)
        rig.engine = rig.new_engine()
        recovery = rig.engine.recover()
        assert recovery.left_alone == (), f"killed at {name}: {recovery.left_alone}"
        operation(rig.engine)
        check(f"killed at step {index}: {name}")
        if name is None:
            return met
        met.append(name)
    raise AssertionError(f"more than {MOST_STEPS} steps")


def unstage(rig: Rig, name: str) -> None:
    rig.engine.unstage(Unstage(name, str(rig.staging_path(name))))


def test_making_a_pool(rig: Rig) -> None:
    disk = rig.add_disk(700 * MIB)
    image = Path(disk.backing_file)
    spec = PoolSpec(POOL, paths=(disk.path,))

    def operation(engine: Engine) -> None:
        status = engine.ensure_pool(spec, CLUSTER)
        assert status.state is PoolState.READY, status

    def check(when: str) -> None:
        assert rig.holdings() == {}, when
        mount.unmount(rig.pool_root)
        (rig.root / f"data/records/pools/{POOL}.json").unlink()
        with image.open("r+b") as file:
            file.truncate(0)
            file.truncate(700 * MIB)
        fd = os.open(disk.path, os.O_RDWR)
        os.fsync(fd)
        os.close(fd)
        loop.drop_cache(disk)

    steps = kill_at_every_step(rig, operation, check)
    assert "mkfs pool" in steps
    assert "write marker" in steps


def test_creating_a_blank_volume(rig: Rig) -> None:
    rig.make_pool()

    def check(when: str) -> None:
        facts = rig.engine.observe_volume(POOL, "pg")
        assert facts is not None, when
        assert (facts.ready, facts.size_bytes, facts.extents) == (True, 512 * MIB, 0), when
        assert rig.holdings() == {"volume": ["pg"]}, when
        rig.engine.erase_volume(POOL, "pg", "uid-pg")

    kill_at_every_step(rig, lambda engine: engine.ensure_volume(replica("pg")), check)


def _make_source(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    rig.engine.stage(rig.stage_request("pg"))
    (rig.staging_path("pg") / "row").write_text("kept")


def _check_copy(rig: Rig, name: str, when: str, kept: dict[str, list[str]]) -> None:
    """The volume ``name`` holds the source's row; nothing else has come up."""
    assert rig.holdings() == kept, when
    rig.engine.stage(rig.stage_request(name))
    assert (rig.staging_path(name) / "row").read_text() == "kept", when
    unstage(rig, name)
    rig.engine.erase_volume(POOL, name, f"uid-{name}")


def test_staging_anew_below_kubelets_back(rig: Rig) -> None:
    """A volume that became replicated; here without DRBD, so that only the steps are met."""
    _make_source(rig)
    before = rig.holdings()

    def operation(engine: Engine) -> None:
        stage = engine.lift("pg", replicated=True)
        assert stage is not None
        assert not (rig.staging_path("pg") / "row").exists()
        assert stage == rig.stage_request("pg")
        engine.stage(stage)

    def check(when: str) -> None:
        assert rig.holdings() == before, when
        assert (rig.staging_path("pg") / "row").read_text() == "kept", when
        assert rig.engine.lift("pg", replicated=False) is None, when

    steps = kill_at_every_step(rig, operation, check)
    assert "lift" in steps
    rig.engine.publish(rig.publish_request("pg"))
    assert rig.engine.lift("pg", replicated=True) is None, "a pod has it"


def test_restoring_a_snapshot(rig: Rig) -> None:
    _make_source(rig)
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    unstage(rig, "pg")
    wanted = replica("back", source=Source(snapshot="snap"))
    kept = {"snapshot": ["snap"], "volume": ["back", "pg"]}
    steps = kill_at_every_step(
        rig,
        lambda engine: engine.ensure_volume(wanted),
        lambda when: _check_copy(rig, "back", when, kept),
    )
    assert "reflink" in steps


def test_cloning_a_mounted_volume(rig: Rig) -> None:
    _make_source(rig)
    before = rig.holdings()
    wanted = replica("copy", source=Source(volume="pg"))
    kept = {**before, "volume": ["copy", "pg"]}
    steps = kill_at_every_step(
        rig,
        lambda engine: engine.ensure_volume(wanted),
        lambda when: _check_copy(rig, "copy", when, kept),
    )
    assert {"record freeze", "freeze", "frozen", "reflink", "thaw"} <= set(steps)


def test_staging_a_new_volume(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))

    def check(when: str) -> None:
        path = rig.staging_path("pg")
        (path / "row").write_text("kept")
        unstage(rig, "pg")
        assert rig.holdings() == {"volume": ["pg"]}, when
        rig.engine.stage(rig.stage_request("pg"))
        assert (path / "row").read_text() == "kept", when
        unstage(rig, "pg")
        rig.engine.erase_volume(POOL, "pg", "uid-pg")
        rig.engine.ensure_volume(replica("pg"))

    steps = kill_at_every_step(rig, lambda engine: engine.stage(rig.stage_request("pg")), check)
    assert {"configure loop", "mark format started", "mkfs ext4", "mount ext4"} <= set(steps)


def test_staging_a_used_volume_never_formats_it(rig: Rig) -> None:
    _make_source(rig)
    unstage(rig, "pg")

    def check(when: str) -> None:
        assert (rig.staging_path("pg") / "row").read_text() == "kept", when
        unstage(rig, "pg")
        assert rig.holdings() == {"volume": ["pg"]}, when

    steps = kill_at_every_step(rig, lambda engine: engine.stage(rig.stage_request("pg")), check)
    assert "mkfs ext4" not in steps


def test_unstaging(rig: Rig) -> None:
    _make_source(rig)

    def check(when: str) -> None:
        assert rig.holdings() == {"volume": ["pg"]}, when
        rig.engine.stage(rig.stage_request("pg"))
        assert (rig.staging_path("pg") / "row").read_text() == "kept", when

    path = str(rig.staging_path("pg"))
    kill_at_every_step(rig, lambda engine: engine.unstage(Unstage("pg", path)), check)


def test_publishing_and_unpublishing(rig: Rig) -> None:
    _make_source(rig)
    before = rig.holdings()
    target = rig.target_path("pg")

    def published(when: str) -> None:
        assert (target / "row").read_text() == "kept", when
        rig.engine.unpublish(Unpublish("pg", str(target)))
        assert rig.holdings() == before, when

    kill_at_every_step(rig, lambda engine: engine.publish(rig.publish_request("pg")), published)

    def unpublished(when: str) -> None:
        assert rig.holdings() == before, when
        assert not target.exists(), when
        rig.engine.publish(rig.publish_request("pg"))

    rig.engine.publish(rig.publish_request("pg"))
    kill_at_every_step(
        rig, lambda engine: engine.unpublish(Unpublish("pg", str(target))), unpublished
    )


def test_snapshot_of_a_mounted_volume(rig: Rig) -> None:
    _make_source(rig)
    before = rig.holdings()

    def check(when: str) -> None:
        facts = rig.engine.observe_snapshot(POOL, "snap")
        assert facts is not None, when
        assert facts.ready, when
        (rig.staging_path("pg") / "writable").write_text(when)
        assert rig.holdings() == {**before, "snapshot": ["snap"]}, when
        rig.engine.ensure_volume(replica("back", source=Source(snapshot="snap")))
        kept = {**before, "snapshot": ["snap"], "volume": ["back", "pg"]}
        _check_copy(rig, "back", when, kept)
        rig.engine.erase_snapshot(POOL, "snap")

    kill_at_every_step(
        rig, lambda engine: engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg"), check
    )


def test_expanding_a_mounted_volume(rig: Rig) -> None:
    rig.make_pool()
    sizes = iter(range(GIB, 100 * GIB, 64 * MIB))
    size = 512 * MIB
    rig.engine.ensure_volume(replica("pg", size, fs_type="xfs"))
    rig.engine.stage(rig.stage_request("pg", fs_type="xfs"))
    path = rig.staging_path("pg")
    (path / "row").write_text("kept")
    before = rig.holdings()
    blocks = os.statvfs(path).f_blocks
    size = next(sizes)

    def operation(engine: Engine) -> None:
        engine.ensure_volume(replica("pg", size, fs_type="xfs"))
        assert engine.expand(Expand("pg", str(path), size)) == {"sizeBytes": size}

    def check(when: str) -> None:
        nonlocal size, blocks
        assert os.statvfs(path).f_blocks > blocks, when
        assert (path / "row").read_text() == "kept", when
        assert rig.holdings() == before, when
        blocks = os.statvfs(path).f_blocks
        size = next(sizes)

    steps = kill_at_every_step(rig, operation, check)
    assert {"grow image", "grow device", "grow xfs"} <= set(steps)


def test_erasing_a_volume(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))

    def check(when: str) -> None:
        assert rig.holdings() == {}, when
        rig.engine.ensure_volume(replica("pg"))

    steps = kill_at_every_step(rig, lambda engine: engine.erase_volume(POOL, "pg", "uid-pg"), check)
    assert {"mark deleted", "move to trash", "unlink data.img", "unlink volume.json"} <= set(steps)


def test_erasing_a_snapshot(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")

    def check(when: str) -> None:
        assert rig.holdings() == {"volume": ["pg"]}, when
        rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")

    kill_at_every_step(rig, lambda engine: engine.erase_snapshot(POOL, "snap"), check)
