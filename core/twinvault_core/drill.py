"""A drill: chosen volumes are moved to the other site, as in a drain, and brought back.

The state is in the status of the ReplicationPair; each call answers the next steps from what is
there then, so an operator may die between any two of them:
1. What is about to be done is remembered first: the node to close, the pods (by UID) to evict.
2. The node is closed (a NoSchedule taint of our own), so that nothing else than the new pods is
   touched: what runs there goes on.
3. The pods are evicted; the volume follows them by a switchover, and stays in sync on both sites.
4. The node is opened as soon as all new pods are bound elsewhere.
A node is closed only while the remembered state says so (``plan_opening``): whatever ends a drill
opens it. A real failure in the middle ends the drill at once: nothing of it is in the way of the
failover, which does not ask whether there was a drill.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from .actions import Tell
from .cluster_plan import KubeNode
from .drill_check import describe, find_refusals
from .drill_course import plan_course
from .drill_report import (
    AGAIN,
    Ending,
    end,
    is_worth_telling,
    judge_running,
    judge_waiting,
    remember,
    tell,
    tell_volumes,
)
from .drill_schedule import announce, choose_next, is_missed
from .drill_state import (
    Drill,
    DrillSpec,
    Failure,
    NextDrill,
    Phase,
    Result,
    Trigger,
    VolumeDrill,
    find_drill,
    find_next,
    format_time,
    parse_time,
    say_time,
)
from .drill_view import DrillStep, DrillUsers, DrillView, Look, Sleep
from .errors import TwinvaultError
from .model import ReplicationPair
from .names import TAINT_DRILL

IDLE_SECONDS = 60.0
RETRY_SECONDS = 2.0
INVALID_SCHEDULE = "InvalidSchedule"
UNREADABLE = "Unreadable"


def plan_drill(view: DrillView) -> tuple[DrillStep, ...]:
    """The next steps for one pair; the last one may be a Sleep."""
    try:
        drill = find_drill(view.pair.status)
        planned = find_next(view.pair.status)
    except (TwinvaultError, KeyError, ValueError, TypeError) as error:
        return (_forget(view, repr(error)),)
    if drill is not None:
        return plan_course(view, drill)
    return _plan_waiting(view, planned)


def plan_opening(pairs: Iterable[ReplicationPair], closed: Mapping[str, str]) -> tuple[str, ...]:
    """Nodes to take our taint off: no drill under way wants them closed.

    ``closed``: the value of our taint, the name of a pair, by node.
    """
    wanted = set()
    for pair in pairs:
        tainted = (pair.status.get("drill") or {}).get("tainted")
        if tainted:
            wanted.add((tainted, pair.meta.name))
    return tuple(sorted(node for node, pair in closed.items() if (node, pair) not in wanted))


def closed_by(node: KubeNode) -> str:
    """The pair whose drill closed the node; empty when none did."""
    return next((value for key, value, _ in node.every_taint if key == TAINT_DRILL), "")


def choose_volumes(pair: ReplicationPair, by_claim: Mapping[str, str]) -> tuple[str, ...]:
    """Those that a decision about this pair has to see: chosen, or in a drill under way."""
    raw = pair.spec.get("drill") or {}
    chosen = DrillSpec(volumes=raw.get("volumes") or (), claims=raw.get("claims") or ())
    moved = (pair.status.get("drill") or {}).get("volumes") or ()
    names = {*chosen.choose(by_claim), *(str(v.get("volume") or "") for v in moved)}
    return tuple(sorted(names - {""}))


def _forget(view: DrillView, what: str) -> DrillStep:
    """Somebody changed the status by hand: nothing is known of pods, so nothing is moved."""
    text = f"what was remembered of a drill cannot be read ({what}); it was forgotten"
    return end(view, Ending(Result.ABORTED, UNREADABLE, text, view.now, Trigger.SCHEDULE))


# -- no drill is under way -------------------------------------------------------------------------


def _plan_waiting(view: DrillView, planned: NextDrill | None) -> tuple[DrillStep, ...]:
    pair, raw = view.pair, view.pair.spec.get("drill")
    try:
        spec = DrillSpec.parse(raw or {})
        used = pair.status.get("drillRunAtUsed")
        wanted = choose_next(spec, planned, parse_time(used) if used else None, view.now)
    except TwinvaultError as error:
        return _rest(view, planned, None, problem=Failure(INVALID_SCHEDULE, error.message))
    if not raw or spec.suspended or pair.meta.deleting:
        return _rest(view, planned, None)
    if not spec.choose(view.by_claim) and wanted is not None:
        text = "spec.drill names no volume: list those that may be moved in volumes or claims"
        return _rest(view, planned, None, problem=Failure("NothingChosen", text))
    if wanted is None or wanted != planned:
        return _rest(view, planned, wanted)
    if is_missed(spec, wanted, view.now):
        return (_miss(view, wanted),)
    if wanted.announced is None:
        due = wanted.scheduled - spec.announce
        if view.now < due:
            return _rest(view, planned, wanted, until=due)
        return _plan_announcement(view, spec, wanted)
    if view.now < wanted.time:
        return _rest(view, planned, wanted, until=wanted.time)
    return _plan_start(view, spec, wanted)


def _rest(
    view: DrillView,
    planned: NextDrill | None,
    wanted: NextDrill | None,
    *,
    until: datetime | None = None,
    problem: Failure | None = None,
) -> tuple[DrillStep, ...]:
    """Nothing is due; what the status says of the next drill is made true."""
    changes: dict[str, Any] = {}
    if wanted != planned:
        changes["nextDrill"] = wanted.to_dict() if wanted is not None else None
    condition = None
    if is_worth_telling(view):
        condition = judge_waiting(view, wanted, problem)
    tells: tuple[Tell, ...] = ()
    if planned is not None and planned.announced and not _is_same(planned, wanted):
        why = problem.message if problem is not None else "the spec asks for another time"
        tells = (tell(view, "DrillCancelled", f"{say_time(planned.time)}: {why}"),)
    found = remember(view, changes, condition, tells)
    if found is not None:
        return (found,)
    left = (until - view.now).total_seconds() if until is not None else IDLE_SECONDS
    return (Sleep(min(max(left, 0.01), IDLE_SECONDS)),)


def _is_same(planned: NextDrill, wanted: NextDrill | None) -> bool:
    return wanted is not None and wanted.scheduled == planned.scheduled


def _miss(view: DrillView, planned: NextDrill) -> DrillStep:
    text = (
        f"the drill of {say_time(planned.scheduled)} could not be announced and started in time:"
        " no operator was at work. Nothing was touched; the next one comes as planned"
    )
    reason = Result.MISSED.value
    return end(view, Ending(Result.MISSED, reason, text, planned.scheduled, planned.trigger))


def _plan_announcement(
    view: DrillView, spec: DrillSpec, planned: NextDrill
) -> tuple[DrillStep, ...]:
    """Say when, of what, and whether anything would speak against it as things are now."""
    told = announce(spec, planned, view.now)
    if is_missed(spec, told, view.now):
        return (_miss(view, told),)
    chosen = spec.choose(view.by_claim)
    if view.users is None and not view.users_problem:
        return (Look(chosen),)
    refusals = find_refusals(view, chosen, view.users or DrillUsers(), told.trigger)
    lasting = [r for r in refusals if not r.passes]
    names = ", ".join(chosen)
    text = (
        f"from {say_time(told.time)} the pods of {names} are moved to the other site and back;"
        " each is away for some seconds, twice. To stop it set spec.drill.suspend"
    )
    tells = [tell(view, "DrillAnnounced", text)]
    if lasting and not view.users_problem:
        warn = f"as things are now it would be refused: {describe(lasting)}"
        tells.append(tell(view, "DrillEndangered", warn, warning=True))
    found = remember(
        view, {"nextDrill": told.to_dict()}, judge_waiting(view, told, None), tuple(tells)
    )
    return (found,) if found is not None else (Sleep(RETRY_SECONDS),)


def _plan_start(view: DrillView, spec: DrillSpec, planned: NextDrill) -> tuple[DrillStep, ...]:
    last_chance = view.now + timedelta(seconds=RETRY_SECONDS) > planned.scheduled + spec.window
    chosen = spec.choose(view.by_claim)
    if view.users is None:
        if not view.users_problem:
            return (Look(chosen),)
        if not last_chance:
            return (Sleep(RETRY_SECONDS, view.users_problem),)
        return (_refuse(view, planned, "PodsUnknown", view.users_problem),)
    refusals = find_refusals(view, chosen, view.users, planned.trigger)
    if not refusals:
        return (_begin(view, chosen, planned, view.users),)
    if all(r.passes for r in refusals) and not last_chance:
        return (Sleep(RETRY_SECONDS, describe(refusals)),)
    first = next((r for r in refusals if not r.passes), refusals[0])
    return (_refuse(view, planned, first.reason, describe(refusals)),)


def _refuse(view: DrillView, planned: NextDrill, reason: str, why: str) -> DrillStep:
    text = f"refused, nothing was touched: {why}. Correct it, {AGAIN}"
    ending = Ending(Result.REFUSED, reason, text, planned.scheduled, planned.trigger)
    return end(view, ending)


def _begin(
    view: DrillView, chosen: tuple[str, ...], planned: NextDrill, users: DrillUsers
) -> DrillStep:
    found = []
    for name in chosen:
        evidence = view.volumes[name]
        home = evidence.record.primary if evidence.record is not None else ""
        other = evidence.other(home)
        away = other.node if other is not None else ""
        claim, count = users.claims[name], len(users.of(name))
        found.append(VolumeDrill(name, home, away, claim, users=count))
    found.sort(key=lambda v: (v.home, v.away, v.volume))
    drill = Drill(
        started=view.now,
        scheduled=planned.scheduled,
        trigger=planned.trigger,
        phase=Phase.LEAVING,
        since=view.now,
        tainted=found[0].home,
        volumes=tuple(found),
    )
    names = ", ".join(v.volume for v in found)
    text = f"the drill begins: {names}; to stop it set spec.drill.suspend"
    changes: dict[str, Any] = {"drill": drill.to_dict(), "nextDrill": None}
    if planned.trigger is Trigger.RUN_AT:
        changes["drillRunAtUsed"] = format_time(planned.scheduled)
    ours = f"drill of ReplicationPair {view.pair.meta.name}: its pods are moved and come back"
    tells = (tell(view, "DrillStarted", text), *tell_volumes(view, drill, ours))
    step = remember(view, changes, judge_running(drill), tells)
    return step if step is not None else Sleep(RETRY_SECONDS)
