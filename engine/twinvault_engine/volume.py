"""Volumes of a pool: ``volumes/<volume_id>/`` with the image and its journal.

Creation: 1. directory  2. journal, not ready  3. image, filled and fsynced  4. journal, ready.
Killed anywhere, the next call finds what is there by the journal and goes on; a volume that is
not ready has never been attached, so its image may be made again.
"""

from __future__ import annotations

import logging
from pathlib import Path

from twinvault_core.errors import (
    BusyError,
    DataAtRiskError,
    FailedPreconditionError,
    InUseError,
    InvalidError,
    NoSpaceError,
    NotFoundError,
    TwinvaultError,
)
from twinvault_core.model import VolumeMode, VolumeReplica
from twinvault_core.sizing import BLOCK_BYTES

from . import ballast, durable, filesystem, image, journal, loop, trash
from .attachment import choose_device, observe_attachment
from .facts import VolumeFacts
from .freeze import Freezer
from .journal import DATA_FILE, Format, SnapshotRecord, VolumeRecord
from .layout import PoolDirectory
from .mountinfo import mounts_of_device
from .space import require_space
from .steps import step

logger = logging.getLogger(__name__)


class Volumes:
    """Creates, grows, lists and erases volumes; one volume is one caller's at a time."""

    def __init__(self, freezer: Freezer) -> None:
        self._freezer = freezer

    def ensure(self, pool: PoolDirectory, replica: VolumeReplica) -> VolumeFacts:
        directory = pool.volume(replica.volume)
        if replica.size_bytes <= 0 or replica.size_bytes % BLOCK_BYTES:
            raise InvalidError(
                f"volume {replica.volume}: {replica.size_bytes} bytes is no size; use a positive"
                f" multiple of {BLOCK_BYTES}"
            )
        record = journal.load_volume(directory)
        if record is not None and record.deleted:
            trash.discard(pool, directory)
            record = None
        if record is not None:
            require_same(record, replica.volume_uid, directory)
        if record is None or not record.ready:
            record = self._create(pool, directory, replica)
        self._grow(directory, record, replica.size_bytes)
        return observe_in(pool, directory)

    def _create(self, pool: PoolDirectory, directory: Path, replica: VolumeReplica) -> VolumeRecord:
        require_space(pool, f"volume {replica.volume}")
        source = find_source(pool, replica)
        record = VolumeRecord(
            volume_id=replica.volume,
            volume_uid=replica.volume_uid,
            volume_mode=replica.volume_mode,
            fs_type=replica.fs_type or (source.fs_type if source else ""),
            size_bytes=replica.size_bytes,
            source_snapshot=replica.source.snapshot,
            source_volume=replica.source.volume,
            format=source.format if source else Format.NEVER,
        )
        step("create volume directory")
        durable.make_directory(directory)
        record = journal.save_volume(directory, record)
        data = directory / DATA_FILE
        if source is None:
            image.make_blank(data, replica.size_bytes)
        elif isinstance(source, SnapshotRecord):
            image.make_copy(pool.snapshot(source.snapshot_id) / DATA_FILE, data, replica.size_bytes)
        else:
            self._copy_volume(pool, source, data, replica)
        return journal.save_volume(directory, record, ready=True)

    def _copy_volume(
        self, pool: PoolDirectory, source: VolumeRecord, data: Path, replica: VolumeReplica
    ) -> None:
        origin = pool.volume(source.volume_id)
        instant = image.freeze_users(origin / DATA_FILE, self._freezer, f"clone-{replica.volume}")
        image.make_copy(origin / DATA_FILE, data, replica.size_bytes, instant=instant)
        require_unchanged(origin, source)

    def _grow(self, directory: Path, record: VolumeRecord, size_bytes: int) -> None:
        if size_bytes < record.size_bytes:
            raise InvalidError(
                f"volume {record.volume_id} has {record.size_bytes} bytes and cannot shrink to"
                f" {size_bytes}; copy its data to a smaller volume instead"
            )
        image.grow(directory / DATA_FILE, size_bytes)
        if size_bytes > record.size_bytes:
            journal.save_volume(directory, record, size_bytes=size_bytes)
            grow_where_mounted(directory / DATA_FILE)

    def erase(self, pool: PoolDirectory, volume_id: str, volume_uid: str) -> None:
        """See ``Engine.erase_volume``."""
        directory = pool.volume(volume_id)
        record = journal.load_volume(directory)
        if record is None:
            if directory.exists():
                trash.discard(pool, directory)
            return
        require_same(record, volume_uid, directory)
        refuse_attached(directory / DATA_FILE, volume_id)
        if not record.deleted:
            step("mark deleted")
            _mark_deleted(pool, directory, record)
        trash.discard(pool, directory)


