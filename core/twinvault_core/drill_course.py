"""A drill that is under way: the legs out and back, and every way in which it may end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from .drill_check import describe, find_loss, find_refusals, find_trouble
from .drill_report import Ending, end, judge_running, remember, say_failure, say_success
from .drill_state import (
    Drill,
    DrillSpec,
    Failure,
    Phase,
    Result,
    VolumeDrill,
)
from .drill_view import CloseNode, DrillPod, DrillStep, DrillUsers, DrillView, EvictPod, Look, Sleep
from .errors import TwinvaultError
from .replicated_status import is_in_sync
from .replication_state import DrbdRole

POLL_SECONDS = 0.5
RETRY_SECONDS = 2.0
EVICT_AGAIN = timedelta(seconds=2)
"""A PodDisruptionBudget that says no is asked again so often."""
MAX_AGAIN = 2
"""So many pods may come back to the node that is being left: the scheduler's picture may be old."""


def plan_course(view: DrillView, drill: Drill) -> tuple[DrillStep, ...]:
    """The next steps of ``drill``."""
    spec, stop = _parse_spec(view), _find_stop(view, drill)
    if not drill.wave:
        return (_end(view, drill),)
    if stop is not None and stop.stay:
        return (_end(view, replace(drill, failure=stop)),)
    if stop is not None and drill.failure is None:
        return (_fail(view, drill, stop),)
    if drill.phase is Phase.CHECKING:
        return _plan_check(view, drill, spec)
    if drill.phase is Phase.AWAY:
        left = (drill.since + spec.hold - view.now).total_seconds()
        if left > 0:
            return (Sleep(left),)
        return (_turn(view, drill, Phase.RETURNING),)
    return _plan_leg(view, drill, spec)


def _parse_spec(view: DrillView) -> DrillSpec:
    """A spec that was made invalid in the middle leaves the usual times."""
    try:
        return DrillSpec.parse(view.pair.spec.get("drill") or {})
    except TwinvaultError:
        return DrillSpec()


def _find_stop(view: DrillView, drill: Drill) -> Failure | None:
    """A real failure first: it leaves everything to the failover."""
    for one in drill.wave:
        failure = _find_failure(view, one)
        if failure is not None:
            return failure
    raw = view.pair.spec.get("drill") or {}
    if not raw or raw.get("suspend") or view.pair.meta.deleting:
        return Failure("Stopped", "a person stopped it")
    return None


def _find_failure(view: DrillView, one: VolumeDrill) -> Failure | None:
    name, evidence = one.volume, view.volumes.get(one.volume)
    if evidence is None or evidence.record is None or evidence.volume.meta.deleting:
        return Failure("VolumeGone", f"{name} is being deleted", stay=True)
    for node in one.nodes:
        lost = find_loss(node, view.nodes.get(node))
        if lost:
            return Failure("NodeLost", f"{name}: {lost}", stay=True)
    record = evidence.record
    if not is_in_sync(evidence.volume) or record.primary not in one.nodes:
        both = ", ".join(sorted(record.in_sync))
        text = f"{name} is not in sync any more: only {both} has every write"
        return Failure("NotInSync", text, stay=True)
    trouble = find_trouble(evidence)
    if trouble is not None:
        return Failure(trouble[0], f"{name}: {trouble[1]}", stay=True)
    return None


# -- from phase to phase ---------------------------------------------------------------------------


def _write(view: DrillView, drill: Drill) -> DrillStep:
    step = remember(view, {"drill": drill.to_dict()}, judge_running(drill))
    return step if step is not None else Sleep(POLL_SECONDS)


def _turn(view: DrillView, drill: Drill, phase: Phase) -> DrillStep:
    """Begin ``phase`` with the wave: no pod of it is known yet."""
    wave = {v.volume: replace(v, pods=(), again=0) for v in drill.wave}
    turned = replace(drill.with_volumes(wave), phase=phase, since=view.now, tainted="")
    if phase in (Phase.LEAVING, Phase.RETURNING):
        turned = replace(turned, tainted=turned.from_node)
    return _write(view, turned)


def _fail(view: DrillView, drill: Drill, failure: Failure) -> DrillStep:
    """Bring home what is away; what is on its way home goes on."""
    failed = replace(drill, failure=failure)
    if drill.phase is Phase.CHECKING:
        return _end(view, failed)
    if drill.phase is Phase.RETURNING:
        return _write(view, failed)
    return _turn(view, failed, Phase.RETURNING)


def _end(view: DrillView, drill: Drill) -> DrillStep:
    failure = drill.failure
    if failure is None:
        result, reason, text = Result.SUCCEEDED, Result.SUCCEEDED.value, say_success(drill)
    else:
        result, reason = Result.ABORTED, failure.reason
        text = f"aborted: {say_failure(view, drill, failure)}"
    return end(
        view, Ending(result, reason, text, drill.scheduled, drill.trigger, drill.started, drill)
    )


