"""What a drill is told (``ReplicationPair.spec.drill``) and what it remembers in the status.

All times are of the operator's clock, in UTC. The status is the only memory: an operator that is
started in the middle of a drill goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from .cron import Cron, parse_cron
from .errors import InvalidError

DEFAULT_ANNOUNCE = timedelta(minutes=60)
DEFAULT_WINDOW = timedelta(minutes=15)
DEFAULT_HOLD = timedelta(seconds=60)
DEFAULT_DEADLINE = timedelta(seconds=300)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time, in UTC, to the millisecond as we write it. InvalidError when it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(f"{text!r} is no time such as 2026-03-01T02:00:00Z") from None
    if moment.tzinfo is None:
        raise InvalidError(f"{text!r} has no time zone: end it with Z")
    milliseconds = moment.microsecond // 1000
    return moment.astimezone(UTC).replace(microsecond=milliseconds * 1000)


def format_time(moment: datetime) -> str:
    """RFC 3339 with milliseconds, so that short times are told apart."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def say_time(moment: datetime) -> str:
    """For a message: ``2026-03-01 02:00 UTC``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


class Trigger(StrEnum):
    SCHEDULE = "Schedule"
    RUN_AT = "RunAt"


class Phase(StrEnum):
    CHECKING = "Checking"
    """The volumes of the next home are looked at; nothing is moved."""
    LEAVING = "Leaving"
    """Pods are moved from their home to the other node."""
    AWAY = "Away"
    """They run there, for the hold time."""
    RETURNING = "Returning"


class Result(StrEnum):
    SUCCEEDED = "Succeeded"
    REFUSED = "Refused"
    """Nothing was touched."""
    MISSED = "Missed"
    """Its time passed while no operator could announce or start it; nothing was touched."""
    ABORTED = "Aborted"


@dataclass(frozen=True)
class DrillSpec:
    """``cron`` None: no schedule. ``run_at`` None: no single drill asked for. ``claims``:
    namespace/name of PersistentVolumeClaims whose volumes are chosen too.
    """

    cron: Cron | None = None
    run_at: datetime | None = None
    volumes: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    announce: timedelta = DEFAULT_ANNOUNCE
    window: timedelta = DEFAULT_WINDOW
    hold: timedelta = DEFAULT_HOLD
    deadline: timedelta = DEFAULT_DEADLINE
    suspended: bool = False

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> DrillSpec:
        """From ``spec.drill``. InvalidError says what is wrong with schedule or runAt."""
        schedule, run_at = raw.get("schedule") or "", raw.get("runAt") or ""
        return cls(
            cron=parse_cron(schedule) if schedule else None,
            run_at=parse_time(run_at) if run_at else None,
            volumes=tuple(raw.get("volumes") or ()),
            claims=tuple(raw.get("claims") or ()),
            announce=_span(raw, "announceMinutes", DEFAULT_ANNOUNCE, timedelta(minutes=1)),
            window=_span(raw, "startWindowMinutes", DEFAULT_WINDOW, timedelta(minutes=1)),
            hold=_span(raw, "holdSeconds", DEFAULT_HOLD, timedelta(seconds=1)),
            deadline=_span(raw, "deadlineSeconds", DEFAULT_DEADLINE, timedelta(seconds=1)),
            suspended=bool(raw.get("suspend")),
        )

    def choose(self, by_claim: Mapping[str, str]) -> tuple[str, ...]:
        """Names of the chosen volumes; a claim without a volume stands for itself."""
        return tuple(sorted({*self.volumes, *(by_claim.get(c, c) for c in self.claims)}))


def _span(raw: Mapping[str, Any], name: str, default: timedelta, unit: timedelta) -> timedelta:
    value = raw.get(name)
    return default if value is None else float(value) * unit


@dataclass(frozen=True)
class NextDrill:
    """The drill that is planned: ``status.nextDrill``.

    ``time``: when it starts. It is later than ``scheduled`` only when it was announced late, so
    that the promised notice is kept. ``schedule``: the expression that it comes from.
    """

    time: datetime
    scheduled: datetime
    trigger: Trigger
    schedule: str = ""
    announced: datetime | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> NextDrill | None:
        if not raw:
            return None
        return cls(
            time=parse_time(raw["time"]),
            scheduled=parse_time(raw["scheduled"]),
            trigger=Trigger(raw["trigger"]),
            schedule=raw.get("schedule") or "",
            announced=_parse_optional(raw.get("announced")),
        )

    def to_dict(self) -> dict[str, Any]:
        """For a merge patch: what is not there is None, so that it goes."""
        return {
            "time": format_time(self.time),
            "scheduled": format_time(self.scheduled),
            "trigger": self.trigger.value,
            "schedule": self.schedule or None,
            "announced": format_time(self.announced) if self.announced else None,
        }


@dataclass(frozen=True)
class Leg:
    """One way of one volume. ``evicted``: when the first of its pods was; ``served``: when a pod
    had it again, on the node that the leg leads to.
    """

    evicted: datetime | None = None
    served: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long it was not served; None while it was not moved to the end."""
        if self.evicted is None or self.served is None:
            return None
        return round(max(0.0, (self.served - self.evicted).total_seconds()), 3)


