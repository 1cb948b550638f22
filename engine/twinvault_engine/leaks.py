"""Everything that the engine holds on the node, as data: what leak checks compare with nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twinvault_core.errors import DataAtRiskError

from . import drbd_device, drbd_journal, durable, loop
from .attachment import attachment_of
from .facts import Holding
from .layout import DataDirectory, PoolDirectory
from .mountinfo import observe_mounts


def list_holdings(data: DataDirectory, pools: tuple[PoolDirectory, ...]) -> tuple[Holding, ...]:
    """Devices, mounts, volumes, snapshots, trash, temporary files and records, sorted."""
    found = [
        *_mounts(data),
        *_devices(pools),
        *_records(data),
        *(holding for pool in pools for holding in _files(pool)),
    ]
    return tuple(sorted(found, key=lambda holding: (holding.kind, holding.name)))


def _mounts(data: DataDirectory) -> Iterator[Holding]:
    for mount in observe_mounts():
        if mount.path.startswith(f"{data.pools}/"):
            yield Holding("pool-mount", mount.path, mount.source)
        elif mount.path.startswith(f"{data.probes}/"):
            yield Holding("mount", mount.path, mount.source)


def _devices(pools: tuple[PoolDirectory, ...]) -> Iterator[Holding]:
    below = {pool.root.stat().st_dev for pool in pools}
    for device in loop.list_devices():
        if device.backing_device not in below:
            continue
        deleted = " (deleted)" if device.deleted else ""
        yield Holding("loop", device.path, f"{device.backing_file}{deleted}")
        for mount in attachment_of(device).mounts:
            yield Holding("mount", mount.path, device.path)
    for pool in pools:
        for directory in pool.volumes.iterdir():
            yield from _replicas(directory)


def _replicas(directory: Path) -> Iterator[Holding]:
    """The DRBD resource of a volume, if the kernel has it, and its mounts."""
    try:
        record = drbd_journal.load(directory)
    except DataAtRiskError:
        return
    if record is None or not drbd_device.is_configured(record):
        return
    yield Holding("drbd", directory.name, f"/dev/drbd{record.spec.minor}")
    device = drbd_device.find_primary(record)
    for mount in attachment_of(device).mounts if device else ():
        yield Holding("mount", mount.path, f"/dev/drbd{record.spec.minor}")


def _records(data: DataDirectory) -> Iterator[Holding]:
    for kind, directory in (("freeze", data.frozen), ("record", data.staged)):
        for path in directory.iterdir():
            yield Holding(kind, path.name)
    for directory in (data.pool_records, data.staged, data.frozen):
        for path in directory.glob(f"*{durable.TEMPORARY_SUFFIX}"):
            yield Holding("temporary", str(path))


def _files(pool: PoolDirectory) -> Iterator[Holding]:
    for kind, parent in (
        ("volume", pool.volumes),
        ("snapshot", pool.snapshots),
        ("trash", pool.trash),
    ):
        for entry in parent.iterdir():
            yield Holding(kind, entry.name, pool.name)
            for path in entry.glob(f"*{durable.TEMPORARY_SUFFIX}"):
                yield Holding("temporary", str(path))