def _plan_check(view: DrillView, drill: Drill, spec: DrillSpec) -> tuple[DrillStep, ...]:
    """Before the volumes of the next home are moved: may they still be?"""
    names = tuple(v.volume for v in drill.volumes)
    overdue = view.now >= drill.since + spec.deadline
    if view.users is None:
        if not view.users_problem:
            return (Look(names),)
        if not overdue:
            return (Sleep(RETRY_SECONDS, view.users_problem),)
        return (_fail(view, drill, Failure("PodsUnknown", view.users_problem)),)
    wave = tuple(v.volume for v in drill.wave)
    refusals = find_refusals(view, wave, view.users, drill.trigger)
    moved = [v.volume for v in drill.wave if _home_of(view, v) != v.home]
    if not refusals and not moved:
        return (_turn(view, drill, Phase.LEAVING),)
    if not moved and all(r.passes for r in refusals) and not overdue:
        return (Sleep(RETRY_SECONDS, describe(refusals)),)
    text = describe(refusals) or f"{', '.join(moved)} was moved by somebody else meanwhile"
    reason = refusals[0].reason if refusals else "Moving"
    return (_fail(view, drill, Failure(reason, text)),)


def _home_of(view: DrillView, one: VolumeDrill) -> str:
    evidence = view.volumes.get(one.volume)
    record = evidence.record if evidence is not None else None
    return record.primary if record is not None else ""


# -- a leg -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Use:
    """Who uses one volume of the wave: on the node that is left, and on the one it goes to."""

    here: tuple[DrillPod, ...]
    there: tuple[DrillPod, ...]

    @property
    def staying(self) -> tuple[DrillPod, ...]:
        return tuple(p for p in self.here if not p.deleting)

    @property
    def arrived(self) -> tuple[DrillPod, ...]:
        return tuple(p for p in self.there if not p.deleting)


def _plan_leg(view: DrillView, drill: Drill, spec: DrillSpec) -> tuple[DrillStep, ...]:
    overdue = view.now >= drill.since + spec.deadline
    if drill.to_node in view.closed and not overdue:
        return (Sleep(POLL_SECONDS, f"{drill.to_node} is still closed"),)
    if drill.tainted and drill.tainted not in view.closed and not overdue:
        return (CloseNode(drill.tainted),)
    if view.users is None and not view.users_problem:
        return (Look(tuple(v.volume for v in drill.wave), {v.volume: v.claim for v in drill.wave}),)
    if view.users is None:
        late = Failure("PodsUnknown", view.users_problem)
        return (_miss_deadline(view, drill, late),) if overdue else (Sleep(RETRY_SECONDS),)
    uses = {v.volume: _observe_use(drill, v, view.users) for v in drill.wave}
    bare = [p for use in uses.values() for p in use.staying if not p.controller]
    if bare:
        text = f"pod {bare[0].path} has no controller that would start it again"
        return (_miss_deadline(view, drill, Failure("NoController", text)),)
    changed = {v.volume: _advance(view, drill, v, uses[v.volume]) for v in drill.wave}
    came_back = [v for v in changed.values() if v.again > MAX_AGAIN]
    if came_back:
        text = f"the pods of {came_back[0].volume} start on {drill.from_node} again and again"
        return (_miss_deadline(view, drill, Failure("CameBack", f"{text}: see what pins them")),)
    after = _close_or_open(drill, changed, uses)
    if after != drill:
        return (_settle(view, drill, after),)
    if overdue:
        late = Failure("TooLate", _say_missing(view, drill, uses, spec))
        return (_miss_deadline(view, drill, late),)
    return (*_plan_evictions(view, drill, uses), Sleep(POLL_SECONDS))


def _observe_use(drill: Drill, one: VolumeDrill, users: DrillUsers) -> _Use:
    pods = users.of(one.volume)
    return _Use(
        tuple(p for p in pods if p.node == drill.from_node),
        tuple(p for p in pods if p.node == drill.to_node),
    )


def _advance(view: DrillView, drill: Drill, one: VolumeDrill, use: _Use) -> VolumeDrill:
    """``one`` with the pods that are to be evicted, and with what has happened since."""
    leg = one.leg(drill.phase)
    if leg.served is not None:
        return one
    new = tuple(sorted(p.uid for p in use.staying if p.uid not in one.pods))
    if new:
        again = one.again + (len(new) if one.pods else 0)
        one = replace(one, pods=one.pods + new, again=again)
    if leg.evicted is None and set(one.pods) - {p.uid for p in use.staying}:
        leg = replace(leg, evicted=_find_evicted(view, drill, one, use))
    if not use.here and _is_served(view, drill.to_node, one, use):
        leg = replace(leg, served=view.now)
    return one.with_leg(drill.phase, leg)


