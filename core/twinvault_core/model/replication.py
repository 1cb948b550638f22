"""The replication record of a Volume, and the replication blocks of its VolumeReplicas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..replication_state import Connection, Disk, DrbdRole, Resync, SyncState
from .verify import VerifyReport


@dataclass(frozen=True)
class ReplicationRecord:
    """Who may write and who holds every acknowledged write (rules R1 to R3).

    ``serial`` counts the writes of the record, ``epoch`` those that changed the primary. It is made
    and changed by the functions of ``twinvault_core.replication_record`` alone, and stored by
    compare-and-swap alone. Serial 0: written by a version that did not count yet.

    ``nodes``: who has a replica at all; empty when that is not known. It is not stored here but as
    ``status.placement.nodes`` of the same Volume, so one compare-and-swap covers both.
    """

    epoch: int
    primary: str
    in_sync: frozenset[str]
    serial: int = 1
    nodes: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def parse(
        cls, raw: Mapping[str, Any] | None, nodes: Iterable[str] = ()
    ) -> ReplicationRecord | None:
        if not raw:
            return None
        return cls(
            epoch=int(raw["epoch"]),
            primary=raw["primary"],
            in_sync=frozenset(raw["inSync"]),
            serial=int(raw.get("serial") or 0),
            nodes=frozenset(nodes),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "serial": self.serial,
            "primary": self.primary,
            "inSync": sorted(self.in_sync),
        }


@dataclass(frozen=True)
class ForcePrimary:
    """``Volume.spec.forcePrimary``: a person gives up writes that ``node`` does not hold.

    Honoured only while ``volume_name`` is the Volume's own name, typed out, and once.
    """

    node: str
    volume_name: str

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> ForcePrimary | None:
        return cls(raw["node"], raw["volumeName"]) if raw else None


class FirstSync(StrEnum):
    """How two new replicas become equal; the operator says it on the primary's replica."""

    NONE = ""
    SKIP = "Skip"
    """Both are provably blank: nothing is copied."""
    FULL = "Full"
    """The primary's content is copied whole."""
    KEEP = "Keep"
    """The volume lives: what the primary's image holds is whole, whatever copies it."""


@dataclass(frozen=True)
class ReplicationSettings:
    """What DRBD is told about the link; 0 leaves the choice to the agent."""

    max_rate_bytes_per_second: int = 0
    min_rate_bytes_per_second: int = 0
    ping_interval_seconds: int = 1
    ping_timeout_tenths: int = 3
    al_extents: int = 0
    round_trip_milliseconds: int = 0

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> ReplicationSettings:
        raw = raw or {}
        return cls(
            max_rate_bytes_per_second=int(raw.get("maxRateBytesPerSecond") or 0),
            min_rate_bytes_per_second=int(raw.get("minRateBytesPerSecond") or 0),
            ping_interval_seconds=int(raw.get("pingIntervalSeconds") or 1),
            ping_timeout_tenths=int(raw.get("pingTimeoutTenths") or 3),
            al_extents=int(raw.get("alExtents") or 0),
            round_trip_milliseconds=int(raw.get("roundTripMilliseconds") or 0),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "maxRateBytesPerSecond": self.max_rate_bytes_per_second,
            "minRateBytesPerSecond": self.min_rate_bytes_per_second,
            "pingIntervalSeconds": self.ping_interval_seconds,
            "pingTimeoutTenths": self.ping_timeout_tenths,
            "alExtents": self.al_extents,
            "roundTripMilliseconds": self.round_trip_milliseconds,
        }


@dataclass(frozen=True)
class ReplicationSpec:
    """``VolumeReplica.spec.replication``: one side's half of a replicated volume.

    ``epoch`` is the one of the record that the operator looked at; the agent acts on the record
    itself, read from the API server, and takes this one only as a hint that it moved.
    ``verify_request``: compare both replicas, once for each value. ``resync_hold``: a resync waits
    for its turn; honoured for a while after each new value only, so that an operator that is gone
    holds nothing. Both are written by the pair's plan, and mean something at the primary alone.
    ``peer_leaves``: the other replica is to be replaced or removed; the primary's agent takes it
    out of the record and does not add it again. A new peer always comes with a new ``port``.
    """

    minor: int
    port: int
    address: str
    peer_node: str
    peer_address: str
    epoch: int = 1
    first_sync: FirstSync = FirstSync.NONE
    settings: ReplicationSettings = field(default_factory=ReplicationSettings)
    verify_request: str = ""
    resync_hold: str = ""
    peer_leaves: bool = False

    def lasting(self) -> ReplicationSpec:
        """Without what changes from moment to moment: what DRBD's configuration depends on."""
        return replace(
            self,
            epoch=1,
            first_sync=FirstSync.NONE,
            verify_request="",
            resync_hold="",
            peer_leaves=False,
        )

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> ReplicationSpec | None:
        if not raw:
            return None
        return cls(
            minor=int(raw["minor"]),
            port=int(raw["port"]),
            address=raw["address"],
            peer_node=raw["peerNode"],
            peer_address=raw["peerAddress"],
            epoch=int(raw.get("epoch") or 1),
            first_sync=FirstSync(raw.get("firstSync") or ""),
            settings=ReplicationSettings.parse(raw.get("settings")),
            verify_request=raw.get("verifyRequest") or "",
            resync_hold=raw.get("resyncHold") or "",
            peer_leaves=bool(raw.get("peerLeaves")),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "minor": self.minor,
            "port": self.port,
            "address": self.address,
            "peerNode": self.peer_node,
            "peerAddress": self.peer_address,
            "epoch": self.epoch,
            "firstSync": self.first_sync.value,
            "settings": self.settings.to_dict(),
            "verifyRequest": self.verify_request,
            "resyncHold": self.resync_hold,
            "peerLeaves": self.peer_leaves,
        }


