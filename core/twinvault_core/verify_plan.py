"""When both replicas of a pair's volumes are compared, and what is told of it.

A round begins when the schedule says so and asks one volume after the other, at most one at a time:
a verify reads both disks whole. A volume that cannot be compared now is put off and the others go
on; what is still put off when the next round begins is told as left out. The round's time is the
token that asks (``spec.replication.verifyRequest``), so that asking again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from . import reasons
from .actions import VOLUME, Action, PatchStatus, Tell
from .conditions import VERIFIED, Condition
from .cron import parse_cron
from .drill_state import find_drill
from .errors import TwinvaultError
from .model import ReplicationPair, VerifyReport, VerifyResult
from .pair_volume import PairVolume, plan_told
from .replicated_status import is_replicated
from .replication_state import SyncState
from .sizing import format_bytes

NAMED = 3
_COMPARING = (SyncState.VERIFY_SOURCE, SyncState.VERIFY_TARGET)
_AT_REST = (SyncState.OFF, SyncState.ESTABLISHED, *_COMPARING)


@dataclass(frozen=True)
class VerifyPlan:
    """``status``: fields of the pair's status; a value None removes one."""

    status: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    condition: Condition | None = None


@dataclass(frozen=True)
class Round:
    """One round as the pair's status keeps it. ``time``: when it was due, and its token."""

    time: str
    ended_at: str = ""

    @property
    def is_open(self) -> bool:
        return bool(self.time) and not self.ended_at


def plan_verify(pair: ReplicationPair, volumes: tuple[PairVolume, ...], *, now: str) -> VerifyPlan:
    """What follows for ``pair`` at ``now`` (RFC 3339)."""
    drill = find_drill(pair.status)
    moved = {v.volume for v in drill.volumes} if drill is not None else set()
    fit = tuple(replace(v, drilled=v.name in moved) for v in volumes if _takes_part(v))
    last = pair.status.get("lastVerify") or {}
    current = Round(str(last.get("time") or ""), str(last.get("endedAt") or ""))
    schedule = str((pair.spec.get("verify") or {}).get("schedule") or "")
    try:
        upcoming = _choose_next(pair, schedule, now)
    except TwinvaultError as error:
        text = f"spec.verify.schedule: {error.message}"
        condition = Condition(VERIFIED, None, reasons.INVALID, text)
        return VerifyPlan({"nextVerify": None}, _withdraw(volumes), condition)
    if pair.meta.deleting or not schedule:
        return VerifyPlan({"nextVerify": None}, _withdraw(volumes), _judge_old(pair, fit, current))
    left_out: tuple[Action, ...] = ()
    if parse_time(now) >= parse_time(upcoming):
        left_out = _tell_left_out(pair, fit, current)
        current = Round(upcoming)
        upcoming = _next_after(schedule, now)
    status: dict[str, Any] = {"nextVerify": {"schedule": schedule, "time": upcoming}}
    if not current.time:
        text = f"nothing was compared yet; the first time is {upcoming}"
        return VerifyPlan(status, (), Condition(VERIFIED, None, reasons.NOT_YET, text))
    finished = tuple(step for v in fit for step in _plan_finished(v, current))
    asked, asking = _ask(fit, current)
    status["lastVerify"] = _describe(fit, current, asked, last, now)
    condition = judge_round(fit, current.time)
    return VerifyPlan(status, left_out + finished + asking, condition)


def _takes_part(volume: PairVolume) -> bool:
    """Made, and meant to have two replicas."""
    alive = is_replicated(volume.volume) and not volume.volume.meta.deleting
    return alive and volume.volume.status_size_bytes > 0


# -- when ------------------------------------------------------------------------------------------


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def _next_after(schedule: str, now: str) -> str:
    found = parse_cron(schedule).next_after(parse_time(now))
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")


def _choose_next(pair: ReplicationPair, schedule: str, now: str) -> str:
    """The next round's time as it was planned; missed ones become one. Anew for a new schedule."""
    if not schedule:
        return ""
    known = pair.status.get("nextVerify") or {}
    if known.get("schedule") == schedule and known.get("time"):
        return str(known["time"])
    return _next_after(schedule, now)


# -- which -----------------------------------------------------------------------------------------


