"""Data on this node's disks that no object speaks of: told always, erased only when listed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.model import VolumeReplica
from twinvault_core.sizing import format_bytes
from twinvault_kube.client import KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import SNAPSHOTS, VOLUME_REPLICAS

from ..facts import SnapshotFacts, VolumeFacts
from .locks import VolumeLocks, snapshot_key, volume_key
from .safety_clones import is_resync_clone
from .storage import Storage, StorageThreads


@dataclass(frozen=True)
class Orphan:
    """``snapshot_id`` is empty for a volume's own data."""

    pool: str
    volume_id: str
    volume_uid: str
    size_bytes: int
    snapshot_id: str = ""
    problem: str = ""
    """Why it cannot be read."""
    failure: str = ""
    """Why it could not be erased although it is listed."""

    @property
    def id(self) -> str:
        """What a person lists in ``spec.eraseOrphans``."""
        return self.snapshot_id or self.volume_id

    def to_dict(self, node: str) -> dict[str, Any]:
        """As an entry of StorageNode ``status.orphans``."""
        what = "data"
        if self.snapshot_id:
            what = f"snapshot of volume {self.volume_id}"
        message = (
            f"{what} (volume UID {self.volume_uid}, {format_bytes(self.size_bytes)}) that no object"
            f" speaks of; to erase it list {self.id} in spec.eraseOrphans of StorageNode {node}"
        )
        if self.problem:
            message = f"left-over data that cannot be read: {self.problem}"
        if self.failure:
            message = f"could not be erased: {self.failure}"
        return {
            "volume": self.id,
            "pool": self.pool,
            "sizeBytes": self.size_bytes,
            "message": message,
        }


def choose_orphans(
    volumes: Iterable[VolumeFacts],
    snapshots: Iterable[SnapshotFacts],
    replicas: Iterable[VolumeReplica],
    snapshot_ids: Collection[str],
) -> list[Orphan]:
    """What is on disk and not spoken of, sorted by pool and id.

    Data whose UID differs from that of the replica of the same name is another volume's.
    """
    spoken = {(r.pool, r.volume, r.volume_uid) for r in replicas}
    # Whose data it is that cannot be read is not known: a replica of its name may own it.
    names = {(pool, volume) for pool, volume, _ in spoken}
    snapshots = [
        s
        for s in snapshots
        # One that the agent itself took before a resync goes with the volume, or before.
        if not (is_resync_clone(s) and (s.pool, s.volume_id, s.volume_uid) in spoken)
    ]
    orphans = [
        Orphan(v.pool, v.volume_id, v.volume_uid, v.size_bytes, problem=v.problem)
        for v in volumes
        if (v.pool, v.volume_id, v.volume_uid) not in spoken
        and not (v.problem and (v.pool, v.volume_id) in names)
    ]
    orphans += [
        Orphan(s.pool, s.volume_id, s.volume_uid, s.size_bytes, s.snapshot_id)
        for s in snapshots
        if s.snapshot_id not in snapshot_ids
    ]
    return sorted(orphans, key=lambda orphan: (orphan.pool, orphan.id))


class OrphanKeeper:
    """Finds orphans, and erases those that a person has listed."""

    def __init__(
        self,
        client: KubeClient,
        replicas: Informer,
        snapshots: Informer,
        storage: Storage,
        threads: StorageThreads,
        locks: VolumeLocks,
    ) -> None:
        self._client, self._replicas, self._snapshots = client, replicas, snapshots
        self._storage, self._threads, self._locks = storage, threads, locks

    async def find(self, pools: Iterable[str]) -> list[Orphan]:
        """Orphans in these pools, by what the informers know. They must be synced."""
        orphans: list[Orphan] = []
        for pool in pools:
            volumes = await self._run("list_volumes", partial(self._storage.list_volumes, pool))
            snapshots = await self._run(
                "list_snapshots", partial(self._storage.list_snapshots, pool)
            )
            # Read after the disk: what was made meanwhile had its object before its data.
            replicas = [VolumeReplica.parse(obj) for obj in self._replicas.store.values()]
            orphans += choose_orphans(volumes, snapshots, replicas, self._snapshots.store.keys())
        return orphans

    async def erase(self, orphan: Orphan, node: str) -> Orphan | None:
        """Erase it, or say in the answer why not; None when it is gone.

        1. The informers may be behind: an object may have come that speaks of this data.
        2. So the API server is asked once more, while the lock keeps our own hands off it.
        """
        keys = [volume_key(orphan.volume_id)]
        if orphan.snapshot_id:
            keys.append(snapshot_key(orphan.snapshot_id))
        try:
            async with self._locks.hold(keys, f"erasing orphan {orphan.id}"):
                if await self._is_spoken_of(orphan, node):
                    return None
                await self._run("erase_orphan", partial(self._erase_now, orphan))
        except TwinvaultError as error:
            return Orphan(**{**vars(orphan), "failure": error.message})
        return None

    def _erase_now(self, orphan: Orphan) -> None:
        if orphan.snapshot_id:
            self._storage.erase_snapshot(orphan.pool, orphan.snapshot_id)
        else:
            self._storage.erase_volume(orphan.pool, orphan.volume_id, orphan.volume_uid)

    async def _is_spoken_of(self, orphan: Orphan, node: str) -> bool:
        if orphan.snapshot_id:
            try:
                await self._client.get(SNAPSHOTS, orphan.snapshot_id)
            except NotFoundError:
                return False
            return True
        found, _ = await self._client.list(VOLUME_REPLICAS, fields=f"spec.nodeName={node}")
        wanted = (orphan.pool, orphan.volume_id, orphan.volume_uid)
        return any(
            (r.pool, r.volume, r.volume_uid) == wanted for r in map(VolumeReplica.parse, found)
        )

    async def _run(self, kind: str, work: Callable[[], Any]) -> Any:
        return await self._threads.run(kind, work)