def _find_evicted(view: DrillView, drill: Drill, one: VolumeDrill, use: _Use) -> datetime:
    """As this process knows it, else as the API server says, else the earliest that it can be."""
    known = [view.evictions[uid] for uid in one.pods if uid in view.evictions]
    ending = [p.deleting_since for p in use.here if p.uid in one.pods]
    known += [at for at in ending if at is not None and not known]
    return max(drill.since, min(known, default=drill.since))


def _is_served(view: DrillView, node: str, one: VolumeDrill, use: _Use) -> bool:
    """A pod that is Ready has it on ``node``, which is primary, and both replicas are in sync."""
    evidence = view.volumes.get(one.volume)
    replica = evidence.replica(node) if evidence is not None else None
    if evidence is None or evidence.record is None or replica is None:
        return False
    report = replica.replication_status
    promoted = report is not None and report.role is DrbdRole.PRIMARY
    ready = [p for p in use.arrived if p.ready]
    return (
        evidence.record.primary == node
        and evidence.volume.published_to == (node,)
        and promoted
        and replica.in_use
        and len(ready) >= one.users
    )


def _close_or_open(drill: Drill, changed: dict[str, VolumeDrill], uses: dict[str, _Use]) -> Drill:
    """The node is closed while a pod has to leave it or is not bound elsewhere; not longer."""
    after = drill.with_volumes(changed)
    moving = [v for v in changed.values() if v.leg(drill.phase).served is None]
    if any(uses[v.volume].staying for v in moving):
        return replace(after, tainted=drill.from_node)
    if all(len(uses[v.volume].arrived) >= v.users for v in moving):
        return replace(after, tainted="")
    return after


def _settle(view: DrillView, drill: Drill, after: Drill) -> DrillStep:
    """Remember ``after``; when all of the wave arrived, the next phase with it."""
    names = {v.volume for v in drill.wave}
    legs = {v.volume: v.leg(drill.phase) for v in after.volumes if v.volume in names}
    if any(leg.served is None for leg in legs.values()):
        return _write(view, after)
    strange = sorted(name for name, leg in legs.items() if leg.evicted is None)
    if strange and after.failure is None:
        text = f"{', '.join(strange)} was moved by somebody else meanwhile"
        return _miss_deadline(view, after, Failure("Moving", text))
    if drill.phase is Phase.LEAVING:
        return _turn(view, after, Phase.AWAY)
    if after.wave and after.failure is None:
        return _turn(view, after, Phase.CHECKING)
    return _end(view, after)


def _miss_deadline(view: DrillView, drill: Drill, failure: Failure) -> DrillStep:
    """The leg does not end well: home again, or, on the way home already, the end."""
    if drill.phase is not Phase.RETURNING:
        return _fail(view, drill, failure)
    first = drill.failure
    if first is not None:
        failure = replace(first, message=f"{first.message}; on the way back: {failure.message}")
    return _end(view, replace(drill, failure=failure))


def _plan_evictions(view: DrillView, drill: Drill, uses: dict[str, _Use]) -> tuple[DrillStep, ...]:
    """Only pods that were remembered, only while the node is closed, only with a controller."""
    if drill.tainted != drill.from_node or drill.tainted not in view.closed:
        return ()
    found: dict[str, DrillPod] = {}
    for one in drill.wave:
        if one.leg(drill.phase).served is not None:
            continue
        for pod in uses[one.volume].staying:
            tried = view.tried.get(pod.uid)
            soon = tried is not None and view.now - tried < EVICT_AGAIN
            if pod.uid in one.pods and pod.controller and not soon:
                found[pod.uid] = pod
    return tuple(EvictPod(p.namespace, p.name, p.uid) for p in found.values())


def _say_missing(view: DrillView, drill: Drill, uses: dict[str, _Use], spec: DrillSpec) -> str:
    """What the first volume that did not arrive in time waits for."""
    late = next(v for v in drill.wave if v.leg(drill.phase).served is None)
    use, to = uses[late.volume], drill.to_node
    blocked = [view.blocked[p.uid] for p in use.staying if p.uid in view.blocked]
    if blocked:
        why = f"its pod cannot be evicted ({blocked[0]})"
    elif use.here:
        why = f"pod {use.here[0].path} does not end on {drill.from_node}"
    elif not use.there:
        why = f"no pod of it was scheduled on {to}; see kubectl get pods and its Events"
    elif not all(p.ready for p in use.there):
        why = f"pod {use.there[0].path} does not become Ready on {to}"
    else:
        why = f"it is not primary and in use on {to}; see its conditions"
    return (
        f"{late.volume} was not served on {to} within {spec.deadline.total_seconds():.0f} s: {why}"
    )