@dataclass(frozen=True)
class ReplicationStatus:
    """``VolumeReplica.status.replication``: what the node's agent saw last.

    ``frozen_since`` is RFC 3339, empty while I/O flows; ``stalled_since`` likewise, for requests
    that do not end although nothing is frozen; ``disconnected_since`` is empty while the link is
    up. ``device_bytes``: of the replicated device, which grows after both images have; 0 while it
    was never seen. ``blank``: the metadata was just made and the image has not one allocated
    extent. ``diverged``: both sides hold writes that the other lacks. ``epoch``: of the record that
    the agent read last. ``step`` and ``message``: what it does next and why, for people.
    """

    connection: Connection = Connection.STANDALONE
    sync: SyncState = SyncState.OFF
    role: DrbdRole = DrbdRole.SECONDARY
    disk: Disk = Disk.DISKLESS
    peer_disk: Disk = Disk.UNKNOWN
    frozen: bool = False
    frozen_since: str = ""
    stalled_since: str = ""
    disconnected_since: str = ""
    device_bytes: int = 0
    blank: bool = False
    diverged: bool = False
    different_bytes: int = 0
    resync: Resync | None = None
    verify: VerifyReport | None = None
    epoch: int = 0
    step: str = ""
    message: str = ""

    @property
    def link_down(self) -> bool:
        return self.connection is not Connection.CONNECTED

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> ReplicationStatus | None:
        if not raw:
            return None
        resync = raw.get("resync")
        return cls(
            connection=Connection(raw.get("connection") or "StandAlone"),
            sync=SyncState(raw.get("sync") or "Off"),
            role=DrbdRole(raw.get("role") or "Secondary"),
            disk=Disk(raw.get("disk") or "Diskless"),
            peer_disk=Disk(raw.get("peerDisk") or "DUnknown"),
            frozen=bool(raw.get("frozen")),
            frozen_since=raw.get("frozenSince") or "",
            stalled_since=raw.get("stalledSince") or "",
            disconnected_since=raw.get("disconnectedSince") or "",
            device_bytes=int(raw.get("deviceBytes") or 0),
            blank=bool(raw.get("blank")),
            diverged=bool(raw.get("diverged")),
            different_bytes=int(raw.get("differentBytes") or 0),
            resync=_parse_resync(resync) if resync else None,
            verify=VerifyReport.parse(raw.get("verify")),
            epoch=int(raw.get("epoch") or 0),
            step=raw.get("step") or "",
            message=raw.get("message") or "",
        )

    def to_dict(self) -> dict[str, Any]:
        """For a merge patch: what does not hold is None, so that it goes."""
        return {
            "connection": self.connection.value,
            "sync": self.sync.value,
            "role": self.role.value,
            "disk": self.disk.value,
            "peerDisk": self.peer_disk.value,
            "frozen": self.frozen,
            "frozenSince": self.frozen_since or None,
            "stalledSince": self.stalled_since or None,
            "disconnectedSince": self.disconnected_since or None,
            "deviceBytes": self.device_bytes or None,
            "blank": self.blank,
            "diverged": self.diverged,
            "differentBytes": self.different_bytes,
            "resync": None
            if self.resync is None
            else {
                "donePercent": self.resync.done_percent,
                "remainingBytes": self.resync.remaining_bytes,
                "secondsLeft": self.resync.seconds_left,
            },
            "verify": None if self.verify is None else self.verify.to_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "message": self.message,
        }


def _parse_resync(raw: Mapping[str, Any]) -> Resync:
    return Resync(
        done_percent=float(raw.get("donePercent") or 0),
        remaining_bytes=int(raw.get("remainingBytes") or 0),
        seconds_left=int(raw.get("secondsLeft", -1)),
    )
