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
from twinvault_core.errors import NotFoundError
from twinvault_core.ids import is_valid_id
from twinvault_core.model import PoolSpec, PoolStatus, VolumeReplica

from . import devices, leaks, recovery, snapshot, trash, volume
from .drbd_kernel import HELPER_SOURCE
from .drbd_replica import Replicas
from .facts import DeviceFacts, Holding, Recovery, SnapshotFacts, VolumeFacts
from .freeze import Freezer
from .layout import DataDirectory
from .pods import CGROUP_ROOT
from .pool import Pools
from .publishing import Publishing
from .replication import Replication
from .snapshot import Snapshots
from .staged_record import StagedRecords
from .staging import Staging
from .volume import Volumes

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
        helper_source: Path = HELPER_SOURCE,
        cgroup_root: Path = CGROUP_ROOT,
    ) -> None:
        self._data = DataDirectory(data_dir)
        self._data.prepare()
        self._max_volumes = max_volumes
        self._pools = Pools(self._data, node_name)
        self._freezer = Freezer(self._data.frozen)
        self._volumes = Volumes(self._freezer)
        self._snapshots = Snapshots(self._freezer, clock)
        self._records = StagedRecords(self._data.staged)
        self.replication = Replication(
            self._pools.directory,
            Replicas(self._data, helper_source=helper_source),
            self._data,
            cgroup_root,
        )
        """Everything about the second replica; see there."""
        root = kubelet_dir.resolve()
        self._staging = Staging(self._pools, self._records, root)
        self._publishing = Publishing(self._pools, root)

    def recover(self) -> Recovery:
        """To call once at start, before anything else.

        Thaws what an earlier life left frozen, finishes deletions, sweeps temporary files that are
        provably ours, detaches devices that no one uses. Pools that are not mounted yet are swept
        by the first ``ensure_pool`` that mounts them.
        """
        return recovery.recover(self._data, self._pools.mounted(), self._freezer, self._records)

    def observe_devices(self) -> tuple[DeviceFacts, ...]:
        """Every whole block device of the node (no loop or RAM disks), sorted by path."""
        pools = self._pools.uuids()
        return tuple(
            devices.observe_device(device, pools) for device in devices.list_whole_devices()
        )

    def ensure_pool(self, spec: PoolSpec, storage_cluster: str) -> PoolStatus:
        """Find, or make on a provably blank device, the pool and mount it.

        Never raises for what a person must solve: the status is then Waiting (device missing or
        not blank) or Failed, with reason and message.
        """
        status, mounted_now = self._pools.ensure(spec, storage_cluster)
        if mounted_now:
            trash.sweep(self._pools.directory(spec.name))
        return status

    def observe_pool(self, name: str) -> PoolStatus | None:
        """State and usage of a pool as it is now, without acting; None: never made here."""
        return self._pools.observe(name)

    def ensure_volume(self, replica: VolumeReplica) -> VolumeFacts:
        """Make the volume (blank, from a snapshot, from a volume of the same pool) or grow it.

        NoSpaceError: the pool's reserve is touched. NotFoundError: pool or source missing.
        InvalidError: smaller than it is, or than its source. DataAtRiskError: data of another
        volume of that name is there (another UID) or its journal is unreadable; nothing touched.
        """
        pool = self._pools.directory(replica.pool)
        facts = self._volumes.ensure(pool, replica)
        self.replication.replicas.grow_metadata(pool, replica.volume)
        return facts

    def observe_volume(self, pool: str, volume_id: str) -> VolumeFacts | None:
        """The volume as it is on disk, or None."""
        directory = self._pools.directory(pool)
        try:
            return volume.observe_in(directory, directory.volume(volume_id))
        except NotFoundError:
            return None

    def erase_volume(self, pool: str, volume_id: str, volume_uid: str) -> None:
        """Delete the volume's data; nothing to do if there is none.

        InUseError while attached or mounted. DataAtRiskError when it is another volume's data.
        """
        directory = self._pools.directory(pool)
        self.replication.replicas.take_down(directory, volume_id, volume_uid)
        self._volumes.erase(directory, volume_id, volume_uid)
        self._records.remove(volume_id)

    def list_volumes(self, pool: str) -> tuple[VolumeFacts, ...]:
        """All volumes of a pool, the unfinished and the damaged ones too, sorted by id."""
        directory = self._pools.directory(pool)
        found = (volume.observe_or_problem(directory, name) for name in _names(directory.volumes))
        return tuple(facts for facts in found if facts is not None)

    def ensure_snapshot(
        self,
        pool: str,
        snapshot_id: str,
        volume_id: str,
        volume_uid: str,
        *,
        quiesced: bool = False,
    ) -> SnapshotFacts:
        """Take the snapshot unless it is there already; ready and durable on return.

        ``quiesced``: the caller holds the writes (``replication.quiesce``), here or at the primary;
        nothing is frozen then.

        NotFoundError: no such volume. AlreadyExistsError: it is of another volume. NoSpaceError.
        """
        directory = self._pools.directory(pool)
        return self._snapshots.ensure(
            directory, snapshot_id, volume_id, volume_uid, quiesced=quiesced
        )

    def observe_snapshot(self, pool: str, snapshot_id: str) -> SnapshotFacts | None:
        directory = self._pools.directory(pool)
        try:
            return snapshot.observe_in(directory, directory.snapshot(snapshot_id))
        except NotFoundError:
            return None

    def erase_snapshot(self, pool: str, snapshot_id: str) -> None:
        """Delete the snapshot's data; nothing to do if there is none."""
        self._snapshots.erase(self._pools.directory(pool), snapshot_id)

    def list_snapshots(self, pool: str) -> tuple[SnapshotFacts, ...]:
        directory = self._pools.directory(pool)
        found = (self.observe_snapshot(pool, name) for name in _names(directory.snapshots))
        return tuple(facts for facts in found if facts is not None)

    def stage(self, request: Stage, *, pool: str = "", volume_uid: str = "") -> dict[str, Any]:
        """Answer of ``agent_api.Stage``: ``{"devicePath": text}``.

        ``pool`` and ``volume_uid`` are checked when given; without ``pool`` all pools are searched.
        """
        return self._staging.stage(request, pool, volume_uid)

    def lift(self, volume_id: str, *, replicated: bool) -> Stage | None:
        """What must be staged anew before a pod gets the volume: see ``Staging.lift``."""
        return self._staging.lift(volume_id, replicated)

    def unstage(self, request: Unstage) -> dict[str, Any]:
        """Unmount and detach; ``{}``. Nothing to do when nothing is staged."""
        return self._staging.unstage(request)

    def publish(self, request: Publish) -> dict[str, Any]:
        """Bind to the target path; ``{}``. FailedPreconditionError when it is not staged."""
        return self._publishing.publish(request)

    def unpublish(self, request: Unpublish) -> dict[str, Any]:
        """Unmount the target path and remove it if empty; ``{}``."""
        return self._publishing.unpublish(request)

    def stats(self, request: Stats) -> dict[str, Any]:
        """Usage at a path, keys as in ``agent_api.Stats``. NotFoundError when not there."""
        return self._publishing.stats(request)

    def expand(self, request: Expand) -> dict[str, Any]:
        """Grow device and filesystem to the image's size; ``{"sizeBytes": int}``.

        FailedPreconditionError while the image is still smaller than ``size_bytes``.
        """
        return self._publishing.expand(request)

    def max_volumes(self) -> int:
        """How many volumes can be attached here at once."""
        return self._max_volumes

    def list_holdings(self) -> tuple[Holding, ...]:
        """Everything that the engine holds on this node: devices, mounts, files."""
        return leaks.list_holdings(self._data, self._pools.mounted())


def _names(parent: Path) -> list[str]:
    """Directories in ``parent`` that can be ours, sorted."""
    return sorted(entry.name for entry in parent.iterdir() if is_valid_id(entry.name))
