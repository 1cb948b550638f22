"""Where things lie: in the data directory, and inside a pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twinvault_core.ids import parse_id

from . import durable

MARKER_FILE = "twinvault-pool.json"


@dataclass(frozen=True)
class DataDirectory:
    """The engine's own directory on the host: mount points and records, no volume data."""

    root: Path

    @property
    def pools(self) -> Path:
        return self.root / "pools"

    @property
    def probes(self) -> Path:
        return self.root / "probes"

    @property
    def pool_records(self) -> Path:
        return self.root / "records" / "pools"

    @property
    def staged(self) -> Path:
        return self.root / "records" / "staged"

    @property
    def frozen(self) -> Path:
        return self.root / "records" / "frozen"

    @property
    def drbd(self) -> Path:
        """Resource files of the replicated volumes."""
        return self.root / "records" / "drbd"

    @property
    def fence(self) -> Path:
        """The program that DRBD's module calls on the host, and what it needs."""
        return self.root / "fence"

    def prepare(self) -> None:
        """Create what is missing."""
        self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
        durable.make_directory(self.root / "records")
        for path in (
            self.pools,
            self.probes,
            self.pool_records,
            self.staged,
            self.frozen,
            self.drbd,
        ):
            durable.make_directory(path)


@dataclass(frozen=True)
class PoolDirectory:
    """A mounted pool. ``reserve_percent`` of it is never given to new volumes and snapshots."""

    name: str
    root: Path
    reserve_percent: int = 0

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    def volume(self, volume_id: str) -> Path:
        """Directory of a volume; InvalidError for an id that is no plain name."""
        return self.volumes / parse_id(volume_id, "volume id")

    def snapshot(self, snapshot_id: str) -> Path:
        return self.snapshots / parse_id(snapshot_id, "snapshot id")

    def prepare(self) -> None:
        for path in (self.volumes, self.snapshots, self.trash):
            durable.make_directory(path)
