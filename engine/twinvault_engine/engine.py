"""The engine's front door: everything that the agent may ask of a node's storage.

All methods are synchronous and may be called from any thread. Two different volumes at once are
safe; the caller serialises the calls for one volume, and the ``ensure_pool`` calls of one pool
are serialised here. Every method may be repeated after a crash at any line. Expected failures are
``twinvault_core.errors.TwinvaultError`` with a message for a person.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import Expand, Publish, Stage, Stats, Unpublish, Unstage
from twinvault_core.model import PoolSpec, PoolStatus, VolumeReplica

from .facts import DeviceFacts, Holding, Recovery, SnapshotFacts, VolumeFacts

DEFAULT_MAX_VOLUMES = 256


def utc_now() -> datetime:
    return datetime.now(UTC)


class Engine:
    """The storage of one node.

    ``data_dir`` holds the pools' mount points and the engine's records; it must be on a mount that
    propagates to the host. ``kubelet_dir``: every staging and target path must lie below it.
    """

    def __init__(
        self,
        data_dir: Path,
        node_name: str,
        kubelet_dir: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        max_volumes: int = DEFAULT_MAX_VOLUMES,
    ) -> None:
        raise NotImplementedError

    def recover(self) -> Recovery:
        """To call once at start, before anything else.

        Thaws what an earlier life left frozen, finishes deletions, sweeps temporary files that are
        provably ours, detaches devices that no one uses. Pools that are not mounted yet are swept
        by the first ``ensure_pool`` that mounts them.
        """
        raise NotImplementedError

    def observe_devices(self) -> tuple[DeviceFacts, ...]:
        """Every whole block device of the node (no loop or RAM disks), sorted by path."""
        raise NotImplementedError

    def ensure_pool(self, spec: PoolSpec, storage_cluster: str) -> PoolStatus:
        """Find, or make on a provably blank device, the pool and mount it.

        Never raises for what a person must solve: the status is then Waiting (device missing or
        not blank) or Failed, with reason and message.
        """
        raise NotImplementedError

    def observe_pool(self, name: str) -> PoolStatus | None:
        """State and usage of a pool as it is now, without acting; None: never made here."""
        raise NotImplementedError

    def ensure_volume(self, replica: VolumeReplica) -> VolumeFacts:
        """Make the volume (blank, from a snapshot, from a volume of the same pool) or grow it.

        NoSpaceError: the pool's reserve is touched. NotFoundError: pool or source missing.
        InvalidError: smaller than it is, or than its source. DataAtRiskError: data of another
        volume of that name is there (another UID) or its journal is unreadable; nothing touched.
        """
        raise NotImplementedError

    def observe_volume(self, pool: str, volume_id: str) -> VolumeFacts | None:
        """The volume as it is on disk, or None."""
        raise NotImplementedError

    def erase_volume(self, pool: str, volume_id: str, volume_uid: str) -> None:
        """Delete the volume's data; nothing to do if there is none.

        InUseError while attached or mounted. DataAtRiskError when it is another volume's data.
        """
        raise NotImplementedError

    def list_volumes(self, pool: str) -> tuple[VolumeFacts, ...]:
        """All volumes of a pool, the unfinished ones too, sorted by id."""
        raise NotImplementedError

    def ensure_snapshot(
        self, pool: str, snapshot_id: str, volume_id: str, volume_uid: str
    ) -> SnapshotFacts:
        """Take the snapshot unless it is there already; ready and durable on return.

        NotFoundError: no such volume. AlreadyExistsError: it is of another volume. NoSpaceError.
        """
        raise NotImplementedError

    def observe_snapshot(self, pool: str, snapshot_id: str) -> SnapshotFacts | None:
        raise NotImplementedError

    def erase_snapshot(self, pool: str, snapshot_id: str) -> None:
        """Delete the snapshot's data; nothing to do if there is none."""
        raise NotImplementedError

    def list_snapshots(self, pool: str) -> tuple[SnapshotFacts, ...]:
        raise NotImplementedError

    def stage(self, request: Stage, *, pool: str = "", volume_uid: str = "") -> dict[str, Any]:
        """Answer of ``agent_api.Stage``: ``{"devicePath": text}``.

        ``pool`` and ``volume_uid`` are checked when given; without ``pool`` all pools are searched.
        """
        raise NotImplementedError

    def unstage(self, request: Unstage) -> dict[str, Any]:
        """Unmount and detach; ``{}``. Nothing to do when nothing is staged."""
        raise NotImplementedError

    def publish(self, request: Publish) -> dict[str, Any]:
        """Bind to the target path; ``{}``. FailedPreconditionError when it is not staged."""
        raise NotImplementedError

    def unpublish(self, request: Unpublish) -> dict[str, Any]:
        """Unmount the target path and remove it if empty; ``{}``."""
        raise NotImplementedError

    def stats(self, request: Stats) -> dict[str, Any]:
        """Usage at a path, keys as in ``agent_api.Stats``. NotFoundError when not there."""
        raise NotImplementedError

    def expand(self, request: Expand) -> dict[str, Any]:
        """Grow device and filesystem to the image's size; ``{"sizeBytes": int}``.

        FailedPreconditionError while the image is still smaller than ``size_bytes``.
        """
        raise NotImplementedError

    def max_volumes(self) -> int:
        """How many volumes can be attached here at once."""
        raise NotImplementedError

    def list_holdings(self) -> tuple[Holding, ...]:
        """Everything that the engine holds on this node: devices, mounts, files."""
        raise NotImplementedError
