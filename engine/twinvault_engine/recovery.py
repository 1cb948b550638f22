"""What the engine does first after a start: undo what an earlier life left half-done."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from twinvault_core.errors import DataAtRiskError, TwinvaultError

from . import drbd_journal, loop, mount, trash
from .attachment import attachment_of, choose_device
from .facts import Recovery
from .freeze import Freezer
from .journal import DATA_FILE, META_FILE, load_volume
from .layout import DataDirectory, PoolDirectory
from .mountinfo import observe_mounts
from .staged_record import StagedRecords


def recover(
    data: DataDirectory,
    pools: tuple[PoolDirectory, ...],
    freezer: Freezer,
    records: StagedRecords,
) -> Recovery:
    """Thaw first: somebody's writes wait for it. Then mounts, devices, records, files."""
    thawed = freezer.thaw_leftovers()
    swept = _remove_probe_mounts(data)
    detached, left = _release_devices(pools, records)
    _forget_stale(pools, records)
    for pool in pools:
        gone, kept = trash.sweep(pool)
        swept += gone
        left += kept
    return Recovery(thawed, tuple(swept), tuple(detached), tuple(left))


def _remove_probe_mounts(data: DataDirectory) -> list[str]:
    gone = []
    for found in observe_mounts():
        if found.path.startswith(f"{data.probes}/"):
            mount.unmount(data.root / found.path)
            gone.append(found.path)
    for directory in data.probes.iterdir():
        directory.rmdir()
    return gone


def _release_devices(
    pools: tuple[PoolDirectory, ...], records: StagedRecords
) -> tuple[list[str], list[str]]:
    """Detach devices of our pools that no one uses; report those that are not as they must be.

    Used means: mounted, bound, or staged by a call that was completed.
    """
    detached: list[str] = []
    left: list[str] = []
    inodes = {
        (status.st_dev, status.st_ino): directory
        for pool in pools
        for directory in pool.volumes.iterdir()
        for name in (DATA_FILE, META_FILE)
        if (directory / name).exists()
        for status in [(directory / name).stat()]
    }
    below = {pool.root.stat().st_dev for pool in pools}
    for device in loop.list_devices():
        if device.backing_device not in below:
            continue
        directory = inodes.get((device.backing_device, device.inode))
        record = records.load(directory.name) if directory else None
        staged = record is not None and record.complete and not record.lifted
        used = staged or bool(attachment_of(device).mounts)
        if directory is not None and _is_replicated(directory):
            # Held by DRBD, which lives on when we do not.
            used = loop.is_claimed(device)
        if used and not device.sound:
            left.append(f"{device.path}: no direct I/O with 4096-byte sectors; restage its volume")
        elif not used:
            try:
                loop.detach(device)
                detached.append(device.path)
            except (TwinvaultError, OSError) as error:
                left.append(f"{device.path}: {error}")
    return detached, left


def _is_replicated(directory: Path) -> bool:
    """Whether the volume has a second replica; one whose record is damaged counts as that."""
    try:
        return drbd_journal.load(directory) is not None
    except DataAtRiskError:
        return True


def _forget_stale(pools: tuple[PoolDirectory, ...], records: StagedRecords) -> None:
    """Remove staging records of earlier boots, and of volumes that are not attached."""
    for volume_id in records.volume_ids():
        record = records.load(volume_id)
        pool = next((p for p in pools if record is not None and p.name == record.pool), None)
        if record is not None and pool is None:
            continue
        if record is None or pool is None:
            records.remove(volume_id)
            continue
        with suppress(TwinvaultError):
            directory = pool.volume(volume_id)
            bare = not record.lifted and choose_device(directory / DATA_FILE) is None
            if bare or load_volume(directory) is None:
                records.remove(volume_id)
