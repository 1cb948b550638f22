"""The life of volumes as a state machine: any order of calls, killed at any step.

The files are real, in a temporary directory; loop devices and reflinks are not needed for blank
volumes. A kill is an exception that nothing in the engine catches.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from twinvault_core.errors import DataAtRiskError, InvalidError
from twinvault_core.model import Meta, VolumeMode, VolumeReplica
from twinvault_engine import journal, loop, steps, trash
from twinvault_engine.freeze import Freezer
from twinvault_engine.journal import Format
from twinvault_engine.layout import PoolDirectory
from twinvault_engine.volume import Volumes

KIB = 1024
UIDS = ("first", "second")
sizes = st.integers(1, 8).map(lambda n: n * 4 * KIB)
kill_points = st.one_of(st.none(), st.integers(0, 25))


class Killed(BaseException):
    pass


def replica(uid: str, size_bytes: int) -> VolumeReplica:
    return VolumeReplica(Meta("v.n"), "v", uid, "n", "east", "fast", size_bytes, fs_type="ext4")


class VolumeLife(RuleBasedStateMachine):
    """``uid`` and ``size`` are what must be there; None when a kill left it open."""

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.pool = PoolDirectory("fast", Path(self.directory.name))
        self.pool.prepare()
        self.volumes = Volumes(Freezer(self.pool.root))
        self.owner: str | None = None
        self.size = 0
        self.certain = True

    def teardown(self) -> None:
        steps.install(None)
        if hasattr(self, "directory"):
            self.directory.cleanup()

    def run_until(self, kill_point: int | None, call: Callable[[], object]) -> bool:
        """Whether ``call`` ended before its step number ``kill_point``."""
        count = 0

        def hook(_: str) -> None:
            nonlocal count
            if count == kill_point:
                raise Killed
            count += 1

        steps.install(hook)
        try:
            call()
        except Killed:
            return False
        finally:
            steps.install(None)
        return True

    @rule(uid=st.sampled_from(UIDS), size=sizes, kill_point=kill_points)
    def ensure(self, uid: str, size: int, kill_point: int | None) -> None:
        record = journal.load_volume(self.pool.volume("v"))
        alive = record is not None and not record.deleted
        other = record is not None and alive and record.volume_uid != uid
        shrinks = record is not None and alive and record.ready and size < record.size_bytes
        try:
            done = self.run_until(
                kill_point, lambda: self.volumes.ensure(self.pool, replica(uid, size))
            )
        except DataAtRiskError:
            assert other
            return
        except InvalidError:
            assert shrinks
            return
        self.certain = done
        if done:
            assert not other
            self.owner, self.size = uid, size

    @rule(uid=st.sampled_from(UIDS), kill_point=kill_points)
    def erase(self, uid: str, kill_point: int | None) -> None:
        record = journal.load_volume(self.pool.volume("v"))
        other = record is not None and record.volume_uid != uid
        try:
            done = self.run_until(kill_point, lambda: self.volumes.erase(self.pool, "v", uid))
        except DataAtRiskError:
            assert other
            return
        self.certain = done
        if done:
            assert not other
            self.owner, self.size = None, 0

    @rule()
    def start_again(self) -> None:
        _, left = trash.sweep(self.pool)
        assert left == []
        assert list(self.pool.trash.iterdir()) == []

    @invariant()
    def journal_is_readable_and_speaks_the_truth(self) -> None:
        if not hasattr(self, "pool"):
            return
        directory = self.pool.volume("v")
        record = journal.load_volume(directory)
        if record is not None and record.ready and not record.deleted:
            assert (directory / "data.img").stat().st_size >= record.size_bytes
        if not self.certain:
            return
        if self.owner is None:
            assert record is None
        else:
            assert record is not None
            assert record.ready
            assert (record.volume_uid, record.size_bytes) == (self.owner, self.size)
            assert record.format is Format.NEVER


@pytest.mark.usefixtures("no_loop_devices")
class TestVolumeLife(VolumeLife.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.fixture
def no_loop_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "find_device", lambda _: None)


FIELDS = {
    "volume_id": "v", "volume_uid": "u", "volume_mode": "Filesystem", "fs_type": "ext4",
    "size_bytes": 4096, "source_snapshot": "", "source_volume": "", "format": "never",
    "ready": True, "deleted": False, "version": 1,
}  # fmt: skip


def test_record_survives_a_round_trip(tmp_path: Path) -> None:
    record = journal.VolumeRecord.parse(FIELDS, tmp_path / "volume.json")
    assert journal.save_volume(tmp_path, record, size_bytes=8192).size_bytes == 8192
    loaded = journal.load_volume(tmp_path)
    assert loaded is not None
    assert (loaded.size_bytes, loaded.volume_mode) == (8192, VolumeMode.FILESYSTEM)


@pytest.mark.parametrize("field", FIELDS)
def test_missing_or_wrong_field_is_damage(tmp_path: Path, field: str) -> None:
    without = {name: value for name, value in FIELDS.items() if name != field}
    for raw in (without, {**FIELDS, field: []}, {**FIELDS, field: None}):
        with pytest.raises(DataAtRiskError, match="nothing was touched"):
            journal.VolumeRecord.parse(raw, tmp_path / "volume.json")


def test_unknown_field_and_unknown_value_are_damage(tmp_path: Path) -> None:
    for raw in ({**FIELDS, "more": 1}, {**FIELDS, "format": "maybe"}, {**FIELDS, "ready": 1}):
        with pytest.raises(DataAtRiskError):
            journal.VolumeRecord.parse(raw, tmp_path / "volume.json")


def test_directory_with_files_and_no_journal_is_not_taken(tmp_path: Path) -> None:
    with suppress(FileNotFoundError):
        assert journal.load_volume(tmp_path / "none") is None
    assert journal.load_volume(tmp_path) is None
    (tmp_path / "volume.json.tmp").touch()
    assert journal.load_volume(tmp_path) is None
    (tmp_path / "data.img").touch()
    with pytest.raises(DataAtRiskError, match=r"no volume\.json"):
        journal.load_volume(tmp_path)
