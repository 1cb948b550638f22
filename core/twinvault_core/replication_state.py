"""DRBD's own words as types: one resource with one volume and one peer, as one node sees it.

The values are DRBD's, verbatim. Kernel 8.4 and 9 have different words for a few states; both are
here. What a state means for a decision is asked through the properties, never by listing states
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DrbdRole(StrEnum):
    PRIMARY = "Primary"
    SECONDARY = "Secondary"
    UNKNOWN = "Unknown"


class Connection(StrEnum):
    """What the network part does."""

    STANDALONE = "StandAlone"
    """Not trying: nobody told it to, or the two sides refused one another."""
    DISCONNECTING = "Disconnecting"
    UNCONNECTED = "Unconnected"
    TIMEOUT = "Timeout"
    BROKEN_PIPE = "BrokenPipe"
    NETWORK_FAILURE = "NetworkFailure"
    PROTOCOL_ERROR = "ProtocolError"
    TEAR_DOWN = "TearDown"
    WF_CONNECTION = "WFConnection"
    CONNECTING = "Connecting"
    WF_REPORT_PARAMS = "WFReportParams"
    CONNECTED = "Connected"


class SyncState(StrEnum):
    """What the two replicas do with one another while connected; OFF while not."""

    OFF = "Off"
    ESTABLISHED = "Established"
    STARTING_SYNC_SOURCE = "StartingSyncS"
    STARTING_SYNC_TARGET = "StartingSyncT"
    WF_BITMAP_SOURCE = "WFBitMapS"
    WF_BITMAP_TARGET = "WFBitMapT"
    WF_SYNC_UUID = "WFSyncUUID"
    SYNC_SOURCE = "SyncSource"
    SYNC_TARGET = "SyncTarget"
    PAUSED_SYNC_SOURCE = "PausedSyncS"
    PAUSED_SYNC_TARGET = "PausedSyncT"
    VERIFY_SOURCE = "VerifyS"
    VERIFY_TARGET = "VerifyT"
    AHEAD = "Ahead"
    BEHIND = "Behind"


class Disk(StrEnum):
    """Best last. ``UNKNOWN`` is only ever a peer's."""

    DISKLESS = "Diskless"
    ATTACHING = "Attaching"
    DETACHING = "Detaching"
    FAILED = "Failed"
    NEGOTIATING = "Negotiating"
    INCONSISTENT = "Inconsistent"
    OUTDATED = "Outdated"
    UNKNOWN = "DUnknown"
    CONSISTENT = "Consistent"
    UP_TO_DATE = "UpToDate"

    @property
    def gone(self) -> bool:
        """No disk is attached, or it goes because of an error."""
        return self in (Disk.DISKLESS, Disk.DETACHING, Disk.FAILED)


class Suspension(StrEnum):
    """Why I/O is frozen; several may hold at once and resume-io lifts all of them."""

    USER = "user"
    NO_DATA = "no-data"
    FENCING = "fencing"


_SYNCING = frozenset(
    {
        SyncState.STARTING_SYNC_SOURCE,
        SyncState.STARTING_SYNC_TARGET,
        SyncState.WF_BITMAP_SOURCE,
        SyncState.WF_BITMAP_TARGET,
        SyncState.WF_SYNC_UUID,
        SyncState.SYNC_SOURCE,
        SyncState.SYNC_TARGET,
        SyncState.PAUSED_SYNC_SOURCE,
        SyncState.PAUSED_SYNC_TARGET,
        SyncState.AHEAD,
        SyncState.BEHIND,
    }
)


_VERIFYING = frozenset({SyncState.VERIFY_SOURCE, SyncState.VERIFY_TARGET})
PAUSED = frozenset({SyncState.PAUSED_SYNC_SOURCE, SyncState.PAUSED_SYNC_TARGET})


@dataclass(frozen=True)
class Resync:
    """How far a resync is. ``seconds_left`` is -1 while it cannot be told."""

    done_percent: float = 0.0
    remaining_bytes: int = 0
    seconds_left: int = -1


@dataclass(frozen=True)
class DrbdState:
    """One resource at one moment. ``held``: this side was told that a resync must wait."""

    connection: Connection = Connection.STANDALONE
    sync: SyncState = SyncState.OFF
    role: DrbdRole = DrbdRole.SECONDARY
    peer_role: DrbdRole = DrbdRole.UNKNOWN
    disk: Disk = Disk.DISKLESS
    peer_disk: Disk = Disk.UNKNOWN
    suspended: frozenset[Suspension] = frozenset()
    resync: Resync | None = None
    held: bool = False

    @property
    def connected(self) -> bool:
        return self.connection is Connection.CONNECTED

    @property
    def standalone(self) -> bool:
        return self.connection is Connection.STANDALONE

    @property
    def primary(self) -> bool:
        return self.role is DrbdRole.PRIMARY

    @property
    def syncing(self) -> bool:
        return self.connected and self.sync in _SYNCING

    @property
    def paused(self) -> bool:
        """A resync that copies nothing now. New writes go to both sides all the same."""
        return self.connected and self.sync in PAUSED

    @property
    def verifying(self) -> bool:
        """The replicas are being compared; nothing else about them is different then."""
        return self.connected and self.sync in _VERIFYING

    @property
    def frozen(self) -> bool:
        """Frozen by the loss of the peer or of all data; not by a snapshot being taken."""
        return bool(self.suspended & {Suspension.FENCING, Suspension.NO_DATA})

    @property
    def in_sync(self) -> bool:
        """Both replicas hold every acknowledged write, and the next one goes to both."""
        return (
            self.connected
            and not self.syncing
            and self.disk is Disk.UP_TO_DATE
            and self.peer_disk is Disk.UP_TO_DATE
        )
