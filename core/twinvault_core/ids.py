"""Identifiers as functions with one meaning: what a caller calls a thing, and what we call it.

``name`` is the caller's idempotency key, ``volume_id`` and ``snapshot_id`` are ours: the names of
the Volume and Snapshot objects, and of the directories on disk. They are derived from the name,
so that a retry finds what the first try made.
"""

from __future__ import annotations

import hashlib
import re

from .errors import InvalidError
from .names import HOLDER_LABEL_PREFIX, NODE_LEASE_PREFIX

MAX_CSI_STRING_BYTES = 128
"""CSI 1.13 bounds every string field at 128 bytes unless it says otherwise."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NODE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def is_valid_id(value: str) -> bool:
    """Whether ``value`` may name a Volume or a Snapshot: a DNS label of at most 63 characters."""
    return _LABEL.fullmatch(value) is not None


def parse_id(value: str, what: str) -> str:
    """``value`` unchanged; InvalidError that names ``what`` unless it is a valid id.

    An id becomes a directory name on a node: it has no '/', no '.', and is never empty.
    """
    if not is_valid_id(value):
        raise InvalidError(
            f"{what} {value!r} is not a DNS label of at most 63 characters (a-z, 0-9, '-')"
        )
    return value


def parse_node_name(value: str) -> str:
    """``value`` unchanged; InvalidError unless it is a DNS subdomain as Kubernetes nodes have."""
    if _NODE.fullmatch(value) is None or ".." in value:
        raise InvalidError(f"node name {value!r} is not a DNS subdomain")
    return value


def _digest(value: str, characters: int) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:characters]


def _id_from_name(prefix: str, name: str) -> str:
    if is_valid_id(name):
        return name
    return f"{prefix}-{_digest(name, 40)}"


def volume_id_from_name(name: str) -> str:
    """Our id for the volume that a CSI caller names ``name``; the same for every retry."""
    return _id_from_name("volume", name)


def snapshot_id_from_name(name: str) -> str:
    """Our id for the snapshot that a CSI caller names ``name``; the same for every retry."""
    return _id_from_name("snapshot", name)


def resync_copy_prefix(volume: str) -> str:
    """What the copies that an agent keeps from before a resync begin with; a number follows."""
    return f"resync-{_digest(volume, 20)}-"


def replica_name(volume: str, node: str) -> str:
    """Name of the VolumeReplica of ``volume`` on ``node``: ``<volume>.<node>``."""
    name = f"{volume}.{node}"
    return name if len(name) <= 253 else f"{volume}.{_digest(node, 40)}"


def holder_label(node: str) -> str:
    """Label key on a Snapshot that the agent of ``node`` selects by."""
    short = node if _LABEL_VALUE.fullmatch(node) else _digest(node, 40)
    return f"{HOLDER_LABEL_PREFIX}{short}"


def node_lease_name(node: str) -> str:
    """Name of the Lease that the agent of ``node`` renews."""
    name = f"{NODE_LEASE_PREFIX}{node}"
    return name if len(name) <= 253 else f"{NODE_LEASE_PREFIX}{_digest(node, 40)}"
