"""volume.json and snapshot.json: what the engine knows of the files beside them.

A directory without its journal is ours only when it is empty. ``ready`` turns true last, when the
content is durable. ``deleted`` turns true first, before anything goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from twinvault_core.errors import DataAtRiskError
from twinvault_core.model import VolumeMode

from . import durable

VOLUME_FILE = "volume.json"
SNAPSHOT_FILE = "snapshot.json"
DATA_FILE = "data.img"
META_FILE = "meta.img"
REPLICATION_FILE = "replication.json"
_VERSION = 1


class Format(StrEnum):
    """How far the volume's filesystem is.

    ``NEVER``: no mkfs of ours has touched the image. ``STARTED``: one has, and it was not mounted
    since: the image may be emptied and formatted again. ``DONE``: never format.
    """

    NEVER = "never"
    STARTED = "started"
    DONE = "done"


@dataclass(frozen=True)
class VolumeRecord:
    volume_id: str
    volume_uid: str
    volume_mode: VolumeMode
    fs_type: str
    size_bytes: int
    source_snapshot: str = ""
    source_volume: str = ""
    format: Format = Format.NEVER
    ready: bool = False
    deleted: bool = False
    version: int = _VERSION

    @classmethod
    def parse(cls, raw: Mapping[str, Any], where: Path) -> Self:
        """DataAtRiskError unless ``raw`` has exactly the fields of a journal that we write."""
        return cls(**_checked(raw, where, cls, {"volume_mode": VolumeMode, "format": Format}))


@dataclass(frozen=True)
class SnapshotRecord:
    snapshot_id: str
    volume_id: str
    volume_uid: str
    volume_mode: VolumeMode
    fs_type: str
    size_bytes: int
    creation_time: str = ""
    format: Format = Format.NEVER
    ready: bool = False
    deleted: bool = False
    version: int = _VERSION

    @classmethod
    def parse(cls, raw: Mapping[str, Any], where: Path) -> Self:
        return cls(**_checked(raw, where, cls, {"volume_mode": VolumeMode, "format": Format}))


Record = VolumeRecord | SnapshotRecord
_TYPES = {"size_bytes": int, "version": int, "ready": bool, "deleted": bool}


def _checked(
    raw: Mapping[str, Any], where: Path, kind: type[Record], enums: Mapping[str, type[StrEnum]]
) -> dict[str, Any]:
    fields = kind.__dataclass_fields__
    if raw.get("version") != _VERSION:
        raise DataAtRiskError(
            f"{where} has version {raw.get('version')!r}, this program knows {_VERSION};"
            " nothing was touched. Run the version of the program that wrote it"
        )
    wrong = set(raw) ^ set(fields)
    wrong |= {name for name in set(raw) & set(fields) if type(raw[name]) is not _type_of(name)}
    for name, enum in enums.items():
        if name not in wrong and raw[name] not in set(enum):
            wrong.add(name)
    if wrong:
        raise DataAtRiskError(
            f"{where} is damaged (field {', '.join(sorted(wrong))}); nothing was touched. Restore"
            f" the file from a backup, or move {where.parent} away if its data is not needed"
        )
    return {name: enums[name](raw[name]) if name in enums else raw[name] for name in fields}


def _type_of(name: str) -> type:
    return _TYPES.get(name, str)


def load_volume(directory: Path) -> VolumeRecord | None:
    """The volume's journal; None when there is no volume (perhaps an empty directory)."""
    raw = _load(directory, VOLUME_FILE)
    return None if raw is None else VolumeRecord.parse(raw, directory / VOLUME_FILE)


def load_snapshot(directory: Path) -> SnapshotRecord | None:
    raw = _load(directory, SNAPSHOT_FILE)
    return None if raw is None else SnapshotRecord.parse(raw, directory / SNAPSHOT_FILE)


def _load(directory: Path, name: str) -> dict[str, Any] | None:
    raw = durable.read_json(directory / name)
    if raw is None and not is_vacant(directory, name):
        raise DataAtRiskError(
            f"{directory} holds files but no {name}; nothing was touched. Move the directory away"
            " if its data is not needed"
        )
    return raw


def is_vacant(directory: Path, name: str) -> bool:
    """Whether a crash can have left ``directory`` so: not there, or at most a temporary journal."""
    try:
        entries = {entry.name for entry in directory.iterdir()}
    except FileNotFoundError:
        return True
    return entries <= {name + durable.TEMPORARY_SUFFIX}


def save_volume(directory: Path, record: VolumeRecord, **changes: Any) -> VolumeRecord:
    """Write the journal durably, with ``changes``; returns what was written."""
    changed = replace(record, **changes)
    durable.write_json(directory / VOLUME_FILE, asdict(changed))
    return changed


def save_snapshot(directory: Path, record: SnapshotRecord, **changes: Any) -> SnapshotRecord:
    changed = replace(record, **changes)
    durable.write_json(directory / SNAPSHOT_FILE, asdict(changed))
    return changed
