"""What the agent's decision about one replicated volume looks at, and what it may answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .model.replication import ReplicationRecord, ReplicationSpec
from .replication_state import DrbdState, Suspension


class Applied(StrEnum):
    """How what DRBD was told differs from the spec."""

    SAME = "Same"
    SETTINGS = "Settings"
    """Can be changed while connected."""
    ADDRESS = "Address"
    """Addresses or port: the link must be cut for it."""


@dataclass(frozen=True)
class LocalUse:
    """``pods``: targets that are published here. ``staging``: a stage call is under way."""

    pods: int = 0
    staged: bool = False
    staging: bool = False

    def __bool__(self) -> bool:
        return bool(self.pods) or self.staged or self.staging


@dataclass(frozen=True)
class ReplicationView:
    """One volume on one node at one moment.

    ``record`` must have been read from the API server itself, BEFORE ``drbd`` was observed; None
    when it did not answer. ``spec`` None: the volume is not replicated (any more). ``drbd`` None:
    the kernel has no such resource.

    ``question``: the fence-peer handler asked and got no final answer. ``image_ready``: pool and
    images are there. ``disk_failed``: the image gave an I/O error (the kernel detached it although
    nobody asked for that), ``detached``: it was given up by force; either way it was not attached
    again since by UP or REATTACH. The agent keeps both on the node's own disk and notes the second
    one before it detaches. ``blank``: metadata just made, no allocated extent.
    ``diverged``: the kernel refused to connect because both sides have writes of their own.
    ``snapshotted``: the own image has been cloned since it diverged or fell behind.
    ``discard_approved``: a person forced the other replica to be primary and so gave up this one.
    ``stalled``: how many observations in a row a resync made no progress.
    ``different_bytes``: what a verify found and no resync has repaired since.
    ``hold``: the operator wants a resync to wait for its turn, and has said so lately.
    ``verify``: a comparison was asked for, has not ended, and does not run.
    ``stale``: image and metadata are of an earlier replica on this node, or nobody remembers.
    ``other_peer``: the kernel was told of another replica than ``spec`` names, by its port: each
    set of replicas has a port of its own.
    """

    volume: str
    node: str
    spec: ReplicationSpec | None
    record: ReplicationRecord | None
    drbd: DrbdState | None
    use: LocalUse = field(default_factory=LocalUse)
    question: bool = False
    deleting: bool = False
    image_ready: bool = True
    disk_failed: bool = False
    detached: bool = False
    blank: bool = False
    diverged: bool = False
    snapshotted: bool = False
    discard_approved: bool = False
    applied: Applied = Applied.SAME
    stalled: int = 0
    different_bytes: int = 0
    hold: bool = False
    verify: bool = False
    stale: bool = False
    other_peer: bool = False

    @property
    def peer(self) -> str:
        return self.spec.peer_node if self.spec else ""

    @property
    def is_frozen(self) -> bool:
        """The kernel waits for our word: a question without an answer counts while unconnected."""
        if self.drbd is None:
            return False
        asked = self.question and not self.drbd.connected
        return asked or self.drbd.frozen

    @property
    def lost_all_data(self) -> bool:
        return self.drbd is not None and Suspension.NO_DATA in self.drbd.suspended


class StepKind(StrEnum):
    """What the agent does next. The comment says in which order, where that matters."""

    UP = "Up"
    """Configure the resource and attach the image; the link is made by a later step. ``fresh``:
    with new metadata; ``diskless``: do not attach; ``whole``: the image has content, and metadata
    that must be made says so. When attached, ``disk_failed`` and ``detached`` are over."""
    CONNECT = "Connect"
    CONNECT_AS_TARGET = "ConnectAsTarget"
    """Clone the own image first (``snapshot``), then connect; ``discard``: give up own writes."""
    WAIT_FOR_PEER = "WaitForPeer"
    SKIP_FIRST_SYNC = "SkipFirstSync"
    """new-current-uuid --clear-bitmap."""
    START_FULL_SYNC = "StartFullSync"
    """primary --force, then secondary at once."""
    ADD_IN_SYNC = "AddInSync"
    """Write ``write`` by compare-and-swap over the view's record; nothing else."""
    LEAVE_IN_SYNC = "LeaveInSync"
    """Write ``write``: the own disk is gone, the peer's serves."""
    DROP_FROM_SYNC = "DropFromSync"
    """Write ``write``: the peer is not equal any more."""
    FENCE_THEN_RESUME = "FenceThenResume"
    """Write ``write``; only when won mark the peer outdated and resume-io."""
    GIVE_UP_FROZEN_IO = "GiveUpFrozenIo"
    """Note ``detached`` durably, disconnect --force, detach --force, resume-io: frozen I/O ends in
    errors. Only in this order, and only while still frozen. Disconnected, because a primary without
    a disk that met its peer again would write through it, and the image that is attached later
    would not know: it might then be taken for the newer one."""
    END_PODS = "EndPods"
    """Kill the processes that have the volume open on this node."""
    UNMOUNT = "Unmount"
    DEMOTE = "Demote"
    REATTACH = "Reattach"
    """Attach the image again; ``fresh``: with new metadata, so that all is copied. While connected
    it is attached in place (a disconnect could take the last disk from a primary); otherwise
    disconnect first, and a later step connects."""
    RECONNECT = "Reconnect"
    """Disconnect and connect, so that a resync starts anew."""
    COPY_MARKED = "CopyMarked"
    """Copy what a verify marked to the peer. Only when the record does not count on the peer: the
    link is cut for it."""
    RESTART_SYNC = "RestartSync"
    """pause-sync, then resume-sync, where a primary without good data needs the link meanwhile."""
    HOLD_SYNC = "HoldSync"
    """pause-sync: a resync that is there, or comes, waits."""
    RELEASE_SYNC = "ReleaseSync"
    """resume-sync."""
    VERIFY = "Verify"
    """Compare both replicas from the first block on."""
    ADJUST = "Adjust"
    """Apply the spec; an address change disconnects and connects."""
    DISCONNECT = "Disconnect"
    """Leave the peer for good, below a mounted filesystem: the volume has one replica now."""
    HOLD = "Hold"
    """Stay disconnected; with ``snapshot`` clone the own image. A person must choose."""
    DOWN = "Down"
    """Disconnect, detach, forget the resource."""
    NOTHING = "Nothing"


@dataclass(frozen=True)
class Step:
    """The one next thing. ``reason`` is CamelCase for programs, ``message`` for people.

    ``well`` False: the volume is not as it should be and ``message`` belongs into a condition.
    """

    kind: StepKind
    reason: str
    message: str
    write: ReplicationRecord | None = None
    snapshot: bool = False
    discard: bool = False
    fresh: bool = False
    diskless: bool = False
    whole: bool = False
    well: bool = False
