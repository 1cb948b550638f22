"""replication.json beside volume.json: that the volume is replicated, and how.

``metadata`` is ``creating`` before meta.img is touched and ``ready`` when it is whole; metadata is
made only while it says ``creating``, and the volume is brought up only when it says ``ready``. So
metadata that was ever used is never made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from twinvault_core.errors import DataAtRiskError
from twinvault_core.model import ReplicationSpec

from . import durable
from .journal import REPLICATION_FILE

_VERSION = 1


class Metadata(StrEnum):
    CREATING = "creating"
    READY = "ready"


@dataclass(frozen=True)
class ReplicaRecord:
    volume_id: str
    volume_uid: str
    spec: ReplicationSpec
    metadata: Metadata = Metadata.CREATING

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "volume_id": self.volume_id,
            "volume_uid": self.volume_uid,
            "spec": self.spec.to_dict(),
            "metadata": self.metadata.value,
        }


def load(directory: Path) -> ReplicaRecord | None:
    """The record of the volume in ``directory``, None when it is not replicated.

    DataAtRiskError when it is damaged.
    """
    raw = durable.read_json(directory / REPLICATION_FILE)
    return None if raw is None else _parse(raw, directory / REPLICATION_FILE)


def _parse(raw: Mapping[str, Any], where: Path) -> ReplicaRecord:
    try:
        spec = ReplicationSpec.parse(raw["spec"])
        known = raw["version"] == _VERSION
        metadata = Metadata(raw["metadata"])
        volume_id, volume_uid = str(raw["volume_id"]), str(raw["volume_uid"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(where, repr(error)) from error
    if spec is None or not known:
        raise _damaged(where, f"version {raw['version']!r}")
    return ReplicaRecord(volume_id, volume_uid, spec, metadata)


def _damaged(where: Path, why: str) -> DataAtRiskError:
    return DataAtRiskError(
        f"{where} is damaged or of another version ({why}); nothing was touched. Restore the file,"
        " or give up this replica: the other one is not concerned"
    )


def save(directory: Path, record: ReplicaRecord, **changes: Any) -> ReplicaRecord:
    """Write the record durably, with ``changes``; returns what was written."""
    changed = replace(record, **changes)
    durable.write_json(directory / REPLICATION_FILE, changed.to_dict())
    return changed


def remove(directory: Path) -> None:
    durable.remove_file(directory / REPLICATION_FILE)
