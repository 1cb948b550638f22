"""Which node may use a volume: ``Volume.spec.publishedTo``, changed by compare-and-swap.

For a replicated volume that is a wish: the operator moves the primary there as soon as that is
safe, and the call waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinvault_core.errors import (
    AlreadyExistsError,
    BusyError,
    DeadlineError,
    FailedPreconditionError,
    InvalidError,
    NoSpaceError,
    NotFoundError,
    UnavailableError,
)
from twinvault_core.model import StorageNode, Volume
from twinvault_core.names import ANNOTATION_READ_ONLY
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import VOLUMES

from .messages import homes_of
from .objects import Json, Objects
from .primary import check_in_sync, decide_primary, held_message, is_replicated, primary_message
from .validation import Capability

ATTEMPTS = 8
"""Compare-and-swaps that may be lost to the operator before the caller is told to come again."""

PRIMARY_WAIT_SECONDS = 15.0
"""The longest wait for a primary in one call: the attacher has so many threads for all volumes."""


def is_read_only(volume: Volume) -> bool:
    return volume.meta.annotations.get(ANNOTATION_READ_ONLY) == "true"


def check_publish(
    volume: Volume, node: StorageNode, capability: Capability, read_only: bool, published: int
) -> None:
    """Raises unless ``volume`` may be published to ``node``, where ``published`` others are."""
    name, here = volume.meta.name, node.meta.name
    if capability.volume_mode is not volume.volume_mode:
        raise InvalidError(
            f"volume {name} is a {volume.volume_mode} volume, not {capability.volume_mode}"
        )
    if volume.published_to == (here,):
        if is_read_only(volume) != read_only:
            now = "read-only" if is_read_only(volume) else "for writing"
            raise AlreadyExistsError(f"volume {name} is published to {here} {now}; unpublish first")
        return
    if volume.published_to:
        raise FailedPreconditionError(held_message(volume))
    if volume.meta.deleting:
        raise FailedPreconditionError(f"volume {name} is being deleted")
    if here not in homes_of(volume):
        raise FailedPreconditionError(
            f"node {here} holds no replica of volume {name}; replicas are on"
            f" {', '.join(homes_of(volume)) or 'no node yet'}"
        )
    check_in_sync(volume, here)
    if node.max_volumes and published >= node.max_volumes:
        raise NoSpaceError(
            f"node {here} has {published} volumes, as many as it can attach; stop a pod there"
        )


class Publishing:
    """Repeatable; the caller holds the volume's lock, the API server settles any other race.

    Always decided on what the API server says: with an old copy, "it is not published" would make
    the caller forget a volume that is, and no other node could ever have it.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def ensure_published(
        self, volume_id: str, node_id: str, capability: Capability, read_only: bool
    ) -> Volume:
        """The volume, published to ``node_id``; ``wait_primary`` tells when it can be used there.

        The check and the write are one: the write is lost if the record moved in between.
        """
        volume = await self._require(volume_id)
        node = await self._objects.find_node(node_id)
        if node is None:
            raise NotFoundError(
                f"node {node_id!r} does not exist: no StorageCluster has selected it"
            )
        patch = {
            "metadata": {"annotations": {ANNOTATION_READ_ONLY: "true" if read_only else None}},
            "spec": {"publishedTo": [node_id]},
        }
        for _ in range(ATTEMPTS):
            published = len(self._objects.volumes.find("publishedTo", node_id))
            check_publish(volume, node, capability, read_only, published)
            if volume.published_to:
                return volume
            written = await self._swap(volume, patch)
            if written is not None:
                return written
            volume = await self._require(volume_id)
        raise BusyError(f"volume {volume_id} changes all the time; try again")

    async def wait_primary(self, volume: Volume, node_id: str, seconds: float) -> None:
        """Until ``node_id`` is the primary of ``volume``, which is published to it.

        Nothing is written here, so the caller holds no lock: the volume may be unpublished, grown
        or moved meanwhile, and each change of it is looked at.
        """
        if not is_replicated(volume):
            return
        seconds = min(seconds, PRIMARY_WAIT_SECONDS)
        name, uid = volume.meta.name, volume.meta.uid

        def done(obj: Json | None) -> bool:
            if obj is None or obj["metadata"]["uid"] != uid:
                raise UnavailableError(f"volume {name} is gone; try again")
            return decide_primary(Volume.parse(obj), node_id)

        try:
            await self._objects.volumes.wait_for(name, done, seconds, f"primary of {name}")
        except DeadlineError:
            last = self._objects.volumes.store.get(name)
            said = primary_message(Volume.parse(last) if last else None)
            raise DeadlineError(
                f"waited {seconds:.0f} s for node {node_id} to become primary of volume {name}:"
                f" {said}"
            ) from None

    async def ensure_unpublished(self, volume_id: str, node_id: str) -> None:
        """``node_id`` empty: from every node. Done already when the volume is gone.

        Asks the API server alone: a node that is dead is unpublished like any other.
        """
        patch = {
            "metadata": {"annotations": {ANNOTATION_READ_ONLY: None}},
            "spec": {"publishedTo": None},
        }
        for _ in range(ATTEMPTS):
            volume = await self._objects.read_volume(volume_id)
            if volume is None or not volume.published_to:
                return
            if node_id and node_id not in volume.published_to:
                return
            try:
                if await self._swap(volume, patch) is not None:
                    return
            except NotFoundError:
                return
        raise BusyError(f"volume {volume_id} changes all the time; try again")

    async def _swap(self, volume: Volume, patch: Mapping[str, Any]) -> Volume | None:
        """The volume with ``patch``; None when the object had changed."""
        meta = volume.meta
        try:
            obj = await self._objects.client.patch(
                VOLUMES, meta.name, patch, resource_version=meta.resource_version, uid=meta.uid
            )
        except ConflictError:
            return None
        self._objects.volumes.saw(obj)
        return Volume.parse(obj)

    async def _require(self, volume_id: str) -> Volume:
        volume = await self._objects.read_volume(volume_id)
        if volume is None:
            raise NotFoundError(f"volume {volume_id!r} does not exist")
        return volume
