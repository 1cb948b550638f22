"""Making, growing and removing volumes: a Volume object is written, its status is waited for."""

from __future__ import annotations

import logging
import time

from twinvault_core import sizing
from twinvault_core.errors import (
    AlreadyExistsError,
    BusyError,
    DeadlineError,
    ErrorCode,
    InUseError,
    InvalidError,
    NotFoundError,
    OutOfRangeError,
    TwinvaultError,
    UnavailableError,
)
from twinvault_core.model import Source, Volume, VolumeMode
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import VOLUMES

from .capacity import growth_bytes
from .messages import homes_of, is_listed
from .objects import Done, Json, Objects
from .outcomes import (
    PlacementError,
    decide_created,
    decide_expanded,
    in_use_message,
    is_known_unused,
    is_placed,
    waiting_message,
)
from .requests import Origin, VolumeRequest, check_same_volume, plan_volume

logger = logging.getLogger(__name__)

IN_USE_GRACE_SECONDS = 5.0
"""How long to wait for the operator's word on whether a volume is used."""
WITHDRAW_SECONDS = 5.0
"""How long to wait for a Volume that could not be placed to be gone."""


class Volumes:
    """Repeatable steps on Volume objects; the caller holds the volume's lock."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def ensure_created(self, request: VolumeRequest, seconds: float) -> Volume:
        """The volume, ready; created if it is missing.

        1. A Volume of that id may be known: from an earlier try, or made by somebody else.
           Its annotation and its spec tell which.
        2. Else it is created, or found by AlreadyExists, and waited for until the deadline.
        3. If it cannot be placed it is taken away again, so that a try with another topology
           starts anew.
        """
        deadline = time.monotonic() + seconds
        volume = self._objects.known_volume(request.volume_id) or await self._create(request)
        if volume.meta.deleting:
            raise BusyError(f"an earlier volume {request.volume_id} is being deleted; try again")
        check_same_volume(request, volume)
        try:
            left = deadline - time.monotonic()
            return await self._wait_created(volume, request.required_bytes, left)
        except PlacementError:
            await self._withdraw(request.volume_id, volume.meta.uid)
            raise

    async def _create(self, request: VolumeRequest) -> Volume:
        """The Volume, made now or before.

        A name that is not known here is nearly always new, so nobody asks for it first: the API
        server tells when it is taken. A request that cannot be planned may still be a retry, whose
        source or pool went away since; it is asked for then.
        """
        try:
            planned = await self._plan(request)
        except TwinvaultError:
            earlier = await self._objects.find_volume(request.volume_id)
            if earlier is None:
                raise
            return earlier
        try:
            obj = await self._objects.client.create(VOLUMES, planned)
        except AlreadyExistsError:
            return await self._read_earlier(request.volume_id)
        self._objects.volumes.saw(obj)
        return Volume.parse(obj)

    async def _read_earlier(self, volume_id: str) -> Volume:
        earlier = await self._objects.read_volume(volume_id)
        if earlier is None:
            raise BusyError(f"an earlier volume {volume_id} was deleted in this moment; try again")
        return earlier

    async def _plan(self, request: VolumeRequest) -> Json:
        origin = await self._find_origin(request.source)
        if not (request.pool or origin.pool):
            origin = Origin(pool=self._default_pool())
        elif request.pool and request.pool not in self._objects.pool_names():
            known = ", ".join(self._objects.pool_names()) or "none"
            raise InvalidError(f"no StorageCluster has a pool {request.pool!r}; known are: {known}")
        return plan_volume(request, origin)

    def _default_pool(self) -> str:
        names = self._objects.pool_names()
        if len(names) != 1:
            raise InvalidError(
                "the StorageClass has no parameter pool and there is not exactly one pool to take"
                f" (pools: {', '.join(names) or 'none; make a StorageCluster'})"
            )
        return names[0]

    async def _find_origin(self, source: Source) -> Origin:
        """NotFoundError when the source is gone, UnavailableError while it is not ready."""
        if source.snapshot:
            snapshot = await self._objects.find_snapshot(source.snapshot)
            if snapshot is None or snapshot.meta.deleting:
                raise NotFoundError(f"snapshot {source.snapshot!r} does not exist")
            if not snapshot.ready_to_use or not snapshot.holders:
                raise UnavailableError(f"snapshot {source.snapshot} is not ready to use yet")
            return Origin(
                pool=snapshot.holders[0].pool,
                size_bytes=snapshot.size_bytes,
                volume_mode=VolumeMode(snapshot.volume_mode or "Filesystem"),
                fs_type=snapshot.fs_type,
            )
        if source.volume:
            volume = await self._objects.find_volume(source.volume)
            if volume is None or volume.meta.deleting:
                raise NotFoundError(f"source volume {source.volume!r} does not exist")
            if not is_listed(volume):
                raise UnavailableError(f"source volume {source.volume} is not ready yet")
            size = max(volume.size_bytes, volume.status_size_bytes)
            return Origin(volume.pool, size, volume.volume_mode, volume.fs_type)
        return Origin()

    async def _wait_created(self, volume: Volume, required_bytes: int, seconds: float) -> Volume:
        name, uid = volume.meta.name, volume.meta.uid

        def done(obj: Json | None) -> bool:
            if obj is None or obj["metadata"]["uid"] != uid:
                raise UnavailableError(f"Volume {name} was deleted while it was being made")
            return decide_created(Volume.parse(obj), required_bytes)

        return Volume.parse(await self._wait(name, done, seconds, f"volume {name} to be made"))

    async def _wait(self, name: str, done: Done, seconds: float, what: str) -> Json:
        """wait_for, with what the volume says of itself when the time is up."""
        volumes = self._objects.volumes
        try:
            obj = await volumes.wait_for(name, done, seconds, what)
        except DeadlineError:
            last = volumes.store.get(name)
            message = waiting_message(Volume.parse(last) if last else None, what)
            raise DeadlineError(f"waited {seconds:.0f} s for {message}") from None
        return obj or {}

    async def _withdraw(self, name: str, uid: str) -> None:
        """Take away a Volume that no node holds data of. Best effort: a retry does it again."""
        last = self._objects.volumes.store.get(name)
        if last is None or is_placed(Volume.parse(last)):
            return
        try:
            await self._objects.client.delete(VOLUMES, name, uid=uid)
            await self._objects.volumes.wait_for(
                name, _is_gone(uid), WITHDRAW_SECONDS, f"volume {name} to be gone"
            )
        except TwinvaultError as error:
            logger.warning("volume %s could not be taken back: %s", name, error.message)

    async def ensure_deleted(self, volume_id: str, seconds: float) -> None:
        """Until the object is gone; InUseError, with nothing changed, while something uses it."""
        deadline = time.monotonic() + seconds
        volume = await self._objects.read_volume(volume_id)
        if volume is None:
            return
        if not volume.meta.deleting:
            await self._wait_unused(volume, min(seconds, IN_USE_GRACE_SECONDS))
            try:
                await self._objects.client.delete(VOLUMES, volume_id, uid=volume.meta.uid)
            except NotFoundError:
                return
        left = deadline - time.monotonic()
        await self._wait(volume_id, _is_gone(volume.meta.uid), left, f"{volume_id} to be erased")

    async def _wait_unused(self, volume: Volume, seconds: float) -> None:
        """The report of an unstage takes a moment to arrive here; publishedTo does not."""
        if volume.published_to:
            raise InUseError(in_use_message(volume))
        name = volume.meta.name

        def done(obj: Json | None) -> bool:
            return obj is None or is_known_unused(Volume.parse(obj))

        try:
            await self._objects.volumes.wait_for(name, done, seconds, f"{name} to be unused")
        except DeadlineError:
            known = self._objects.known_volume(name)
            used = in_use_message(known) if known is not None else ""
            # An operator that is silent holds the deletion by its finalizer until it looks.
            if used:
                raise InUseError(used) from None

    async def ensure_expanded(
        self, volume_id: str, required_bytes: int, limit_bytes: int, seconds: float
    ) -> Volume:
        """The volume with at least ``required_bytes``; OutOfRangeError where that cannot be."""
        deadline = time.monotonic() + seconds
        volume = await self._objects.require_volume(volume_id)
        size = sizing.choose_volume_size(required_bytes, limit_bytes, volume.fs_type or None)
        if limit_bytes and volume.status_size_bytes > limit_bytes:
            raise OutOfRangeError(
                f"volume {volume_id} has {volume.status_size_bytes} bytes already, more than the"
                f" limit {limit_bytes}; volumes do not shrink"
            )
        while volume.size_bytes < size:
            volume = await self._grow_spec(volume, size)

        def done(obj: Json | None) -> bool:
            if obj is None:
                raise NotFoundError(f"volume {volume_id} was deleted while it was growing")
            return decide_expanded(Volume.parse(obj), size)

        left = deadline - time.monotonic()
        try:
            return Volume.parse(await self._wait(volume_id, done, left, f"{volume_id} to grow"))
        except OutOfRangeError:
            await self._take_growth_back(volume_id)
            raise

    async def _take_growth_back(self, volume_id: str) -> None:
        """So that the caller can come with a smaller size. Best effort: a retry does it again.

        1. What we knew of the pool was older than what the operator knows: there is no room.
        2. Meanwhile room may come and the volume grow: then the compare-and-swap is lost, or the
           schema refuses to go below the size that was made.
        """
        last = self._objects.volumes.store.get(volume_id)
        volume = Volume.parse(last) if last else None
        if volume is None or not 0 < volume.status_size_bytes < volume.size_bytes:
            return
        patch = {"spec": {"sizeBytes": volume.status_size_bytes}}
        version = volume.meta.resource_version
        try:
            obj = await self._objects.client.patch(
                VOLUMES, volume_id, patch, resource_version=version
            )
        except TwinvaultError as error:
            logger.warning("growth of %s could not be taken back: %s", volume_id, error.message)
        else:
            self._objects.volumes.saw(obj)

    async def _grow_spec(self, volume: Volume, size: int) -> Volume:
        """One attempt; what the volume is afterwards. A spec never shrinks, so room is asked for
        first: the caller can still come with a smaller size then.
        """
        if volume.meta.deleting:
            raise TwinvaultError(
                f"volume {volume.meta.name} is being deleted", ErrorCode.FAILED_PRECONDITION
            )
        room = growth_bytes(self._objects.all_clusters(), volume.pool, homes_of(volume))
        if room is None:
            raise UnavailableError(
                f"pool {volume.pool} is not ready on every node that holds {volume.meta.name};"
                " see kubectl get storagenodes"
            )
        if size - volume.size_bytes > room:
            raise OutOfRangeError(
                f"volume {volume.meta.name} can grow by {sizing.format_bytes(room)}, not by"
                f" {sizing.format_bytes(size - volume.size_bytes)}: pool {volume.pool} is full"
                f" on {', '.join(homes_of(volume)) or 'its node'}"
            )
        patch = {"spec": {"sizeBytes": size}}
        version = volume.meta.resource_version
        try:
            obj = await self._objects.client.patch(
                VOLUMES, volume.meta.name, patch, resource_version=version
            )
        except ConflictError:
            obj = await self._objects.client.get(VOLUMES, volume.meta.name)
        self._objects.volumes.saw(obj)
        return Volume.parse(obj)


def _is_gone(uid: str) -> Done:
    return lambda obj: obj is None or obj["metadata"]["uid"] != uid
