"""Stage and unstage: attach, format if never used, mount, grow; and back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import Stage, Unstage
from twinvault_core.errors import (
    AlreadyExistsError,
    BusyError,
    DataAtRiskError,
    FailedPreconditionError,
    InUseError,
    InvalidError,
    NoSpaceError,
    NotFoundError,
    TwinvaultError,
)
from twinvault_core.model import VolumeMode

from . import filesystem, image, journal, loop, mount, paths
from .attachment import Attachment, attach, detach, observe_attachment, require_ours
from .filesystem import Identity
from .freeze import read_boot_id
from .journal import DATA_FILE, Format, VolumeRecord
from .layout import PoolDirectory
from .pool import Pools
from .space import is_full
from .staged_record import StagedRecord, StagedRecords
from .steps import step
from .volume import require_same


def find_volume(pools: Pools, volume_id: str, pool: str = "") -> tuple[PoolDirectory, VolumeRecord]:
    """The pool and journal of a volume; NotFoundError when no mounted pool has it.

    FailedPreconditionError when two have a volume of that name and ``pool`` does not say which.
    """
    where = (pools.directory(pool),) if pool else pools.mounted()
    found = []
    for candidate in where:
        record = journal.load_volume(candidate.volume(volume_id))
        if record is not None and not record.deleted:
            found.append((candidate, record))
    if len(found) > 1:
        names = ", ".join(directory.name for directory, _ in found)
        raise FailedPreconditionError(
            f"pools {names} each hold a volume {volume_id}; erase the left-over one"
        )
    if not found:
        raise NotFoundError(f"volume {volume_id} is in no pool that is mounted on this node")
    return found[0]


class Staging:
    """Staging for one node; one volume is one caller's at a time."""

    def __init__(self, pools: Pools, records: StagedRecords, kubelet_dir: Path) -> None:
        self._pools = pools
        self._records = records
        self._kubelet_dir = kubelet_dir

    def stage(self, request: Stage, pool_name: str, volume_uid: str) -> dict[str, Any]:
        path = paths.parse_below(self._kubelet_dir, request.staging_path, "staging path")
        mount.parse_options(request.mount_options)
        pool, volume = find_volume(self._pools, request.volume_id, pool_name)
        directory = pool.volume(request.volume_id)
        if volume_uid:
            require_same(volume, volume_uid, directory)
        wanted = _plan_record(request, volume, pool)
        before = self._records.load(request.volume_id)
        wanted = replace(wanted, lifted=before is not None and before.lifted)
        attached = observe_attachment(directory / DATA_FILE)
        if before is not None and attached is not None:
            _refuse_conflict(before, wanted, attached)
        if before is None or replace(before, complete=False) != wanted:
            self._records.save(wanted)
        fresh = before is None and attached is None
        attached = attach(directory / DATA_FILE)
        try:
            image.refresh_device(directory / DATA_FILE)
            if wanted.volume_mode == VolumeMode.BLOCK:
                loop.set_read_only(attached.device, request.read_only)
            else:
                self._mount(pool, volume, wanted, path, attached)
        except TwinvaultError as error:
            if fresh and not error.retryable:
                self._take_back(request.volume_id, directory / DATA_FILE)
            raise
        if before is None or not before.complete or before.lifted:
            self._records.save(replace(wanted, complete=True, lifted=False))
        return {"devicePath": attached.device.path}

    def lift(self, volume_id: str, replicated: bool) -> Stage | None:
        """What must be staged anew before a pod gets the volume; None when nothing must.

        For a volume that is to be ``replicated`` and was staged without that: kubelet keeps it
        staged between two pods that follow each other on a node, so when nobody has it, it is
        unmounted here, and the record remembers what kubelet believes until it is so again.
        """
        record = self._records.load(volume_id)
        if record is None or not (record.lifted or (replicated and record.complete)):
            return None
        data = self._find_data(volume_id)
        if data is None:
            return None
        attached, path = observe_attachment(data), Path(record.staging_path)
        bare = replicated and attached is not None and not attached.replicated
        if attached is not None and bare and not attached.others(path):
            self._records.save(replace(record, lifted=True))
            step("lift")
            if require_ours(path, attached) is not None:
                mount.unmount(path)
            detach(data, attached.device)
        elif not record.lifted:
            return None
        return Stage(
            volume_id,
            record.staging_path,
            record.volume_mode,
            record.fs_type,
            record.mount_options,
            record.read_only,
        )

    def _take_back(self, volume_id: str, data: Path) -> None:
        """After a refusal for good nobody calls unstage: what this call attached would stay."""
        attached = observe_attachment(data)
        if attached is not None and not attached.filesystem_mounts:
            detach(data, attached.device)
            self._records.remove(volume_id)

    def _mount(
        self,
        pool: PoolDirectory,
        volume: VolumeRecord,
        wanted: StagedRecord,
        path: Path,
        attached: Attachment,
    ) -> None:
        device = attached.device.path
        if require_ours(path, attached) is None:
            loop.set_read_only(attached.device, False)
            identity = self._prepare(pool, volume, wanted.fs_type, attached)
            with paths.opened(self._kubelet_dir, path, create="directory") as target:
                filesystem.mount_volume(
                    device, target, identity, wanted.mount_options, read_only=wanted.read_only
                )
        if not wanted.read_only:
            filesystem.grow_mounted(
                device, str(path), wanted.fs_type, loop.read_size(attached.device)
            )

    def _prepare(
        self, pool: PoolDirectory, volume: VolumeRecord, fs_type: str, attached: Attachment
    ) -> Identity:
        """The filesystem on the device; made now if the volume was never used."""
        directory = pool.volume(volume.volume_id)
        device = attached.device.path
        if attached.filesystem_mounts:
            where = attached.filesystem_mounts[0].path
            raise FailedPreconditionError(
                f"volume {volume.volume_id} is mounted at {where} already; unstage it there first"
            )
        if loop.is_claimed(attached.device):
            raise BusyError(
                f"{device} of volume {volume.volume_id} is held: an mkfs of an earlier try still"
                " runs, or another mount namespace has it mounted; it ends or name it with fuser"
            )
        if volume.format is Format.STARTED:
            # That mkfs was cut short and nothing has mounted the volume since: back to zeros.
            step("empty image")
            if attached.replicated:
                image.zero_device(device)
            else:
                image.punch(directory / DATA_FILE)
                loop.drop_cache(attached.device)
        elif not image.is_blank(directory / DATA_FILE):
            return self._adopt(directory, volume, fs_type, device)
        elif volume.format is Format.DONE:
            raise DataAtRiskError(
                f"volume {volume.volume_id} was formatted and its image is empty now; nothing was"
                " changed. Restore it from a snapshot, or delete it"
            )
        return self._format(pool, volume, fs_type, device)

    def _adopt(self, directory: Path, volume: VolumeRecord, fs_type: str, device: str) -> Identity:
        """A volume with content: its filesystem must be the one that is asked for."""
        identity = filesystem.identify(device)
        if identity is None or identity.fs_type != fs_type:
            found = identity.fs_type if identity else "data without a known filesystem"
            raise FailedPreconditionError(
                f"volume {volume.volume_id} holds {found}, not {fs_type}; it is never formatted"
                " over. Ask for the filesystem that is there, or for volumeMode Block"
            )
        if volume.format is not Format.DONE or volume.fs_type != fs_type:
            journal.save_volume(directory, volume, format=Format.DONE, fs_type=fs_type)
        return identity

    def _format(
        self, pool: PoolDirectory, volume: VolumeRecord, fs_type: str, device: str
    ) -> Identity:
        directory = pool.volume(volume.volume_id)
        step("mark format started")
        started = journal.save_volume(directory, volume, format=Format.STARTED, fs_type=fs_type)
        try:
            filesystem.make(device, fs_type)
        except TwinvaultError as error:
            if is_full(pool):
                raise NoSpaceError(
                    f"pool {pool.name} is full: volume {volume.volume_id} cannot be formatted."
                    " Delete snapshots or volumes, or add a pool"
                ) from error
            raise
        step("flush format")
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        journal.save_volume(directory, started, format=Format.DONE)
        identity = filesystem.identify(device)
        if identity is None or identity.fs_type != fs_type:
            raise TwinvaultError(f"mkfs of {fs_type} on {device} left no {fs_type}; try again")
        return identity

    def unstage(self, request: Unstage) -> dict[str, Any]:
        path = paths.parse_below(self._kubelet_dir, request.staging_path, "staging path")
        data = self._find_data(request.volume_id)
        attached = observe_attachment(data) if data else None
        mounted = require_ours(path, attached)
        if attached is not None:
            others = attached.others(path)
            if others:
                raise InUseError(
                    f"volume {request.volume_id} is still published at {', '.join(others[:3])};"
                    " unpublish it there first"
                )
        if mounted is not None:
            mount.unmount(path)
        if attached is not None and data is not None:
            detach(data, attached.device)
        self._records.remove(request.volume_id)
        return {}

    def _find_data(self, volume_id: str) -> Path | None:
        try:
            pool, _ = find_volume(self._pools, volume_id)
        except NotFoundError:
            return None
        return pool.volume(volume_id) / DATA_FILE