@dataclass(frozen=True)
class VolumeDrill:
    """One volume in a drill. ``claim``: namespace/name of its PersistentVolumeClaim.

    ``pods``: UIDs of those that are evicted in this leg, written before the first of them is.
    ``again``: how many more were added because they came back to the node that is being left.
    """

    volume: str
    home: str
    away: str
    claim: str
    users: int = 1
    """How many pods used it when the drill began."""
    pods: tuple[str, ...] = ()
    again: int = 0
    out: Leg = Leg()
    back: Leg = Leg()

    @property
    def nodes(self) -> tuple[str, str]:
        return (self.home, self.away)

    def leg(self, phase: Phase) -> Leg:
        return self.back if phase is Phase.RETURNING else self.out

    def with_leg(self, phase: Phase, leg: Leg) -> VolumeDrill:
        return replace(self, back=leg) if phase is Phase.RETURNING else replace(self, out=leg)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> VolumeDrill:
        return cls(
            volume=raw["volume"],
            home=raw["home"],
            away=raw["away"],
            claim=raw["claim"],
            users=int(raw.get("users") or 1),
            pods=tuple(raw.get("pods") or ()),
            again=int(raw.get("again") or 0),
            out=Leg(_parse_optional(raw.get("evicted")), _parse_optional(raw.get("served"))),
            back=Leg(
                _parse_optional(raw.get("returnEvicted")), _parse_optional(raw.get("returned"))
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        times = {
            "evicted": self.out.evicted,
            "served": self.out.served,
            "returnEvicted": self.back.evicted,
            "returned": self.back.served,
        }
        return {
            "volume": self.volume,
            "home": self.home,
            "away": self.away,
            "claim": self.claim,
            "users": self.users,
            "pods": list(self.pods),
            "again": self.again,
            **{name: format_time(at) for name, at in times.items() if at is not None},
        }


@dataclass(frozen=True)
class Failure:
    """Why a drill does not go on. ``stay``: the volumes are left where they are, because something
    real happened and moving them is not ours to do now.
    """

    reason: str
    message: str
    stay: bool = False


@dataclass(frozen=True)
class Drill:
    """A drill that is under way: ``status.drill``.

    Volumes with the same home and the same other node move together, as a wave; one wave after the
    other, so that only one node is ever closed. ``tainted``: the node that has to be closed now.
    """

    started: datetime
    scheduled: datetime
    trigger: Trigger
    phase: Phase
    since: datetime
    tainted: str
    volumes: tuple[VolumeDrill, ...]
    failure: Failure | None = None

    @property
    def wave(self) -> tuple[VolumeDrill, ...]:
        """The volumes that are being moved now; empty when all are home again."""
        left = [v for v in self.volumes if v.back.served is None]
        return tuple(v for v in left if v.nodes == left[0].nodes)

    @property
    def from_node(self) -> str:
        first = self.wave[0]
        return first.away if self.phase is Phase.RETURNING else first.home

    @property
    def to_node(self) -> str:
        first = self.wave[0]
        return first.home if self.phase is Phase.RETURNING else first.away

    def with_volumes(self, changed: Mapping[str, VolumeDrill]) -> Drill:
        return replace(self, volumes=tuple(changed.get(v.volume, v) for v in self.volumes))

    @property
    def recovery_seconds(self) -> float | None:
        """The longest time that a volume was not served on its way to the other site."""
        found = [v.out.seconds for v in self.volumes if v.out.seconds is not None]
        return max(found, default=None)

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Drill | None:
        if not raw:
            return None
        failure = raw.get("failure")
        return cls(
            started=parse_time(raw["started"]),
            scheduled=parse_time(raw["scheduled"]),
            trigger=Trigger(raw["trigger"]),
            phase=Phase(raw["phase"]),
            since=parse_time(raw["since"]),
            tainted=raw.get("tainted") or "",
            volumes=tuple(VolumeDrill.parse(v) for v in raw["volumes"]),
            failure=Failure(failure["reason"], failure["message"]) if failure else None,
        )

    def to_dict(self) -> dict[str, Any]:
        failure = self.failure
        return {
            "started": format_time(self.started),
            "scheduled": format_time(self.scheduled),
            "trigger": self.trigger.value,
            "phase": self.phase.value,
            "since": format_time(self.since),
            "tainted": self.tainted or None,
            "volumes": [v.to_dict() for v in self.volumes],
            "failure": {"reason": failure.reason, "message": failure.message} if failure else None,
        }


def _parse_optional(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


def find_drill(status: Mapping[str, Any]) -> Drill | None:
    """The drill that is under way by the status of a ReplicationPair."""
    return Drill.parse(status.get("drill"))


def find_next(status: Mapping[str, Any]) -> NextDrill | None:
    return NextDrill.parse(status.get("nextDrill"))
