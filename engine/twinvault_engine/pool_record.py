"""How a node remembers its pools, and how a pool says whose it is.

The record lies in the data directory, the marker inside the pool. A device is our pool when its
filesystem has the UUID of our record, or when a marker inside names this node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinvault_core.errors import DataAtRiskError

from . import durable
from .layout import MARKER_FILE
from .xfs import LABEL_BYTES

FORMATTING = "formatting"
MADE = "made"
LABEL_PREFIX = "tv-"


@dataclass(frozen=True)
class PoolRecord:
    """``state`` is FORMATTING from before mkfs until the marker is in the pool, then MADE.

    ``instance`` and ``boot_id`` name the very device that was proved blank before mkfs.
    """

    name: str
    storage_cluster: str
    state: str
    uuid: str
    device: str
    instance: str
    boot_id: str
    reserve_percent: int


@dataclass(frozen=True)
class Marker:
    """What a pool carries inside."""

    pool: str
    storage_cluster: str
    node: str
    uuid: str


def choose_label(pool: str) -> str:
    """XFS label of a pool: ``tv-<pool>``, a digest of the name when that is too long."""
    room = LABEL_BYTES - len(LABEL_PREFIX)
    short = pool if len(pool) <= room else hashlib.sha256(pool.encode()).hexdigest()[:room]
    return LABEL_PREFIX + short


def load_record(directory: Path, name: str) -> PoolRecord | None:
    path = directory / f"{name}.json"
    raw = durable.read_json(path)
    if raw is None:
        return None
    try:
        return PoolRecord(**raw)
    except TypeError as error:
        raise DataAtRiskError(
            f"{path} is damaged ({error}); nothing was touched. Remove the file: the pool is then"
            " recognised by the marker inside it"
        ) from error


def save_record(directory: Path, record: PoolRecord) -> None:
    durable.write_json(directory / f"{record.name}.json", asdict(record))


def list_records(directory: Path) -> list[PoolRecord]:
    """All readable records, sorted by pool."""
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            record = load_record(directory, path.stem)
        except DataAtRiskError:
            continue
        if record is not None:
            found.append(record)
    return found


def load_marker(root: Path) -> Marker | None:
    raw: Mapping[str, Any] | None = durable.read_json(root / MARKER_FILE)
    if raw is None:
        return None
    try:
        return Marker(**raw)
    except TypeError as error:
        raise DataAtRiskError(f"{root / MARKER_FILE} is damaged ({error}); look at it") from error


def save_marker(root: Path, marker: Marker) -> None:
    durable.write_json(root / MARKER_FILE, asdict(marker))