def _plan_record(request: Stage, volume: VolumeRecord, pool: PoolDirectory) -> StagedRecord:
    """What is to be staged; refuses what the volume is not."""
    if not volume.ready:
        raise BusyError(f"volume {volume.volume_id} is still being made; try again")
    try:
        mode = VolumeMode(request.volume_mode)
    except ValueError:
        raise InvalidError(
            f"volume mode {request.volume_mode!r} is neither Filesystem nor Block"
        ) from None
    if mode is not volume.volume_mode:
        raise FailedPreconditionError(
            f"volume {volume.volume_id} has mode {volume.volume_mode}, asked for {mode}"
        )
    fs_type = ""
    if mode is VolumeMode.FILESYSTEM:
        fs_type = filesystem.parse_fs_type(request.fs_type or volume.fs_type)
        if volume.fs_type and volume.fs_type != fs_type:
            raise FailedPreconditionError(
                f"volume {volume.volume_id} is {volume.fs_type}, asked for {fs_type}"
            )
    return StagedRecord(
        volume_id=volume.volume_id,
        pool=pool.name,
        staging_path=request.staging_path,
        volume_mode=mode.value,
        fs_type=fs_type,
        mount_options=request.mount_options if mode is VolumeMode.FILESYSTEM else (),
        read_only=request.read_only,
        complete=False,
        boot_id=read_boot_id(),
    )


def _refuse_conflict(before: StagedRecord, wanted: StagedRecord, attached: Attachment) -> None:
    """A repeated call must ask for the same; a first call that never finished binds nobody."""
    if not before.complete and not attached.mounts:
        return
    if before.staging_path != wanted.staging_path:
        raise FailedPreconditionError(
            f"volume {before.volume_id} is staged at {before.staging_path}; unstage it there first"
        )
    differing = [
        name
        for name in ("volume_mode", "fs_type", "mount_options", "read_only")
        if getattr(before, name) != getattr(wanted, name)
    ]
    if differing:
        raise AlreadyExistsError(
            f"volume {before.volume_id} is staged at {before.staging_path} with another"
            f" {', '.join(differing)}; unstage it first"
        )
