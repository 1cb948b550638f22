"""What a call may contain. Each function is pure and refuses in words that say what to change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from twinvault_core.errors import InvalidError, NotFoundError
from twinvault_core.ids import MAX_CSI_STRING_BYTES, is_valid_id
from twinvault_core.model import VolumeMode

from .pb import csi_pb2

FILESYSTEMS = ("ext4", "xfs")
MAX_PATH_BYTES = 4095
"""PATH_MAX of Linux without its final zero byte."""
MAX_MOUNT_FLAGS = 64
MAX_PRIORITY = 1000

Mode = csi_pb2.VolumeCapability.AccessMode
READ_ONLY_MODES = frozenset({Mode.SINGLE_NODE_READER_ONLY})
SUPPORTED_MODES = frozenset(
    {
        Mode.SINGLE_NODE_WRITER,
        Mode.SINGLE_NODE_READER_ONLY,
        Mode.SINGLE_NODE_SINGLE_WRITER,
        Mode.SINGLE_NODE_MULTI_WRITER,
    }
)

# Control characters that the CSI specification keeps out of names.
_FORBIDDEN_IN_NAMES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_PRIORITY = re.compile(r"-?[0-9]{1,4}")
# No comma (a second option), no '/' (another device), no leading '-' (an option of mount itself).
_MOUNT_FLAG = re.compile(r"[a-z][a-z0-9_]{0,63}(=[A-Za-z0-9_.:+-]{1,64})?")
_MOUNT_FLAGS_REFUSED = frozenset(
    {"bind", "rbind", "move", "remount", "loop", "offset", "sizelimit", "helper", "uhelper"}
    | {"make", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable"}
    | {"user", "users", "owner", "group", "logdev", "rtdev", "journal_dev", "journal_path"}
)


@dataclass(frozen=True)
class Capability:
    """One volume capability, checked."""

    volume_mode: VolumeMode
    fs_type: str
    mount_flags: tuple[str, ...]
    read_only: bool
    single_writer: bool


def parse_name(name: str, what: str) -> str:
    """The caller's idempotency key, unchanged."""
    if not name:
        raise InvalidError(f"{what} is missing")
    if len(name.encode()) > MAX_CSI_STRING_BYTES:
        raise InvalidError(f"{what} is longer than {MAX_CSI_STRING_BYTES} bytes")
    if _FORBIDDEN_IN_NAMES.search(name):
        raise InvalidError(f"{what} {name!r} contains control characters")
    return name


def require_id(value: str, what: str) -> str:
    """``value`` unchanged; InvalidError when it was not given."""
    if not value:
        raise InvalidError(f"{what} is missing")
    return value


def find_id(value: str, what: str) -> str:
    """``value`` if an object of ours can have that name; NotFoundError if none ever could."""
    require_id(value, what)
    if not is_valid_id(value):
        raise NotFoundError(f"{what} {value[:MAX_CSI_STRING_BYTES]!r} does not exist")
    return value


def parse_fs_type(fs_type: str) -> str:
    """``fs_type`` if it is one that we make, or empty."""
    if fs_type and fs_type not in FILESYSTEMS:
        raise InvalidError(f"filesystem {fs_type!r} is not one of {', '.join(FILESYSTEMS)}")
    return fs_type


def parse_priority(text: str) -> int:
    """A resync's priority, 0 if not given; the bounds are those of ``Volume.spec``."""
    number = int(text) if _PRIORITY.fullmatch(text) else 0 if not text else None
    if number is None or abs(number) > MAX_PRIORITY:
        raise InvalidError(
            f"resyncPriority {text[:80]!r} is not a whole number from -{MAX_PRIORITY} to"
            f" {MAX_PRIORITY}"
        )
    return number


