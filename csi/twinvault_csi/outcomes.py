"""What an object's status says about the call that waits for it: done, failed for good, or wait.

Each ``decide_`` is pure: True when done, False to wait on; it raises when it never will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twinvault_core import conditions, reasons
from twinvault_core.conditions import Condition
from twinvault_core.errors import ErrorCode, OutOfRangeError, TwinvaultError
from twinvault_core.model import Phase, ReplicaState, Snapshot, Volume

from .messages import homes_of

PLACEMENT_CODES: Final[Mapping[str, ErrorCode]] = {
    reasons.POOL_UNKNOWN: ErrorCode.INVALID,
    reasons.CLUSTER_UNKNOWN: ErrorCode.INVALID,
    reasons.PAIR_UNKNOWN: ErrorCode.INVALID,
    reasons.PAIR_NOT_IMPLEMENTED: ErrorCode.INVALID,
    reasons.SOURCE_MISSING: ErrorCode.NOT_FOUND,
    reasons.SOURCE_UNSUITABLE: ErrorCode.INVALID,
    reasons.NO_CAPACITY: ErrorCode.NO_SPACE,
    reasons.NO_NODE: ErrorCode.NO_SPACE,
    reasons.NO_NUMBER: ErrorCode.NO_SPACE,
    reasons.POOLS_DIFFER: ErrorCode.INVALID,
}
"""What a caller is told of a refusal that does not pass by itself; InvalidArgument for others."""


class PlacementError(TwinvaultError):
    """The volume cannot be placed as it was asked for."""


def current_condition(
    listed: tuple[Mapping[str, Any], ...], type_: str, generation: int
) -> Condition | None:
    """The condition of that type if it speaks of this generation of the spec."""
    fresh = [c for c in listed if (c.get("observedGeneration") or 0) >= generation]
    return conditions.find_condition(fresh, type_)


_USABLE = frozenset({Phase.READY, Phase.EXPANDING, Phase.DEGRADED})


def decide_created(volume: Volume, required_bytes: int) -> bool:
    """Whether the volume can be used; PlacementError if it never will be as it is.

    A later call for the same name may meet it while it grows, or with one replica less. One of a
    pair is answered when both replicas hold every write, and nobody writes before it is answered:
    its PersistentVolume keeps the nodes that are told now, and two copies were asked for.
    """
    if _is_made(volume) and volume.status_size_bytes >= max(1, required_bytes):
        return True
    placed = current_condition(volume.conditions, conditions.PLACED, volume.meta.generation)
    if placed is None or placed.status is not False or placed.reason in reasons.PLACEMENT_MAY_PASS:
        return False
    raise PlacementError(placed.message, PLACEMENT_CODES.get(placed.reason, ErrorCode.INVALID))


def _is_made(volume: Volume) -> bool:
    if volume.phase not in _USABLE:
        return False
    if not volume.replication_pair:
        return True
    homes = homes_of(volume)
    return len(homes) > 1 and volume.record is not None and volume.record.in_sync >= set(homes)


def is_placed(volume: Volume) -> bool:
    """Whether any node may hold data of it."""
    chosen = (volume.status.get("placement") or {}).get("nodes")
    return bool(chosen or volume.status.get("replicas") or volume.record)


def decide_expanded(volume: Volume, size_bytes: int) -> bool:
    if volume.status_size_bytes >= size_bytes:
        return True
    progress = current_condition(volume.conditions, conditions.PROGRESSING, volume.meta.generation)
    if progress is not None and progress.status is False:
        if progress.reason == reasons.NO_CAPACITY:
            raise OutOfRangeError(progress.message)
        if progress.reason == reasons.REPLICA_FAILED:
            raise TwinvaultError(progress.message, ErrorCode.UNAVAILABLE)
    return False


def decide_taken(snapshot: Snapshot) -> bool:
    """Whether the snapshot is ready; raises when its volume is gone or a holder has no room."""
    if snapshot.ready_to_use and snapshot.creation_time:
        return True
    ready = current_condition(snapshot.conditions, conditions.READY, snapshot.meta.generation)
    if ready is not None and ready.status is False:
        if ready.reason == reasons.VOLUME_MISSING:
            raise TwinvaultError(ready.message, ErrorCode.NOT_FOUND)
        if ready.reason == reasons.NO_CAPACITY:
            raise TwinvaultError(ready.message, ErrorCode.NO_SPACE)
        if ready.reason == reasons.HOLDER_FAILED:
            raise TwinvaultError(ready.message, ErrorCode.UNAVAILABLE)
    return False


def in_use_message(volume: Volume) -> str:
    """Why the volume must not be deleted now; empty if nothing speaks against it."""
    if volume.published_to:
        return (
            f"volume {volume.meta.name} is published to {', '.join(volume.published_to)};"
            " stop the pods that use it"
        )
    found = conditions.find_condition(volume.conditions, conditions.IN_USE)
    return found.message if found is not None and found.status else ""


def is_known_unused(volume: Volume) -> bool:
    """Whether nobody uses the volume, said after its last change.

    1. It is published, staged and unpublished within a moment.
    2. The condition still says what was true before: nobody uses it.
    3. A deletion that believed it would mark a volume that a node has mounted.
    """
    told = conditions.find_condition(volume.conditions, conditions.IN_USE)
    fresh = current_condition(volume.conditions, conditions.IN_USE, volume.meta.generation)
    return not in_use_message(volume) and (told is None or fresh is not None)


def waiting_message(volume: Volume | None, what: str) -> str:
    """What a call waits for, with what the volume says of itself."""
    if volume is None:
        return what
    for type_ in (conditions.PLACED, conditions.IN_USE, conditions.PROGRESSING, conditions.READY):
        found = conditions.find_condition(volume.conditions, type_)
        expected = type_ in (conditions.PLACED, conditions.READY)
        if found is not None and found.status is not expected and found.message:
            return f"{what}: {found.message}{_describe_sides(volume)}"
    phase = volume.phase or "not set: is the operator running?"
    return f"{what} (phase {phase}){_describe_sides(volume)}"


def _describe_sides(volume: Volume) -> str:
    """What each side of a replicated volume still lacks; empty for one without a pair."""
    if not volume.replication_pair:
        return ""
    in_sync = volume.record.in_sync if volume.record else frozenset()
    sides = ""
    for entry in volume.status.get("replicas") or ():
        node, state = entry["node"], entry.get("state") or ReplicaState.PENDING
        if state in (ReplicaState.READY, ReplicaState.EXPANDING):
            state = "in sync" if node in in_sync else f"{state}, not in sync yet"
        words = f" ({entry['message']})" if entry.get("message") else ""
        sides += f"; {node}: {state}{words}"
    return sides