def require_same(record: VolumeRecord, volume_uid: str, directory: Path) -> None:
    """DataAtRiskError unless the data is of the volume with this UID."""
    if record.volume_uid != volume_uid:
        raise DataAtRiskError(
            f"{directory} holds the data of another volume named {record.volume_id} (UID"
            f" {record.volume_uid}, asked for {volume_uid}); nothing was touched. If it is not"
            " needed list it in spec.eraseOrphans of the StorageNode"
        )


def require_unchanged(origin: Path, source: VolumeRecord) -> None:
    """BusyError when the source was formatted or erased while it was being copied."""
    now = journal.load_volume(origin)
    if now is None or (now.volume_uid, now.format) != (source.volume_uid, source.format):
        raise BusyError(f"volume {source.volume_id} changed while it was copied; try again")


def find_source(
    pool: PoolDirectory, replica: VolumeReplica
) -> SnapshotRecord | VolumeRecord | None:
    """What the new volume starts from; None for blank. NotFoundError, InvalidError or
    FailedPreconditionError when that cannot be.
    """
    source: SnapshotRecord | VolumeRecord | None
    if replica.source.snapshot:
        source = journal.load_snapshot(pool.snapshot(replica.source.snapshot))
        what = f"snapshot {replica.source.snapshot}"
    elif replica.source.volume:
        source = journal.load_volume(pool.volume(replica.source.volume))
        what = f"volume {replica.source.volume}"
    else:
        return None
    if source is None or source.deleted:
        raise NotFoundError(f"{what}, the source of volume {replica.volume}, is not in this pool")
    if not source.ready:
        raise BusyError(f"{what}, the source of volume {replica.volume}, is not finished; wait")
    if replica.size_bytes < source.size_bytes:
        raise InvalidError(
            f"volume {replica.volume}: {replica.size_bytes} bytes are less than the"
            f" {source.size_bytes} of its source {what}"
        )
    if source.format is Format.DONE and replica.fs_type not in ("", source.fs_type):
        raise FailedPreconditionError(
            f"{what} holds {source.fs_type}, volume {replica.volume} asks for {replica.fs_type};"
            " use a class with the same fsType"
        )
    return source


def refuse_attached(data: Path, volume_id: str) -> None:
    """InUseError while a device is bound to the image."""
    device = choose_device(data)
    if device is None:
        return
    where = ", ".join(m.path for m in mounts_of_device(device.major_minor)[:3])
    raise InUseError(
        f"volume {volume_id} is attached as {device.path}"
        f"{f' and mounted at {where}' if where else ''}; end the pod that uses it and wait for"
        " it to be unstaged"
    )


def grow_where_mounted(data: Path) -> None:
    """Give the pod its new space now: kubelet asks for it (``Engine.expand``) only at the next
    sync of the pod, up to a minute and a half later. It is that call which must succeed, so a
    failure here is only logged.
    """
    attached = observe_attachment(data)
    writable = [m for m in attached.filesystem_mounts if not m.read_only] if attached else []
    if not attached or not writable:
        return
    mount = writable[0]
    try:
        size = loop.read_size(attached.device)
        filesystem.grow_mounted(attached.device.path, mount.path, mount.fs_type, size)
    except TwinvaultError as error:
        logger.warning("%s grows when kubelet asks for it: %s", mount.path, error.message)


def observe_in(pool: PoolDirectory, directory: Path) -> VolumeFacts:
    """Facts of the volume in ``directory``; NotFoundError when there is none."""
    record = journal.load_volume(directory)
    if record is None or record.deleted:
        raise NotFoundError(f"there is no volume {directory.name} in pool {pool.name}")
    data = directory / DATA_FILE
    device = choose_device(data) if record.ready else None
    usage = image.observe_usage(data) if record.ready else image.Usage(record.size_bytes, 0, 0)
    return VolumeFacts(
        pool=pool.name,
        volume_id=record.volume_id,
        volume_uid=record.volume_uid,
        size_bytes=usage.size_bytes,
        allocated_bytes=usage.allocated_bytes,
        extents=usage.extents,
        volume_mode=record.volume_mode,
        fs_type=record.fs_type,
        ready=record.ready,
        device_path=device.path if device else "",
        in_use=device is not None,
    )


def observe_or_problem(pool: PoolDirectory, volume_id: str) -> VolumeFacts | None:
    """As ``observe_in``, with an unreadable journal as a fact; None when there is no volume."""
    try:
        return observe_in(pool, pool.volume(volume_id))
    except NotFoundError:
        return None
    except (DataAtRiskError, OSError) as error:
        return VolumeFacts(
            pool=pool.name,
            volume_id=volume_id,
            volume_uid="",
            size_bytes=0,
            allocated_bytes=0,
            extents=0,
            volume_mode=VolumeMode.FILESYSTEM,
            fs_type="",
            ready=False,
            problem=str(error),
        )


def _mark_deleted(pool: PoolDirectory, directory: Path, record: VolumeRecord) -> None:
    try:
        journal.save_volume(directory, record, deleted=True)
    except NoSpaceError:
        ballast.spend(pool)
        journal.save_volume(directory, record, deleted=True)
