"""What was staged on this boot, and how: to answer a repeated call and to tidy up after a crash.

Only a memory of what was asked for; what is mounted is what the kernel says.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from twinvault_core.errors import DataAtRiskError

from . import durable
from .freeze import read_boot_id


@dataclass(frozen=True)
class StagedRecord:
    """``complete`` turns true when the stage call has done all of its work. ``lifted``: it had, and
    was undone below kubelet's back, to be staged anew before the next pod gets it.
    """

    volume_id: str
    pool: str
    staging_path: str
    volume_mode: str
    fs_type: str
    mount_options: tuple[str, ...]
    read_only: bool
    complete: bool
    boot_id: str
    lifted: bool = False


class StagedRecords:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, volume_id: str) -> Path:
        return self._directory / f"{volume_id}.json"

    def load(self, volume_id: str) -> StagedRecord | None:
        """The record of this boot; damaged and older ones count as none."""
        try:
            raw = durable.read_json(self._path(volume_id))
            if raw is None:
                return None
            record = StagedRecord(**{**raw, "mount_options": tuple(raw["mount_options"])})
        except (DataAtRiskError, TypeError, KeyError):
            return None
        return record if record.boot_id == read_boot_id() else None

    def save(self, record: StagedRecord) -> None:
        durable.write_json(self._path(record.volume_id), asdict(record))

    def remove(self, volume_id: str) -> None:
        if self._path(volume_id).exists():
            durable.remove_file(self._path(volume_id))

    def volume_ids(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self._directory.glob("*.json")))
