"""The filesystem inside a volume: recognise, make, check, mount, grow; ext4 and xfs.

Nothing is ever formatted because it was not recognised: the caller formats only what its journal
says was never used (see staging).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from twinvault_core.errors import (
    DataAtRiskError,
    FailedPreconditionError,
    InvalidError,
    TwinvaultError,
)

from . import ext4, mount, runner, xfs
from .steps import step

EXT4 = "ext4"
XFS = "xfs"
FS_TYPES = frozenset({EXT4, XFS})
DEFAULT_FS_TYPE = EXT4
_HEAD_BYTES = 4096
_XFS_SLACK_BYTES = 256 * 1024
_PROBE_TIMEOUT_SECONDS = 20.0
_NOTHING_FOUND = frozenset({0, 2})


@dataclass(frozen=True)
class Identity:
    """The filesystem found on a device. ``fs_type`` may be one that we do not make."""

    fs_type: str
    size_bytes: int = 0
    needs_check: bool = False


def parse_fs_type(value: str) -> str:
    """``value``, or the default for ''; InvalidError when we do not make it."""
    fs_type = value or DEFAULT_FS_TYPE
    if fs_type not in FS_TYPES:
        raise InvalidError(f"filesystem {value!r} is not supported; use ext4 or xfs")
    return fs_type


def identify(device: str) -> Identity | None:
    """The filesystem on ``device``, None when there is no signature at all.

    ext4 and xfs are read from their superblocks; anything else is what blkid says.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, _HEAD_BYTES, 0)
    finally:
        os.close(fd)
    as_xfs = xfs.parse_superblock(head)
    if as_xfs is not None:
        return Identity(XFS, as_xfs.size_bytes, as_xfs.in_progress)
    as_ext4 = ext4.parse_superblock(head)
    if as_ext4 is not None:
        return Identity(EXT4, as_ext4.size_bytes, as_ext4.has_errors)
    said = runner.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", device],
        timeout_seconds=_PROBE_TIMEOUT_SECONDS,
        accept=_NOTHING_FOUND,
    )
    names = "+".join(said.stdout.split())
    return Identity(names) if names else None


def make(device: str, fs_type: str) -> None:
    """Format ``device``, which the caller knows to be all zeros."""
    step(f"mkfs {fs_type}")
    if fs_type == XFS:
        xfs.make_volume(device)
    else:
        ext4.make(device)


def mount_volume(
    device: str, target: str, identity: Identity, options: tuple[str, ...], *, read_only: bool
) -> None:
    """Mount a volume; replays its journal. ext4 marked damaged is checked first.

    Restored and cloned volumes carry the UUID of their source: XFS is told not to mind, ext4
    does not.
    """
    if identity.fs_type == EXT4 and identity.needs_check:
        ext4.check(device)
    extra = (*(("nouuid",) if identity.fs_type == XFS else ()), *(("ro",) if read_only else ()))
    flags, data = mount.parse_options((*options, *extra))
    try:
        mount.mount_filesystem(device, target, identity.fs_type, flags, data)
    except OSError as error:
        raise _describe_mount_failure(device, identity.fs_type, options, error) from error


def _describe_mount_failure(
    device: str, fs_type: str, options: tuple[str, ...], error: OSError
) -> TwinvaultError:
    reason = f"{fs_type} on {device} cannot be mounted: {error.strerror}"
    if error.errno == errno.EINVAL:
        return FailedPreconditionError(
            f"{reason}; mount options {','.join(options) or '(none)'} are wrong or the superblock"
            " is damaged. The node's kernel log says which"
        )
    if error.errno in (getattr(errno, "EUCLEAN", 117), 74):
        repair = "xfs_repair" if fs_type == XFS else "e2fsck -f"
        return DataAtRiskError(
            f"{reason}; the filesystem is damaged. Take a snapshot of the volume, then run"
            f" {repair} on the device"
        )
    if error.errno == errno.ENODEV:
        return FailedPreconditionError(f"{reason}; the node's kernel has no {fs_type}")
    return TwinvaultError(reason)


def grow_mounted(device: str, path: str, fs_type: str, device_bytes: int) -> bool:
    """Grow the filesystem mounted at ``path`` to its device; False when it fills it already."""
    identity = identify(device)
    if identity is None or identity.size_bytes + _slack(fs_type) > device_bytes:
        return False
    step(f"grow {fs_type}")
    if fs_type == XFS:
        xfs.grow(path)
    else:
        ext4.grow(device)
    return True


def _slack(fs_type: str) -> int:
    """A device larger by less than this cannot be used: XFS needs 64 blocks for a new group,
    ext4 grows by what is left of a block.
    """
    return _XFS_SLACK_BYTES if fs_type == XFS else 4096
