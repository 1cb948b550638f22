"""Publish and unpublish, statistics and expansion: what happens above a staged volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import Expand, Publish, Stats, Unpublish
from twinvault_core.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidError,
    NotFoundError,
)
from twinvault_core.model import VolumeMode

from . import filesystem, image, loop, mount, paths
from .attachment import Attachment, observe_attachment, require_ours
from .journal import DATA_FILE, VolumeRecord
from .mountinfo import Mount, find_mount
from .pool import Pools
from .staging import find_volume
from .steps import step

_MAX_STACKED_MOUNTS = 8
_CHECKED_FLAGS = {
    "ro": mount.MS_RDONLY,
    "nosuid": mount.MS_NOSUID,
    "nodev": mount.MS_NODEV,
    "noexec": mount.MS_NOEXEC,
}


class Publishing:
    """Publishing for one node; one volume is one caller's at a time."""

    def __init__(self, pools: Pools, kubelet_dir: Path) -> None:
        self._pools = pools
        self._kubelet_dir = kubelet_dir

    def _find(self, volume_id: str) -> tuple[VolumeRecord, Path]:
        pool, record = find_volume(self._pools, volume_id)
        return record, pool.volume(volume_id) / DATA_FILE

    def publish(self, request: Publish) -> dict[str, Any]:
        target = paths.parse_below(self._kubelet_dir, request.target_path, "target path")
        staging = paths.parse_below(self._kubelet_dir, request.staging_path, "staging path")
        flags, _ = mount.parse_options((*request.mount_options, *(["ro"] * request.read_only)))
        record, data = self._find(request.volume_id)
        _require_mode(record, request.volume_mode)
        attached = observe_attachment(data)
        if attached is None:
            raise FailedPreconditionError(f"volume {request.volume_id} is not staged; stage it")
        if request.single_writer:
            _refuse_second_target(attached, staging, target, request.volume_id)
        if record.volume_mode is VolumeMode.BLOCK:
            self._publish_block(attached, target, request)
        else:
            self._publish_filesystem(attached, staging, target, flags)
        return {}

    def _publish_filesystem(
        self, attached: Attachment, staging: Path, target: Path, flags: int
    ) -> None:
        staged = find_mount(staging)
        if staged is None or staged not in attached.filesystem_mounts:
            raise FailedPreconditionError(f"the volume is not staged at {staging}; stage it there")
        present = require_ours(target, attached)
        if present is None:
            with paths.opened(self._kubelet_dir, target, create="directory") as name:
                mount.bind(str(staging), name, flags=flags)
            return
        missing = [n for n, bit in _CHECKED_FLAGS.items() if flags & bit and not _has(present, n)]
        if missing:
            raise AlreadyExistsError(
                f"{target} is published without {', '.join(missing)}; unpublish it first"
            )
        if _has(present, "ro") and not flags & mount.MS_RDONLY and not _has(staged, "ro"):
            raise AlreadyExistsError(f"{target} is published read-only; unpublish it first")

    def _publish_block(self, attached: Attachment, target: Path, request: Publish) -> None:
        if request.read_only and not loop.is_read_only(attached.device):
            raise FailedPreconditionError(
                f"block volume {request.volume_id} is staged writable, a device node cannot be"
                " bound read-only; stage the volume read-only"
            )
        if require_ours(target, attached) is not None:
            return
        with paths.opened(self._kubelet_dir, target, create="file") as name:
            mount.bind(attached.device.path, name)

    def unpublish(self, request: Unpublish) -> dict[str, Any]:
        target = paths.parse_below(self._kubelet_dir, request.target_path, "target path")
        try:
            with paths.opened(self._kubelet_dir, target):
                pass
        except FileNotFoundError:
            return {}
        attached = self._observe_if_there(request.volume_id)
        for _ in range(_MAX_STACKED_MOUNTS):
            if require_ours(target, attached) is None:
                break
            mount.unmount(target)
        step("remove target")
        paths.remove_mount_point(target)
        return {}

    def _observe_if_there(self, volume_id: str) -> Attachment | None:
        try:
            return observe_attachment(self._find(volume_id)[1])
        except NotFoundError:
            return None

    def stats(self, request: Stats) -> dict[str, Any]:
        path = paths.parse_below(self._kubelet_dir, request.path, "volume path")
        record, data = self._find(request.volume_id)
        attached = observe_attachment(data)
        if attached is None:
            raise NotFoundError(f"volume {request.volume_id} is not staged on this node")
        if record.volume_mode is VolumeMode.BLOCK:
            return {"volumeMode": "Block", "totalBytes": attached.device.size_bytes}
        found = find_mount(path)
        if found is None or found not in attached.filesystem_mounts:
            raise NotFoundError(f"volume {request.volume_id} is not mounted at {path}")
        usage = os.statvfs(path)
        unit = usage.f_frsize
        return {
            "volumeMode": "Filesystem",
            "totalBytes": usage.f_blocks * unit,
            "usedBytes": (usage.f_blocks - usage.f_bfree) * unit,
            "availableBytes": usage.f_bavail * unit,
            "totalInodes": usage.f_files,
            "usedInodes": usage.f_files - usage.f_ffree,
            "availableInodes": usage.f_favail,
        }

    def expand(self, request: Expand) -> dict[str, Any]:
        path = paths.parse_below(self._kubelet_dir, request.path, "volume path")
        if request.size_bytes < 0:
            raise InvalidError(f"{request.size_bytes} bytes is no size")
        record, data = self._find(request.volume_id)
        if record.size_bytes < request.size_bytes:
            raise FailedPreconditionError(
                f"volume {request.volume_id} has {record.size_bytes} bytes, {request.size_bytes}"
                " are asked for: the controller grows it first; try again when its VolumeReplica"
                " shows the new size"
            )
        attached = observe_attachment(data)
        if attached is None:
            raise NotFoundError(f"volume {request.volume_id} is not staged on this node")
        image.grow(data, record.size_bytes)
        if attached.replicated and loop.read_size(attached.device) < request.size_bytes:
            # This code, of all, lets kubelet start the pod nevertheless; it does not ask again.
            raise FailedPreconditionError(
                f"volume {request.volume_id} has not grown yet: both replicas must have the new"
                " size and be in sync; try again"
            )
        if record.volume_mode is VolumeMode.FILESYSTEM:
            found = find_mount(path)
            if found is None or found not in attached.filesystem_mounts:
                raise NotFoundError(f"volume {request.volume_id} is not mounted at {path}")
            size = loop.read_size(attached.device)
            filesystem.grow_mounted(attached.device.path, str(path), found.fs_type, size)
        return {"sizeBytes": record.size_bytes}


def _require_mode(record: VolumeRecord, wanted: str) -> None:
    if wanted != record.volume_mode.value:
        raise FailedPreconditionError(
            f"volume {record.volume_id} has mode {record.volume_mode}, asked for {wanted or '?'}"
        )


def _has(present: Mount, flag: str) -> bool:
    return flag in present.options


def _refuse_second_target(
    attached: Attachment, staging: Path, target: Path, volume_id: str
) -> None:
    elsewhere = [path for path in attached.others(target) if path != str(staging)]
    if elsewhere:
        raise FailedPreconditionError(
            f"volume {volume_id} is published at {elsewhere[0]} to one writer only; unpublish it"
            " there first"
        )
