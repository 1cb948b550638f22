"""What the operator's decisions about failover look at, and the steps that they answer.

Times are seconds that the operator itself measured with its monotonic clock; no clock of another
machine decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .model import ReplicationRecord, Volume, VolumeReplica


class Policy(StrEnum):
    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


@dataclass(frozen=True)
class PairPolicy:
    """What the ReplicationPair says. ``approved``: the StorageCluster that a person allows.
    ``missing``: there is no such pair, so nobody can approve.
    """

    policy: Policy = Policy.AUTOMATIC
    approved: str = ""
    stable_seconds: float = 60.0
    missing: bool = False


@dataclass(frozen=True)
class LeaseWatch:
    """What one operator process has seen of one node's Lease, in its own monotonic seconds.

    ``renewal`` is opaque: that it changes is all that counts, never the time written in it.
    """

    renewal: str
    seen_at: float
    well_since: float
    read_at: float

    def silent_seconds(self) -> float:
        return self.read_at - self.seen_at

    def expired(self, duration_seconds: float) -> bool:
        """Silent for the duration, proven by a read that began after it.

        Reads, not the clock, prove silence: an operator whose own watch stands still sees every
        Lease run out.
        """
        return self.silent_seconds() >= duration_seconds

    def well_seconds(self, duration_seconds: float) -> float:
        return 0.0 if self.expired(duration_seconds) else self.read_at - self.well_since


def watch_lease(
    before: LeaseWatch | None,
    renewal: str,
    *,
    read_began: float,
    read_ended: float,
    duration_seconds: float,
) -> LeaseWatch:
    """The watch after one more read, by GET, that answered ``renewal``.

    A process that just started has seen nothing yet and waits the whole duration.
    """
    if before is None:
        return LeaseWatch(renewal, read_ended, read_ended, read_ended)
    if before.renewal == renewal:
        return LeaseWatch(renewal, before.seen_at, before.well_since, read_began)
    gap = read_began - before.seen_at >= duration_seconds
    return LeaseWatch(renewal, read_ended, read_ended if gap else before.well_since, read_ended)


@dataclass(frozen=True)
class NodeEvidence:
    """One node as this operator has watched it, by ``watch_lease``.

    ``expired``: its Lease was not renewed for longer than the lease duration. ``well_seconds``: for
    how long we have seen it renewed without a gap. ``marked``: it was lost before and is not
    trusted again; this is kept in the API, so that a new leader knows it. ``taints``: the effects
    of our out-of-service taints on it. ``resyncing``: of our taint of that name, which it has for
    ``resyncing_seconds``.
    """

    name: str
    storage_cluster: str = ""
    expired: bool = False
    silent_seconds: float = 0.0
    well_seconds: float = 0.0
    marked: bool = False
    taints: frozenset[str] = frozenset()
    resyncing: frozenset[str] = frozenset()
    resyncing_seconds: float = 0.0


@dataclass(frozen=True)
class VolumeEvidence:
    """One replicated volume: its object as read last, its replicas, its pair's policy.

    A replica whose place another node has taken may still be among ``replicas``.
    """

    volume: Volume
    replicas: tuple[VolumeReplica, ...] = ()
    policy: PairPolicy = field(default_factory=PairPolicy)
    out_of_sync_since: str = ""
    attempt: int = 0

    @property
    def name(self) -> str:
        return self.volume.meta.name

    @property
    def record(self) -> ReplicationRecord | None:
        return self.volume.record

    def replica(self, node: str) -> VolumeReplica | None:
        return next((r for r in self.replicas if r.node == node), None)

    def other(self, node: str) -> VolumeReplica | None:
        """Of those that count: one whose place another node has taken is no way out."""
        record = self.record
        members = record.nodes if record is not None else frozenset()
        found = (r for r in self.replicas if r.node != node)
        return next((r for r in found if not members or r.node in members), None)


@dataclass(frozen=True)
class PodUse:
    """A pod that is bound to a node, the volumes of ours that it has open, and others' volumes.

    ``foreign``: persistent volumes of other drivers; nobody has fenced those.
    """

    namespace: str
    name: str
    uid: str
    node: str
    volumes: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attachment:
    """A VolumeAttachment; ``volume`` is empty when it is of another driver. Deleted by UID."""

    name: str
    node: str
    volume: str = ""
    uid: str = ""


@dataclass(frozen=True)
class NodeView:
    """Everything that matters for one node: its volumes, who uses it, and all nodes.

    ``users_known``: ``pods`` and ``attachments`` were read, and are not just not known.
    """

    node: str
    nodes: Mapping[str, NodeEvidence]
    volumes: tuple[VolumeEvidence, ...] = ()
    pods: tuple[PodUse, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    attempt: int = 0
    users_known: bool = False


FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 5.0
STUCK_AFTER_ATTEMPTS = 20
"""About a minute and a half of tries; then it is said aloud, and tried on at the slowest rate."""


@dataclass(frozen=True)
class Retry:
    """When to try again if the step fails or is not answered within its deadline."""

    attempt: int = 0
    after_seconds: float = FIRST_RETRY_SECONDS
    deadline_seconds: float = LONGEST_RETRY_SECONDS

    @property
    def stuck(self) -> bool:
        """Tried so often that a person should look."""
        return self.attempt >= STUCK_AFTER_ATTEMPTS


def choose_retry(attempt: int) -> Retry:
    """Doubling from 0.25 s to 5 s."""
    after = min(FIRST_RETRY_SECONDS * 2 ** min(attempt, 10), LONGEST_RETRY_SECONDS)
    return Retry(attempt, after)


@dataclass(frozen=True)
class Swap:
    """Write ``after`` over ``before`` by compare-and-swap on ``volume``'s resourceVersion.

    ``also``: further fields of the Volume's status, in the same write. What hangs on the volume
    (pods, attachments) follows in the next plan, once the record says so.
    """

    volume: Volume
    before: ReplicationRecord
    after: ReplicationRecord
    reason: str
    message: str
    also: Mapping[str, Any] = field(default_factory=dict)
    retry: Retry = Retry()


@dataclass(frozen=True)
class MarkLost:
    """Remember in the API that this node was lost: it is no target until it has been well."""

    node: str
    message: str
    retry: Retry = Retry()


@dataclass(frozen=True)
class Taint:
    """Put ``node.kubernetes.io/out-of-service`` on: Kubernetes takes every volume off the node.
    ``evicting``: with the effect that also ends everything that runs there.
    """

    node: str
    evicting: bool
    message: str
    retry: Retry = Retry()


@dataclass(frozen=True)
class DeletePod:
    """By UID; its volumes are fenced already. ``force``: with grace period 0, its node is lost.

    ``epochs`` and ``primaries``: of each of its volumes' records. A leader that is one no more may
    hold an old view: right before deleting, each record is read from the API server and must be so
    still.
    """

    pod: PodUse
    message: str
    epochs: Mapping[str, int] = field(default_factory=dict)
    force: bool = True
    retry: Retry = Retry()
    primaries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeleteVolumeAttachment:
    """And its finalizer: the node's driver cannot answer for it. The record as with DeletePod."""

    attachment: Attachment
    message: str
    epoch: int = 0
    retry: Retry = Retry()
    primary: str = ""


@dataclass(frozen=True)
class Untaint:
    """Take taint and mark off: the node is used again."""

    node: str
    message: str
    retry: Retry = Retry()


@dataclass(frozen=True)
class TaintResyncing:
    """Take the mark off, and put ``twinvault.io/resyncing`` in place of every other taint of ours:
    a pod that was sent there would find its volume not in sync. ``strict``: nothing new starts
    there; otherwise only where nothing else has room.
    """

    node: str
    strict: bool
    message: str
    retry: Retry = Retry()


@dataclass(frozen=True)
class Wait:
    """Nothing to do now. ``stuck``: it will not pass by itself; a person reads ``message``."""

    subject: str
    reason: str
    message: str
    after_seconds: float
    stuck: bool = False


FailoverWork = (
    Swap | MarkLost | Taint | DeletePod | DeleteVolumeAttachment | TaintResyncing | Untaint
)
FailoverStep = FailoverWork | Wait