def _ask(
    fit: tuple[PairVolume, ...], current: Round
) -> tuple[PairVolume | None, tuple[Action, ...]]:
    """The one volume that is compared now, and the writes that ask for it and for no other."""
    chosen = choose_volume(fit, current.time) if current.is_open else None
    steps: list[Action] = []
    for volume in fit:
        steps += plan_told(volume, "verifyRequest", current.time if volume is chosen else "")
    return chosen, tuple(steps)


def choose_volume(fit: tuple[PairVolume, ...], token: str) -> PairVolume | None:
    """The one that was asked already, if it can go on; else the one compared longest ago."""
    if any(_is_resyncing(v) or (_is_comparing(v) and not _is_asked(v, token)) for v in fit):
        return None
    waiting = [v for v in fit if not is_done(v, token)]
    asked = [v for v in waiting if _is_asked(v, token) and not find_obstacle(v, asked=True)]
    if asked:
        return asked[0]
    able = [v for v in waiting if not find_obstacle(v)]
    return min(able, key=lambda v: (str(_last(v).get("time") or ""), v.name), default=None)


def is_done(volume: PairVolume, token: str) -> bool:
    return _last(volume).get("time") == token or _find_report(volume, token) is not None


def _last(volume: PairVolume) -> Mapping[str, Any]:
    found: Mapping[str, Any] = volume.volume.status.get("lastVerify") or {}
    return found


def _is_asked(volume: PairVolume, token: str) -> bool:
    primary = volume.primary
    return (
        primary is not None
        and primary.replication is not None
        and primary.replication.verify_request == token
    )


def _is_resyncing(volume: PairVolume) -> bool:
    """Now; what an agent said that is gone since counts for nothing."""
    report = volume.report
    return report is not None and report.resync is not None and _is_fresh(volume)


def _is_comparing(volume: PairVolume) -> bool:
    """Also for an earlier round, that took longer than the schedule allows."""
    report = volume.report
    return report is not None and report.sync in _COMPARING and _is_fresh(volume)


def _is_fresh(volume: PairVolume) -> bool:
    report = volume.report
    return report is not None and not report.link_down and not volume.lost


def find_obstacle(volume: PairVolume, *, asked: bool = False) -> str:
    """Why it cannot be compared now; empty when it can. ``asked``: it was chosen before."""
    report, record = volume.report, volume.volume.record
    if record is None or report is None:
        return "its primary's agent has not reported"
    if record.primary in volume.lost:
        return f"node {record.primary} {volume.lost[record.primary]}"
    if not volume.in_sync:
        return "it is degraded"
    if report.link_down or report.frozen:
        return "the link is down"
    if report.sync not in _AT_REST:
        return "it resyncs"
    if volume.drilled and not asked:
        return "a drill moves it"
    if volume.snapshotting and not asked:
        return "a snapshot of it is being taken"
    if any(r.status_size_bytes < volume.volume.size_bytes for r in volume.replicas) and not asked:
        return "it grows"
    return ""


# -- what was found --------------------------------------------------------------------------------


def _find_report(volume: PairVolume, token: str) -> VerifyReport | None:
    """Of either replica: the primary may have moved since."""
    for replica in volume.replicas:
        status = replica.replication_status
        report = status.verify if status is not None else None
        if report is not None and report.request == token and report.result.final:
            return report
    return None


def _plan_finished(volume: PairVolume, current: Round) -> tuple[Action, ...]:
    """Keep the result at the Volume: replicas and primaries come and go."""
    report = _find_report(volume, current.time)
    if report is None or _last(volume).get("time") == current.time:
        return ()
    entry: dict[str, Any] = {
        "time": current.time,
        "startedAt": report.started_at or None,
        "endedAt": report.ended_at or None,
        "result": report.result.value,
        "differentBytes": report.different_bytes,
        "message": describe_result(volume, report),
    }
    write = PatchStatus(VOLUME, volume.volume.meta, {"lastVerify": entry})
    if report.result is VerifyResult.EQUAL:
        return (write,)
    meta = volume.volume.meta
    return (write, Tell(VOLUME, meta, "VerifyFound", str(entry["message"]), warning=True))


