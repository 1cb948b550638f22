"""Taking and removing snapshots: a Snapshot object is written, its status is waited for."""

from __future__ import annotations

import time

from twinvault_core import conditions
from twinvault_core.errors import AlreadyExistsError, BusyError, DeadlineError, NotFoundError
from twinvault_core.model import Snapshot
from twinvault_kube.kinds import SNAPSHOTS

from .objects import Done, Json, Objects
from .outcomes import decide_taken
from .requests import SnapshotRequest, check_same_snapshot


class Snapshots:
    """Repeatable steps on Snapshot objects; the caller holds the snapshot's lock."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def ensure_taken(self, request: SnapshotRequest, seconds: float) -> Snapshot:
        """The snapshot, ready to use. A retry finds the first try's object, and its volume may be
        gone by then.
        """
        deadline = time.monotonic() + seconds
        known = self._objects.known_snapshot(request.snapshot_id)
        snapshot = known or await self._create(request)
        if snapshot.meta.deleting:
            raise BusyError(
                f"an earlier snapshot {request.snapshot_id} is being deleted; try again"
            )
        check_same_snapshot(request, snapshot)
        name, uid = snapshot.meta.name, snapshot.meta.uid

        def done(obj: Json | None) -> bool:
            if obj is None or obj["metadata"]["uid"] != uid:
                raise NotFoundError(f"snapshot {name} was deleted while it was being taken")
            return decide_taken(Snapshot.parse(obj))

        obj = await self._wait(name, done, deadline - time.monotonic(), f"snapshot {name}")
        return Snapshot.parse(obj)

    async def _create(self, request: SnapshotRequest) -> Snapshot:
        """The Snapshot, made now or before; asked for only where it cannot be made."""
        volume = await self._objects.find_volume(request.volume_id)
        if volume is not None and not volume.meta.deleting:
            try:
                obj = await self._objects.client.create(SNAPSHOTS, request.plan())
            except AlreadyExistsError:
                pass
            else:
                self._objects.snapshots.saw(obj)
                return Snapshot.parse(obj)
        earlier = await self._objects.find_snapshot(request.snapshot_id)
        if earlier is not None:
            return earlier
        if volume is None:
            raise NotFoundError(f"volume {request.volume_id!r} does not exist")
        if volume.meta.deleting:
            raise NotFoundError(f"volume {request.volume_id} is being deleted")
        raise BusyError(
            f"an earlier snapshot {request.snapshot_id} was deleted in this moment; try again"
        )

    async def ensure_deleted(self, snapshot_id: str, seconds: float) -> None:
        """Until every holder has erased its copy and the object is gone."""
        deadline = time.monotonic() + seconds
        snapshot = await self._objects.find_snapshot(snapshot_id)
        if snapshot is None:
            return
        uid = snapshot.meta.uid
        if not snapshot.meta.deleting:
            try:
                await self._objects.client.delete(SNAPSHOTS, snapshot_id, uid=uid)
            except NotFoundError:
                return

        def gone(obj: Json | None) -> bool:
            return obj is None or obj["metadata"]["uid"] != uid

        left = deadline - time.monotonic()
        await self._wait(snapshot_id, gone, left, f"snapshot {snapshot_id} to be erased")

    async def _wait(self, name: str, done: Done, seconds: float, what: str) -> Json:
        try:
            obj = await self._objects.snapshots.wait_for(name, done, seconds, what)
        except DeadlineError as error:
            last = self._objects.snapshots.store.get(name)
            listed = Snapshot.parse(last).conditions if last else ()
            ready = conditions.find_condition(listed, conditions.READY)
            said = ready.message if ready is not None and ready.message else "no word of it yet"
            raise DeadlineError(f"{error.message}: {said}") from None
        return obj or {}
