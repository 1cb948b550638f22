"""What is told of drills: the result in the status, the condition, the Events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .actions import REPLICATION_PAIR, VOLUME, Tell
from .conditions import Condition, find_condition, merge_conditions
from .drill_state import (
    Drill,
    Failure,
    NextDrill,
    Phase,
    Result,
    Trigger,
    find_next,
    format_time,
    say_time,
)
from .drill_view import DrillView, Remember

DRILL_SUCCEEDED = "DrillSucceeded"
"""Type of the condition on a ReplicationPair."""
RUNNING = "Running"
NEVER_DRILLED = "NeverDrilled"
NOT_PLANNED = "NotPlanned"
AGAIN = "then run one with spec.drill.runAt"


def remember(
    view: DrillView,
    changes: Mapping[str, Any],
    condition: Condition | None,
    tells: tuple[Tell, ...] = (),
    ended: str = "",
) -> Remember | None:
    """The write of ``changes`` and ``condition``; None when all of it stands there already."""
    status, meta = view.pair.status, view.pair.meta
    before = list(status.get("conditions") or ())
    full: dict[str, Any] = dict(changes)
    if condition is not None:
        now = view.now.strftime("%Y-%m-%dT%H:%M:%SZ")
        after = merge_conditions(before, [condition], observed_generation=meta.generation, now=now)
        if after != before:
            full["conditions"] = after
    return Remember(full, tells, ended) if full else None


def judge_waiting(view: DrillView, planned: NextDrill | None, problem: Failure | None) -> Condition:
    """The condition while no drill is under way."""
    if problem is not None:
        return Condition(DRILL_SUCCEEDED, False, problem.reason, problem.message)
    last = view.pair.status.get("lastDrill")
    if last:
        return judge_last(last)
    if planned is None:
        text = "no drill is planned: set spec.drill.schedule, or spec.drill.runAt to a time to come"
        return Condition(DRILL_SUCCEEDED, None, NOT_PLANNED, text)
    text = f"there was no drill yet; the first one is planned for {say_time(planned.time)}"
    return Condition(DRILL_SUCCEEDED, None, NEVER_DRILLED, text)


def judge_last(last: Mapping[str, Any]) -> Condition:
    good = last.get("result") == Result.SUCCEEDED.value
    reason = str(last.get("reason") or last.get("result"))
    return Condition(DRILL_SUCCEEDED, good, reason, str(last.get("message") or ""))


def judge_running(drill: Drill) -> Condition:
    if drill.phase is Phase.CHECKING:
        text = "the next volumes are checked"
    elif drill.phase is Phase.AWAY:
        text = f"running on {drill.wave[0].away} until the hold time is over"
    else:
        text = f"moving from {drill.from_node} to {drill.to_node}"
    names = ", ".join(v.volume for v in drill.wave)
    stop = "; to stop it set spec.drill.suspend" if drill.failure is None else ""
    why = f" (it failed: {drill.failure.message})" if drill.failure is not None else ""
    return Condition(DRILL_SUCCEEDED, None, RUNNING, f"drill of {names}: {text}{why}{stop}")


def is_worth_telling(view: DrillView) -> bool:
    """Whether the pair has, or had, anything to do with drills."""
    status = view.pair.status
    known = find_condition(status.get("conditions") or (), DRILL_SUCCEEDED)
    return bool(view.pair.spec.get("drill")) or known is not None


def tell(view: DrillView, reason: str, message: str, *, warning: bool = False) -> Tell:
    return Tell(REPLICATION_PAIR, view.pair.meta, reason, message, warning)


def tell_volumes(view: DrillView, drill: Drill, message: str) -> tuple[Tell, ...]:
    found = (view.volumes.get(v.volume) for v in drill.volumes)
    return tuple(Tell(VOLUME, e.volume.meta, "Drill", message) for e in found if e is not None)


@dataclass(frozen=True)
class Ending:
    """How a drill that was planned or under way ended. ``volumes``: of those that were moved."""

    result: Result
    reason: str
    message: str
    scheduled: datetime
    trigger: Trigger
    started: datetime | None = None
    drill: Drill | None = None


def end(view: DrillView, ending: Ending) -> Remember:
    """The write that ends it; what is planned next is chosen anew afterwards."""
    drill, now = ending.drill, format_time(view.now)
    last = {
        "time": format_time(ending.started) if ending.started else now,
        "scheduled": format_time(ending.scheduled),
        "trigger": ending.trigger.value,
        "ended": now,
        "result": ending.result.value,
        "reason": ending.reason,
        "message": ending.message,
        "recoverySeconds": drill.recovery_seconds if drill is not None else None,
        "volumes": _list_volumes(drill) if drill is not None else None,
    }
    changes: dict[str, Any] = {"drill": None, "nextDrill": None, "lastDrill": last}
    if ending.trigger is Trigger.RUN_AT:
        changes["drillRunAtUsed"] = format_time(ending.scheduled)
    good = ending.result is Result.SUCCEEDED
    if good:
        changes["lastSuccessfulDrill"] = now
    told = tell(view, f"Drill{ending.result.value}", ending.message, warning=not good)
    found = remember(view, changes, judge_last(last), (told,), ending.result.value)
    return found if found is not None else Remember(changes)


def _list_volumes(drill: Drill) -> list[dict[str, Any]]:
    """Fields that are not known are left out."""
    entries = []
    for one in drill.volumes:
        entry: dict[str, Any] = {"volume": one.volume, "home": one.home, "away": one.away}
        if one.out.seconds is not None:
            entry["recoverySeconds"] = one.out.seconds
        if one.back.seconds is not None:
            entry["returnSeconds"] = one.back.seconds
        entries.append(entry)
    return entries


def say_success(drill: Drill) -> str:
    worst = max(drill.volumes, key=lambda v: v.out.seconds or 0.0)
    count = len(drill.volumes)
    what = "1 volume was" if count == 1 else f"{count} volumes were"
    return (
        f"{what} moved to the other site and back; the longest was away from its pods for"
        f" {worst.out.seconds or 0.0:.1f} s ({worst.volume})"
    )


def say_failure(view: DrillView, drill: Drill, failure: Failure) -> str:
    """Why, where the volumes are now, and what to do."""
    places: dict[str, list[str]] = {}
    for one in drill.volumes:
        evidence = view.volumes.get(one.volume)
        record = evidence.record if evidence is not None else None
        if record is not None and record.primary != one.home:
            places.setdefault(record.primary, []).append(one.volume)
    if not places:
        return f"{failure.message}. Every volume is at home. Correct it, {AGAIN}"
    left = "; ".join(f"{', '.join(names)} on {node}" for node, names in sorted(places.items()))
    text = "they are served there and may stay, or drain them back when both sites are well"
    return f"{failure.message}. Not at home: {left} ({text}). Correct it, {AGAIN}"


def planned_of(view: DrillView) -> NextDrill | None:
    return find_next(view.pair.status)
