"""What a node's agent does next about one VolumeReplica: a pure decision with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from .errors import ErrorCode, TwinvaultError
from .model import PoolState, PoolStatus, ReplicaState, VolumeReplica
from .names import FINALIZER_REPLICA
from .sizing import format_bytes


class ImageFacts(Protocol):
    """What the plan needs to know of the volume on disk."""

    @property
    def volume_uid(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def ready(self) -> bool: ...
    @property
    def in_use(self) -> bool: ...


class ReplicaAction(StrEnum):
    """What to do to the data."""

    NONE = "None"
    """Nothing; tell the state."""
    CREATE = "Create"
    GROW = "Grow"
    ERASE = "Erase"
    """Erase the data, then release."""
    RELEASE = "Release"
    """No data of this replica is here: take the finalizer away."""
    WAIT = "Wait"
    """Something must change first; look again later."""


@dataclass(frozen=True)
class ReplicaPlan:
    """``state``, ``reason`` and ``message`` are what the status says while the plan is carried
    out, or at once when there is nothing to do. ``usable``: the data can be read and written.
    """

    action: ReplicaAction
    state: ReplicaState
    reason: str
    message: str
    usable: bool = False


def plan_replica(
    replica: VolumeReplica,
    image: ImageFacts | None,
    pool: PoolStatus | None,
    *,
    pool_is_possible: bool = True,
) -> ReplicaPlan:
    """The next step for ``replica``, given what is on disk.

    ``pool`` None: it was never made on this node; ``pool_is_possible`` False: and the node's spec,
    which is known, does not ask for it either. ``image`` only counts when the pool is Ready.
    """
    if replica.meta.deleting:
        return _plan_deletion(replica, image, pool, pool_is_possible)
    if pool is None or pool.state is not PoolState.READY:
        return _wait_for_pool(replica, pool)
    if image is None:
        return _plan_without_image(replica)
    if image.volume_uid != replica.volume_uid:
        return ReplicaPlan(
            ReplicaAction.WAIT,
            ReplicaState.FAILED,
            ErrorCode.DATA_AT_RISK.value,
            f"pool {replica.pool} holds data of another volume named {replica.volume} (UID"
            f" {image.volume_uid}, wanted {replica.volume_uid}); it is left untouched. Delete this"
            " volume, or erase the other one's data through spec.eraseOrphans of StorageNode"
            f" {replica.node}",
        )
    return _plan_with_image(replica, image)


def _plan_without_image(replica: VolumeReplica) -> ReplicaPlan:
    if replica.status_size_bytes > 0:
        # 1. The data was reported here once. 2. It is gone: another disk, or a hand on the files.
        # 3. A blank image in its place would look like a healthy, empty volume.
        return ReplicaPlan(
            ReplicaAction.WAIT,
            ReplicaState.FAILED,
            "DataMissing",
            f"the image of volume {replica.volume} is gone from pool {replica.pool}; no empty one"
            " is made in its place. Bring back the device that held it, or delete the volume and"
            " restore it from a snapshot or a backup",
        )
    origin = replica.source.snapshot or replica.source.volume
    return ReplicaPlan(
        ReplicaAction.CREATE,
        ReplicaState.CREATING,
        "Creating",
        f"making an image of {format_bytes(replica.size_bytes)}"
        + (f" from {origin}" if origin else ""),
    )


def _plan_with_image(replica: VolumeReplica, image: ImageFacts) -> ReplicaPlan:
    if not image.ready:
        return ReplicaPlan(
            ReplicaAction.CREATE, ReplicaState.CREATING, "Creating", "finishing the image"
        )
    if image.size_bytes < replica.size_bytes:
        return ReplicaPlan(
            ReplicaAction.GROW,
            ReplicaState.EXPANDING,
            "Expanding",
            f"growing from {format_bytes(image.size_bytes)} to {format_bytes(replica.size_bytes)}",
            usable=True,
        )
    return ReplicaPlan(
        ReplicaAction.NONE,
        ReplicaState.READY,
        "InUse" if image.in_use else "Ready",
        "a pod uses it on this node" if image.in_use else "the image is ready to be attached",
        usable=True,
    )


def _wait_for_pool(replica: VolumeReplica, pool: PoolStatus | None) -> ReplicaPlan:
    had_data = replica.status_size_bytes > 0
    return ReplicaPlan(
        ReplicaAction.WAIT,
        ReplicaState.FAILED if had_data else ReplicaState.PENDING,
        "PoolNotReady",
        _pool_message(replica, pool),
    )


def _pool_message(replica: VolumeReplica, pool: PoolStatus | None) -> str:
    detail = "it was never made here" if pool is None else pool.message or pool.state.value
    return (
        f"pool {replica.pool} on node {replica.node} is not ready ({detail});"
        f" see kubectl describe storagenode {replica.node}"
    )


def _plan_deletion(
    replica: VolumeReplica,
    image: ImageFacts | None,
    pool: PoolStatus | None,
    pool_is_possible: bool,
) -> ReplicaPlan:
    deleting = ReplicaState.DELETING
    if FINALIZER_REPLICA not in replica.meta.finalizers:
        return ReplicaPlan(ReplicaAction.NONE, deleting, "Released", "others' finalizers hold it")
    if pool is None and not pool_is_possible:
        return ReplicaPlan(ReplicaAction.RELEASE, deleting, "Erased", "no such pool was ever here")
    if pool is None or pool.state is not PoolState.READY:
        message = (
            f"the data cannot be erased: {_pool_message(replica, pool)}. If it will never come"
            " back, give the replica up: kubectl patch volumereplica"
            f' {replica.meta.name} --type merge -p \'{{"spec":{{"giveUp":"{replica.node}"}}}}\''
        )
        return ReplicaPlan(ReplicaAction.WAIT, deleting, "PoolNotReady", message)
    if image is not None and image.volume_uid != replica.volume_uid:
        # Data of another UID is not this replica's: it stays and is told as an orphan.
        return plan_after_erasing()
    if image is not None and image.in_use:
        return ReplicaPlan(
            ReplicaAction.WAIT,
            deleting,
            "InUse",
            f"volume {replica.volume} is in use on node {replica.node}; its data is erased as soon"
            " as the pods that use it are gone",
        )
    if replica.keep_data:
        text = "the data is kept; it is told among the orphans of this node"
        return ReplicaPlan(ReplicaAction.RELEASE, deleting, "Kept", text)
    # Without an image too: an erasing that was cut short left files that are no image any more.
    return ReplicaPlan(ReplicaAction.ERASE, deleting, "Erasing", "erasing the data")


def plan_after_erasing() -> ReplicaPlan:
    """What is left to do once no data of the replica is here."""
    return ReplicaPlan(
        ReplicaAction.RELEASE, ReplicaState.DELETING, "Erased", "no data of it is left here"
    )


def decide_failure(plan: ReplicaPlan, error: TwinvaultError) -> ReplicaPlan:
    """What the status says after ``error`` ended the attempt at ``plan``; it is tried again.

    Data that could be used before still can be. An attempt that may succeed when repeated as it
    is leaves the state of the plan; anything else is Failed until the world changes.
    """
    keeps_state = plan.usable or plan.state is ReplicaState.DELETING or error.retryable
    return ReplicaPlan(
        ReplicaAction.WAIT,
        plan.state if keeps_state else ReplicaState.FAILED,
        error.code.value,
        error.message,
        usable=plan.usable,
    )
