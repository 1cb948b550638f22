"""What a plan consists of: small writes to the API, each repeatable, each safe to be the last.

A plan may be interrupted after every step: the next plan starts from what is there then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .conditions import Condition, merge_conditions
from .model import Meta
from .numbers import Claim

VOLUME = "Volume"
VOLUME_REPLICA = "VolumeReplica"
SNAPSHOT = "Snapshot"
STORAGE_CLUSTER = "StorageCluster"
STORAGE_NODE = "StorageNode"
REPLICATION_PAIR = "ReplicationPair"
NODE = "Node"
"""Of Kubernetes."""
POD = "Pod"
"""Of Kubernetes."""


@dataclass(frozen=True)
class Create:
    """Make an object with a fixed name; finding it made already is success."""

    kind: str
    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class PatchObject:
    """Merge patch of metadata and spec, by compare-and-swap on ``meta``."""

    kind: str
    meta: Meta
    patch: Mapping[str, Any]


@dataclass(frozen=True)
class PatchStatus:
    """Merge patch of the status, by compare-and-swap on ``meta``."""

    kind: str
    meta: Meta
    status: Mapping[str, Any]


@dataclass(frozen=True)
class Delete:
    """Ask for the deletion of this very object; finding it gone is success."""

    kind: str
    meta: Meta


@dataclass(frozen=True)
class CheckGone:
    """Go on only if the API server itself, not a cache, has no object of that name."""

    kind: str
    name: str


@dataclass(frozen=True)
class CheckNoVolumes:
    """Go on only if the API server itself, not a cache, has no Volume of ReplicationPair ``pair``.
    ``kind`` is VOLUME.
    """

    kind: str
    pair: str


@dataclass(frozen=True)
class Tell:
    """An Event on the object for ``kubectl describe``."""

    kind: str
    meta: Meta
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class LabelNode:
    """Put a label on a Kubernetes node, or take it off; others stay."""

    kind: str
    node: str
    key: str
    present: bool


@dataclass(frozen=True)
class ClaimNumber:
    """Make the claim of a DRBD number for a Volume; finding it its own already is success."""

    kind: str
    meta: Meta
    number: int


@dataclass(frozen=True)
class ReleaseNumber:
    """Give up ``claim``; finding it gone is success. Only for a claim that nobody will use."""

    kind: str
    claim: Claim


@dataclass(frozen=True)
class CheckUnused:
    """Go on only if the API server itself says that nobody will ever use ``claim``: the uid of its
    Volume is gone.
    """

    kind: str
    claim: Claim


Action = (
    Create
    | PatchObject
    | PatchStatus
    | Delete
    | CheckGone
    | CheckNoVolumes
    | Tell
    | LabelNode
    | ClaimNumber
    | ReleaseNumber
    | CheckUnused
)


@dataclass(frozen=True)
class Plan:
    """Steps in order. ``waits`` says that space or nodes must change before it can go on."""

    actions: tuple[Action, ...] = ()
    waits: bool = False


def plan_finalizer(kind: str, meta: Meta, finalizer: str) -> tuple[Action, ...]:
    """Put ``finalizer`` on, if it is missing."""
    if finalizer in meta.finalizers:
        return ()
    names = sorted(meta.finalizers | {finalizer})
    return (PatchObject(kind, meta, {"metadata": {"finalizers": names}}),)


def plan_release(kind: str, meta: Meta, finalizer: str) -> tuple[Action, ...]:
    """Take ``finalizer`` off, if it is there."""
    if finalizer not in meta.finalizers:
        return ()
    names = sorted(meta.finalizers - {finalizer})
    return (PatchObject(kind, meta, {"metadata": {"finalizers": names}}),)


def plan_status(
    kind: str,
    meta: Meta,
    current: Mapping[str, Any],
    wanted: Mapping[str, Any],
    conditions: Iterable[Condition],
    *,
    now: str,
) -> tuple[Action, ...]:
    """Write what differs of ``wanted`` (a value None removes it) and the conditions; or nothing."""
    before = current.get("conditions") or ()
    full = {
        **wanted,
        "observedGeneration": meta.generation,
        "conditions": merge_conditions(
            before, conditions, observed_generation=meta.generation, now=now
        ),
    }
    changed = {key: value for key, value in full.items() if current.get(key) != value}
    return (PatchStatus(kind, meta, changed),) if changed else ()