def describe_result(volume: PairVolume, report: VerifyReport) -> str:
    if report.result is VerifyResult.EQUAL:
        return "both replicas are equal, block for block"
    record = volume.volume.record
    primary = record.primary if record is not None else "the primary"
    places = ", ".join(f"{o}+{n}" for o, n in report.ranges[:NAMED])
    where = f" (byte offset+length: {places}{', ...' if len(report.ranges) > NAMED else ''})"
    return (
        f"{format_bytes(report.different_bytes)} differed between the replicas"
        f"{where if places else ''}; they are copied from {primary}. DRBD lost no write: a disk, a"
        " controller or memory changed data under it, at one of the two sites. Check the disks and"
        " the kernel logs of both nodes, and compare the application's data with a backup"
    )


def _describe(
    fit: tuple[PairVolume, ...],
    current: Round,
    asked: PairVolume | None,
    last: Mapping[str, Any],
    now: str,
) -> dict[str, Any]:
    """``lastVerify`` of the pair; ``last`` is the one that stands there."""
    done = [v for v in fit if is_done(v, current.time)]
    left = [v for v in fit if not is_done(v, current.time)]
    ended = current.ended_at or (now if not left else "")
    found = [_different_bytes(v, current.time) for v in done]
    return {
        "time": current.time,
        **({"endedAt": ended or None} if ended or last.get("endedAt") else {}),
        "volumes": len(done),
        "left": len(left),
        "different": sum(1 for size in found if size),
        "differentBytes": sum(found),
        "current": asked.name if asked is not None else "",
        "message": _describe_left(fit, left, asked),
    }


def _describe_left(
    fit: tuple[PairVolume, ...], left: list[PairVolume], asked: PairVolume | None
) -> str:
    put_off = [(v.name, find_obstacle(v)) for v in left if v is not asked]
    told = [f"{name}: {why}" for name, why in put_off if why]
    if not told and asked is None and left and any(_is_resyncing(v) for v in fit):
        told = ["a resync of the pair goes first"]
    more = f"; and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return f"put off: {'; '.join(told[:NAMED])}{more}" if told else ""


def _different_bytes(volume: PairVolume, token: str) -> int:
    last = _last(volume)
    if last.get("time") == token:
        return int(last.get("differentBytes") or 0)
    report = _find_report(volume, token)
    return report.different_bytes if report is not None else 0


def judge_round(fit: Iterable[PairVolume], token: str) -> Condition:
    """The pair's condition Verified after the round ``token``, or in the middle of it."""
    done = [v for v in fit if is_done(v, token)]
    bad = [v.name for v in done if _different_bytes(v, token)]
    if bad:
        some = ", ".join(bad[:NAMED]) + (", ..." if len(bad) > NAMED else "")
        text = (
            f"of {len(done)} volumes compared since {token} differed: {some}; see their lastVerify"
        )
        return Condition(VERIFIED, False, reasons.DIFFERENT, text)
    if not done:
        text = f"the round of {token} has compared nothing yet"
        return Condition(VERIFIED, None, reasons.NOT_YET, text)
    text = f"{len(done)} volumes compared since {token}, both replicas equal"
    return Condition(VERIFIED, True, reasons.EQUAL, text)


def _judge_old(
    pair: ReplicationPair, fit: tuple[PairVolume, ...], current: Round
) -> Condition | None:
    """Without a schedule the last result stands, and a pair that never had one says nothing."""
    if not any(c.get("type") == VERIFIED for c in pair.status.get("conditions") or ()):
        return None
    if not current.time:
        return Condition(VERIFIED, None, reasons.NOT_YET, "there is no schedule")
    return judge_round(fit, current.time)


def _withdraw(volumes: tuple[PairVolume, ...]) -> tuple[Action, ...]:
    return tuple(step for v in volumes for step in plan_told(v, "verifyRequest", ""))


def _tell_left_out(
    pair: ReplicationPair, fit: tuple[PairVolume, ...], current: Round
) -> tuple[Action, ...]:
    """The next round begins: what the former one did not reach is told, not forgotten."""
    left = [v for v in fit if not is_done(v, current.time)]
    if not current.is_open or not left:
        return ()
    told = "; ".join(f"{v.name}: {find_obstacle(v) or 'no time was left'}" for v in left[:NAMED])
    more = f"; and {len(left) - NAMED} more" if len(left) > NAMED else ""
    text = f"{len(left)} volumes were not compared in the round of {current.time}: {told}{more}"
    return (Tell("ReplicationPair", pair.meta, "VerifySkipped", text, warning=True),)
