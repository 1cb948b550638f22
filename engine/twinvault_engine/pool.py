"""Pools: found or made, mounted, watched. A pool is one XFS with reflinks on one device."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

from twinvault_core.errors import (
    DataAtRiskError,
    FailedPreconditionError,
    NotFoundError,
    TwinvaultError,
)
from twinvault_core.ids import parse_id
from twinvault_core.model import PoolSpec, PoolState, PoolStatus

from . import ballast, devices, mount, pool_record, xfs
from .freeze import read_boot_id
from .layout import DataDirectory, PoolDirectory
from .mountinfo import Mount, find_mount
from .pool_device import Choice, DeviceChooser
from .pool_record import Marker, PoolRecord
from .steps import step

MOUNT_OPTIONS = ("noatime", "lazytime", "nodev", "nosuid", "noexec", "logbsize=256k")
_WORTH_GROWING_BYTES = 64 * 1024**2


class Pools:
    """The pools of one node."""

    def __init__(self, data: DataDirectory, node_name: str) -> None:
        self._data = data
        self._node_name = node_name
        self._chooser = DeviceChooser(data.probes, node_name)
        self._lock = threading.Lock()

    def ensure(self, spec: PoolSpec, storage_cluster: str) -> tuple[PoolStatus, bool]:
        """The pool's state after trying, and whether this call mounted it."""
        with self._lock:
            try:
                mounted_now = self._ensure(spec, storage_cluster)
            except (NotFoundError, FailedPreconditionError) as error:
                return self._trouble(spec.name, PoolState.WAITING, error), False
            except (TwinvaultError, OSError) as error:
                return self._trouble(spec.name, PoolState.FAILED, error), False
        status = self.observe(spec.name)
        assert status is not None
        return status, mounted_now

    def _ensure(self, spec: PoolSpec, storage_cluster: str) -> bool:
        parse_id(spec.name, "pool name")
        _require_supported(spec)
        record = pool_record.load_record(self._data.pool_records, spec.name)
        if record is not None and record.storage_cluster != storage_cluster:
            raise DataAtRiskError(
                f"pool {spec.name} on this node belongs to StorageCluster"
                f" {record.storage_cluster}, not {storage_cluster}. Give the pool another name"
            )
        path = self._data.pools / spec.name
        mounted = find_mount(path)
        if mounted is None:
            record = self._bring_up(spec, storage_cluster, record, path)
        else:
            record = self._verify_mounted(spec, storage_cluster, record, mounted)
        if record.reserve_percent != spec.reserve_percent:
            record = replace(record, reserve_percent=spec.reserve_percent)
            pool_record.save_record(self._data.pool_records, record)
        _grow_if_device_grew(path)
        ballast.set_aside(PoolDirectory(spec.name, path))
        return mounted is None

    def _bring_up(
        self, spec: PoolSpec, storage_cluster: str, record: PoolRecord | None, path: Path
    ) -> PoolRecord:
        choice = self._chooser.choose(spec, record)
        if choice.blank or record is None:
            record = self._new_record(spec, storage_cluster, choice)
        if choice.blank:
            self._format(spec, choice, record)
        path.mkdir(mode=0o700, exist_ok=True)
        mount.require_blank_mount_point(path)
        flags, data = mount.parse_options(MOUNT_OPTIONS)
        try:
            mount.mount_filesystem(choice.device.path, str(path), "xfs", flags, data)
        except OSError as error:
            raise TwinvaultError(
                f"pool {spec.name} on {choice.device.path} cannot be mounted: {error.strerror}."
                " The node's kernel log says why; for a damaged XFS: xfs_repair -n"
            ) from error
        try:
            return self._verify_content(path, record)
        except TwinvaultError:
            mount.unmount(path)
            raise

    def _new_record(self, spec: PoolSpec, storage_cluster: str, choice: Choice) -> PoolRecord:
        """For a blank device saved before mkfs; for a recognised one saved once it is verified."""
        record = PoolRecord(
            name=spec.name,
            storage_cluster=storage_cluster,
            state=pool_record.FORMATTING if choice.blank else pool_record.MADE,
            uuid=choice.uuid,
            device=choice.device.path,
            instance=choice.device.instance,
            boot_id=read_boot_id(),
            reserve_percent=spec.reserve_percent,
        )
        if choice.blank:
            step("record pool")
            pool_record.save_record(self._data.pool_records, record)
        return record

    def _format(self, spec: PoolSpec, choice: Choice, record: PoolRecord) -> None:
        if not choice.redo:
            devices.require_blank(choice.device)
        step("mkfs pool")
        xfs.make_pool(
            choice.device.path,
            label=pool_record.choose_label(spec.name),
            uuid=record.uuid,
            force=choice.redo,
        )

    def _verify_content(self, path: Path, record: PoolRecord) -> PoolRecord:
        """Check or complete the marker of the pool mounted at ``path``; the record, MADE."""
        marker = pool_record.load_marker(path)
        wanted = Marker(record.name, record.storage_cluster, self._node_name, record.uuid)
        if marker is None and record.state == pool_record.FORMATTING:
            PoolDirectory(record.name, path).prepare()
            step("write marker")
            pool_record.save_marker(path, wanted)
        elif marker != wanted:
            raise DataAtRiskError(
                f"the filesystem with UUID {record.uuid} does not hold pool {record.name} of"
                f" this node and StorageCluster, its marker says {marker}; it was unmounted."
                " Look at the device"
            )
        PoolDirectory(record.name, path).prepare()
        made = replace(record, state=pool_record.MADE)
        step("record pool made")
        pool_record.save_record(self._data.pool_records, made)
        return made

    def _verify_mounted(
        self, spec: PoolSpec, storage_cluster: str, record: PoolRecord | None, mounted: Mount
    ) -> PoolRecord:
        if record is None:
            marker = pool_record.load_marker(Path(mounted.path))
            if marker is None:
                raise DataAtRiskError(
                    f"{mounted.path} is mounted from {mounted.source}, which is no pool of ours."
                    " Unmount it"
                )
            record = PoolRecord(
                spec.name, storage_cluster, pool_record.MADE, marker.uuid, mounted.source,
                "", read_boot_id(), spec.reserve_percent,
            )  # fmt: skip
        if record.state == pool_record.MADE:
            marker = pool_record.load_marker(Path(mounted.path))
            wanted = Marker(record.name, record.storage_cluster, self._node_name, record.uuid)
            if marker == wanted:
                return record
        return self._verify_content(Path(mounted.path), record)

    def observe(self, name: str) -> PoolStatus | None:
        """The pool as it is now; None when this node never made it."""
        record = pool_record.load_record(self._data.pool_records, name)
        if record is None:
            return None
        path = self._data.pools / name
        mounted = find_mount(path)
        if mounted is None:
            return PoolStatus(
                name, PoolState.WAITING, "NotMounted", f"pool {name} is not mounted",
                device=record.device, filesystem_uuid=record.uuid,
            )  # fmt: skip
        try:
            usage = os.statvfs(path)
        except OSError as error:
            return PoolStatus(
                name, PoolState.FAILED, "Unreadable",
                f"{path} cannot be read ({error.strerror}); look at device {mounted.source}",
                device=mounted.source, filesystem_uuid=record.uuid, mount_path=str(path),
            )  # fmt: skip
        read_only = mounted.read_only
        return PoolStatus(
            name=name,
            state=PoolState.FAILED if read_only else PoolState.READY,
            reason="ReadOnly" if read_only else "Mounted",
            message=f"{path} turned read-only; look at the kernel log" if read_only else "",
            device=mounted.source,
            filesystem_uuid=record.uuid,
            mount_path=str(path),
            size_bytes=usage.f_blocks * usage.f_frsize,
            used_bytes=(usage.f_blocks - usage.f_bfree) * usage.f_frsize,
            free_bytes=usage.f_bavail * usage.f_frsize,
        )

    def _trouble(self, name: str, state: PoolState, error: Exception) -> PoolStatus:
        reasons: dict[type[Exception], str] = {
            NotFoundError: "DeviceMissing",
            FailedPreconditionError: "DeviceNotBlank",
        }
        return PoolStatus(name, state, reasons.get(type(error), "Failed"), str(error))

    def directory(self, name: str) -> PoolDirectory:
        """The mounted pool; NotFoundError when it is not there."""
        found = next((pool for pool in self.mounted() if pool.name == name), None)
        if found is None:
            raise NotFoundError(
                f"pool {name} is not mounted on node {self._node_name}; see its StorageNode"
            )
        return found

    def mounted(self) -> tuple[PoolDirectory, ...]:
        """All pools that are mounted and verified."""
        return tuple(
            PoolDirectory(record.name, self._data.pools / record.name, record.reserve_percent)
            for record in pool_record.list_records(self._data.pool_records)
            if record.state == pool_record.MADE and find_mount(self._data.pools / record.name)
        )

    def uuids(self) -> dict[str, str]:
        """Filesystem UUID -> pool name of all pools that this node made."""
        records = pool_record.list_records(self._data.pool_records)
        return {record.uuid: record.name for record in records}


def _require_supported(spec: PoolSpec) -> None:
    if (spec.filesystem, spec.redundancy, spec.compression) != ("xfs", "none", "none"):
        raise FailedPreconditionError(
            f"pool {spec.name}: this version makes XFS pools on one device only, without mirror"
            " and compression. Set filesystem: xfs, redundancy: none, compression: none"
        )


def _grow_if_device_grew(path: Path) -> None:
    mounted = find_mount(path)
    if mounted is None:
        return
    device = devices.resolve_device(mounted.source)
    superblock = devices.read_pool_superblock(device)
    if superblock and superblock.size_bytes + _WORTH_GROWING_BYTES <= device.size_bytes:
        step("grow pool")
        xfs.grow(str(path))
