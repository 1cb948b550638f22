"""Sizes: what may be asked for, what a pool may still promise, how sizes are shown."""

from __future__ import annotations

from .errors import InvalidError, OutOfRangeError

MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

BLOCK_BYTES = 4096
MIN_VOLUME_BYTES = 16 * MIB
"""Smallest volume that CreateVolume makes; what is asked below it is rounded up."""
MIN_XFS_VOLUME_BYTES = 300 * MIB
"""mkfs.xfs refuses smaller devices."""
MAX_VOLUME_BYTES = 64 * TIB
DEFAULT_VOLUME_BYTES = GIB


def round_up(value: int, step: int) -> int:
    """``value`` raised to the next multiple of ``step``."""
    return -(-value // step) * step


def choose_volume_size(required_bytes: int, limit_bytes: int, fs_type: str | None) -> int:
    """Size to make for a CSI capacity range (0 stands for "not given"), in bytes.

    A multiple of 4096. InvalidError when the range is negative or empty, OutOfRangeError when it
    is too large or leaves no size that the filesystem can live in.
    """
    if required_bytes < 0 or limit_bytes < 0:
        raise InvalidError(f"capacity range {required_bytes}..{limit_bytes} is negative")
    if limit_bytes and required_bytes > limit_bytes:
        raise InvalidError(f"required {required_bytes} bytes are more than the limit {limit_bytes}")
    smallest = MIN_XFS_VOLUME_BYTES if fs_type == "xfs" else MIN_VOLUME_BYTES
    wanted = required_bytes or min(DEFAULT_VOLUME_BYTES, limit_bytes or DEFAULT_VOLUME_BYTES)
    size = round_up(max(wanted, smallest), BLOCK_BYTES)
    if limit_bytes and size > limit_bytes:
        raise OutOfRangeError(
            f"no size fits: the limit is {limit_bytes} bytes, the smallest volume"
            f" {smallest} bytes and sizes are multiples of {BLOCK_BYTES}"
        )
    if size > MAX_VOLUME_BYTES:
        raise OutOfRangeError(f"{size} bytes are more than the largest volume, {MAX_VOLUME_BYTES}")
    return size


def pool_promisable_bytes(
    pool_size_bytes: int, reserve_percent: int, over_provisioning_percent: int
) -> int:
    """How many bytes of volumes a pool of ``pool_size_bytes`` may promise in all."""
    usable = pool_size_bytes * (100 - reserve_percent) // 100
    return usable * over_provisioning_percent // 100


def pool_available_bytes(
    pool_size_bytes: int,
    pool_used_bytes: int,
    promised_bytes: int,
    reserve_percent: int,
    over_provisioning_percent: int,
) -> int:
    """The largest volume that the pool may still take; never negative, a multiple of 4096.

    Nothing when the pool holds so much data that its reserve is touched, whatever was promised.
    """
    usable = pool_size_bytes * (100 - reserve_percent) // 100
    if pool_used_bytes >= usable:
        return 0
    promisable = pool_promisable_bytes(pool_size_bytes, reserve_percent, over_provisioning_percent)
    return max(0, promisable - promised_bytes) // BLOCK_BYTES * BLOCK_BYTES


def format_bytes(value: int) -> str:
    """``value`` for a table: ``512Mi``, ``1.5Gi``; at most one decimal."""
    for unit, size in (("Ti", TIB), ("Gi", GIB), ("Mi", MIB), ("Ki", 1024)):
        if value >= size:
            text = f"{value / size:.1f}".removesuffix(".0")
            return f"{text}{unit}"
    return f"{value}"


def format_share(part: int, whole: int) -> str:
    """``part`` of ``whole`` as a percentage for a table; ``-`` when the whole is unknown."""
    return f"{100 * part / whole:.0f}%" if whole > 0 else "-"
