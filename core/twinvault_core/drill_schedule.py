"""When the next drill is: from the schedule, or from ``runAt``.

A scheduled time is chosen so far ahead that the promised notice can be given, and kept in the
status. So an operator that was away knows what it missed: it is made up for once, if it is late by
less than the start window, and never without notice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from .drill_state import DrillSpec, NextDrill, Trigger

SLACK = timedelta(minutes=1)
"""An announcement that is late by less than this moves nothing."""


def choose_next(
    spec: DrillSpec, planned: NextDrill | None, run_at_used: datetime | None, now: datetime
) -> NextDrill | None:
    """The drill to plan; what is planned already stays while the spec still says the same.

    A ``runAt`` counts once, and not when it was long over when we saw it first: a manifest that is
    applied again must not start anything.
    """
    found = [_choose_run_at(spec, planned, run_at_used, now), _choose_scheduled(spec, planned, now)]
    return min((n for n in found if n is not None), key=lambda n: n.scheduled, default=None)


def _choose_run_at(
    spec: DrillSpec, planned: NextDrill | None, used: datetime | None, now: datetime
) -> NextDrill | None:
    at = spec.run_at
    if at is None or at == used:
        return None
    if planned is not None and planned.trigger is Trigger.RUN_AT and planned.scheduled == at:
        return planned
    return NextDrill(at, at, Trigger.RUN_AT) if now <= at + spec.window else None


def _choose_scheduled(
    spec: DrillSpec, planned: NextDrill | None, now: datetime
) -> NextDrill | None:
    if spec.cron is None:
        return None
    mine = planned is not None and planned.trigger is Trigger.SCHEDULE
    if mine and planned is not None and planned.schedule == spec.cron.text:
        return planned
    at = spec.cron.next_after(now + spec.announce)
    return NextDrill(at, at, Trigger.SCHEDULE, spec.cron.text)


def announce(spec: DrillSpec, planned: NextDrill, now: datetime) -> NextDrill:
    """``planned`` as announced now: a scheduled one keeps the whole notice, a person's need not."""
    scheduled = planned.trigger is Trigger.SCHEDULE
    earliest = now + spec.announce - SLACK if scheduled else now
    return replace(planned, announced=now, time=max(planned.scheduled, earliest))


def is_missed(spec: DrillSpec, planned: NextDrill, now: datetime) -> bool:
    """Whether it cannot start any more inside its window."""
    return max(planned.time, now) > planned.scheduled + spec.window