def parse_mount_flags(flags: Sequence[str]) -> tuple[str, ...]:
    if len(flags) > MAX_MOUNT_FLAGS:
        raise InvalidError(f"more than {MAX_MOUNT_FLAGS} mount flags")
    for flag in flags:
        if _MOUNT_FLAG.fullmatch(flag) is None:
            raise InvalidError(
                f"mount flag {flag[:80]!r} is not of the form name or name=value;"
                " give several flags as several entries"
            )
        if flag.partition("=")[0] in _MOUNT_FLAGS_REFUSED:
            raise InvalidError(f"mount flag {flag!r} is not for a volume; remove it")
    return tuple(flags)


def parse_capability(capability: csi_pb2.VolumeCapability) -> Capability:
    """Access type, access mode, filesystem and mount flags of one capability."""
    kind = capability.WhichOneof("access_type")
    if kind is None:
        raise InvalidError("the volume capability has neither a block nor a mount access type")
    mode = capability.access_mode.mode
    if mode not in SUPPORTED_MODES:
        known = mode in Mode.Mode.values()
        raise InvalidError(
            f"access mode {Mode.Mode.Name(mode) if known else mode} is not supported: a volume is"
            " used on one node at a time (ReadWriteOnce or ReadWriteOncePod)"
        )
    if capability.mount.volume_mount_group:
        raise InvalidError("volume_mount_group is not supported; kubelet applies fsGroup itself")
    return Capability(
        volume_mode=VolumeMode.BLOCK if kind == "block" else VolumeMode.FILESYSTEM,
        fs_type=parse_fs_type(capability.mount.fs_type),
        mount_flags=parse_mount_flags(capability.mount.mount_flags),
        read_only=mode in READ_ONLY_MODES,
        single_writer=mode == Mode.SINGLE_NODE_SINGLE_WRITER,
    )


def parse_capabilities(
    capabilities: Sequence[csi_pb2.VolumeCapability],
) -> tuple[Capability, ...]:
    """All of them; InvalidError if there is none, or if they do not fit one volume."""
    if not capabilities:
        raise InvalidError("volume capabilities are missing")
    parsed = tuple(parse_capability(one) for one in capabilities)
    if len({one.volume_mode for one in parsed}) > 1:
        raise InvalidError("a volume is either block or mount, not both")
    if len({one.fs_type for one in parsed if one.fs_type}) > 1:
        raise InvalidError("the volume capabilities name two filesystems")
    return parsed


def require_capability(
    request: csi_pb2.ControllerPublishVolumeRequest
    | csi_pb2.NodeStageVolumeRequest
    | csi_pb2.NodePublishVolumeRequest,
) -> Capability:
    if not request.HasField("volume_capability"):
        raise InvalidError("volume_capability is missing")
    return parse_capability(request.volume_capability)


def is_clean_path(path: str) -> bool:
    """Absolute, no '.', '..' or empty part, no zero byte, not longer than Linux takes."""
    return (
        path.startswith("/")
        and not path.startswith("//")
        and len(path.encode()) <= MAX_PATH_BYTES
        and "\0" not in path
        and ".." not in PurePosixPath(path).parts
        and str(PurePosixPath(path)) == path.rstrip("/")
    )


def parse_path(path: str, what: str) -> str:
    """``path`` without a trailing '/'; InvalidError unless it is clean."""
    if not path:
        raise InvalidError(f"{what} is missing")
    if not is_clean_path(path):
        raise InvalidError(f"{what} {path[:200]!r} is not an absolute path without '.' and '..'")
    return path.rstrip("/")


def find_path(path: str, what: str) -> str:
    """As parse_path, but NotFoundError: nothing is ever published at such a path."""
    if not path:
        raise InvalidError(f"{what} is missing")
    if not is_clean_path(path):
        raise NotFoundError(f"no volume is at {path[:200]!r}: not an absolute, plain path")
    return path.rstrip("/")


def refuse_unknown(given: Mapping[str, str], known: Iterable[str], what: str) -> None:
    """InvalidError that names every key of ``given`` that is not in ``known``."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        names = ", ".join(repr(name[:80]) for name in unknown)
        raise InvalidError(f"unknown {what} {names}; known are {', '.join(sorted(known)) or '-'}")
