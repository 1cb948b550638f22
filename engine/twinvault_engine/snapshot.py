"""Snapshots of a pool: ``snapshots/<snapshot_id>/``, read-only copies that outlive their volume.

1. directory and journal, not ready  2. filesystem frozen, image reflinked, thawed  3. image
fsynced  4. journal, ready. Killed before 4 the copy is made again: nobody was told of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from twinvault_core.errors import AlreadyExistsError, BusyError, NoSpaceError, NotFoundError

from . import ballast, durable, image, journal, trash
from .facts import SnapshotFacts
from .freeze import Freezer
from .journal import DATA_FILE, SnapshotRecord, VolumeRecord
from .layout import PoolDirectory
from .space import require_space
from .steps import step
from .volume import require_same, require_unchanged


class Snapshots:
    """Takes, lists and erases snapshots; one snapshot is one caller's at a time."""

    def __init__(self, freezer: Freezer, clock: Callable[[], datetime]) -> None:
        self._freezer = freezer
        self._clock = clock

    def ensure(
        self,
        pool: PoolDirectory,
        snapshot_id: str,
        volume_id: str,
        volume_uid: str,
        *,
        quiesced: bool = False,
    ) -> SnapshotFacts:
        """See ``Engine.ensure_snapshot``."""
        directory = pool.snapshot(snapshot_id)
        record = journal.load_snapshot(directory)
        if record is not None and record.deleted:
            trash.discard(pool, directory)
            record = None
        if record is not None and (record.volume_id, record.volume_uid) != (volume_id, volume_uid):
            raise AlreadyExistsError(
                f"snapshot {snapshot_id} is of volume {record.volume_id} (UID"
                f" {record.volume_uid}); take the new one under another name"
            )
        if record is None or not record.ready:
            volume = self._find_volume(pool, volume_id, volume_uid)
            self._take(pool, directory, volume, quiesced=quiesced)
        return observe_in(pool, directory)

    def _find_volume(self, pool: PoolDirectory, volume_id: str, volume_uid: str) -> VolumeRecord:
        directory = pool.volume(volume_id)
        volume = journal.load_volume(directory)
        if volume is None or volume.deleted:
            raise NotFoundError(f"there is no volume {volume_id} in pool {pool.name}")
        require_same(volume, volume_uid, directory)
        if not volume.ready:
            raise BusyError(f"volume {volume_id} is still being made; try again")
        return volume

    def _take(
        self, pool: PoolDirectory, directory: Path, volume: VolumeRecord, *, quiesced: bool
    ) -> None:
        require_space(pool, f"snapshot {directory.name}")
        origin = pool.volume(volume.volume_id)
        record = SnapshotRecord(
            snapshot_id=directory.name,
            volume_id=volume.volume_id,
            volume_uid=volume.volume_uid,
            volume_mode=volume.volume_mode,
            fs_type=volume.fs_type,
            size_bytes=volume.size_bytes,
            format=volume.format,
        )
        step("create snapshot directory")
        durable.make_directory(directory)
        record = journal.save_snapshot(directory, record)
        freeze: AbstractContextManager[None] = nullcontext()
        if not quiesced:
            name = f"snapshot-{directory.name}"
            freeze = image.freeze_users(origin / DATA_FILE, self._freezer, name)
        taken: list[datetime] = []
        image.make_copy(
            origin / DATA_FILE,
            directory / DATA_FILE,
            0,
            mode=0o400,
            instant=self._noting_time(freeze, taken),
        )
        require_unchanged(origin, volume)
        journal.save_snapshot(
            directory,
            record,
            size_bytes=(directory / DATA_FILE).stat().st_size,
            creation_time=taken[0].astimezone(UTC).isoformat().replace("+00:00", "Z"),
            ready=True,
        )

    @contextmanager
    def _noting_time(
        self, freeze: AbstractContextManager[None], taken: list[datetime]
    ) -> Iterator[None]:
        with freeze:
            taken.append(self._clock())
            yield

    def erase(self, pool: PoolDirectory, snapshot_id: str) -> None:
        directory = pool.snapshot(snapshot_id)
        record = journal.load_snapshot(directory)
        if record is None:
            if directory.exists():
                trash.discard(pool, directory)
            return
        if not record.deleted:
            step("mark deleted")
            _mark_deleted(pool, directory, record)
        trash.discard(pool, directory)


def observe_in(pool: PoolDirectory, directory: Path) -> SnapshotFacts:
    """Facts of the snapshot in ``directory``; NotFoundError when there is none."""
    record = journal.load_snapshot(directory)
    if record is None or record.deleted:
        raise NotFoundError(f"there is no snapshot {directory.name} in pool {pool.name}")
    allocated = image.observe_usage(directory / DATA_FILE).allocated_bytes if record.ready else 0
    return SnapshotFacts(
        pool=pool.name,
        snapshot_id=record.snapshot_id,
        volume_id=record.volume_id,
        volume_uid=record.volume_uid,
        size_bytes=record.size_bytes,
        allocated_bytes=allocated,
        volume_mode=record.volume_mode,
        fs_type=record.fs_type,
        creation_time=record.creation_time,
        ready=record.ready,
    )


def _mark_deleted(pool: PoolDirectory, directory: Path, record: SnapshotRecord) -> None:
    try:
        journal.save_snapshot(directory, record, deleted=True)
    except NoSpaceError:
        ballast.spend(pool)
        journal.save_snapshot(directory, record, deleted=True)
