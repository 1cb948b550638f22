"""Whose resync runs now: at most ``spec.resync.concurrentVolumes`` of a pair at once.

The order among those that wait: the highest ``spec.resyncPriority`` goes first; among equals
whoever is degraded since an earlier hour, and within one hour whoever has the least left. Why: the
loss of a site degrades all volumes in the same moment, and then the least left first makes the most
volumes whole soonest; a volume that got degraded in a later hour never overtakes, so nobody waits
for ever behind small ones of its own priority that keep coming. Who copies keeps its turn until it
is in sync, also before one of a higher priority: a resync that runs is not stopped for another. The
turn is of that one incident and stands in the pair's status, because
1. a small volume has its turn, becomes equal, and is degraded again at once;
2. the operator, which did not look in between, must not take that for the same turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .actions import Action
from .model import ReplicationPair
from .pair_volume import PairVolume, plan_told
from .replicated_status import is_replicated
from .resync_progress import describe_resyncs
from .verify_plan import parse_time

DEFAULT_SLOTS = 2
RENEW_SECONDS = 300
"""A hold is said anew so often; the agents let go of one that was not for three times as long."""


@dataclass(frozen=True)
class Candidate:
    """A volume that is not in sync. ``able``: linked, disks and agents there, so that a turn would
    be used. ``has_turn``: it was given one in this incident. ``since`` is RFC 3339.
    """

    name: str
    able: bool
    has_turn: bool
    since: str
    remaining_bytes: int = 0
    priority: int = 0

    @property
    def order(self) -> tuple[Any, ...]:
        return (-self.priority, self.since[:13], self.remaining_bytes, self.name)


@dataclass(frozen=True)
class ResyncPlan:
    """``status``: fields of the pair's status; a value None removes one."""

    status: Mapping[str, Any]
    actions: tuple[Action, ...] = ()


def choose_held(candidates: Iterable[Candidate], slots: int) -> frozenset[str]:
    """Names of those that must wait.

    1. Who has a turn and can use it keeps it, the first in order if there are too many.
    2. What is free goes to those that wait and can use it.
    3. What is left over is promised to those that cannot yet: two of a hundred begin as soon as the
       link is back, and not all of them.
    """
    ordered = sorted(candidates, key=lambda c: c.order)
    having = [c for c in ordered if c.able and c.has_turn]
    waiting = [c for c in ordered if c.able and not c.has_turn]
    away = sorted((c for c in ordered if not c.able), key=lambda c: not c.has_turn)
    chosen = (having + waiting + away)[: max(1, slots)]
    return frozenset(c.name for c in ordered if c not in chosen)


def plan_resyncs(pair: ReplicationPair, volumes: tuple[PairVolume, ...], *, now: str) -> ResyncPlan:
    """Tell each volume's primary whether a resync waits; ``now`` is RFC 3339."""
    slots = int((pair.spec.get("resync") or {}).get("concurrentVolumes") or DEFAULT_SLOTS)
    before = (pair.status.get("resync") or {}).get("turns") or ()
    turns = frozenset((str(t.get("volume")), str(t.get("since"))) for t in before)
    found = [c for c in (make_candidate(v, turns) for v in volumes) if c is not None]
    held = choose_held(found, slots)
    kept = [{"volume": c.name, "since": c.since} for c in found if c.name not in held]
    status = {"turns": kept, "waiting": len(held)} if found else None
    told = {"resync": status, "resyncing": describe_resyncs(volumes, held) or None}
    return ResyncPlan(told, _tell(volumes, held, now))


def _tell(volumes: tuple[PairVolume, ...], held: frozenset[str], now: str) -> tuple[Action, ...]:
    return tuple(
        step
        for volume in volumes
        for step in plan_told(
            volume, "resyncHold", _choose_token(volume, now) if volume.name in held else ""
        )
    )


def _choose_token(volume: PairVolume, now: str) -> str:
    """The one that is there while it is young; a new one says that the operator still means it."""
    primary = volume.primary
    told = primary.replication.resync_hold if primary and primary.replication else ""
    try:
        age = parse_time(now) - parse_time(told)
    except ValueError:
        return now
    return told if timedelta() <= age < timedelta(seconds=RENEW_SECONDS) else now


def make_candidate(volume: PairVolume, turns: frozenset[tuple[str, str]]) -> Candidate | None:
    """None for a volume that has nothing to copy, or of which nothing can be told."""
    primary, record, report = volume.primary, volume.volume.record, volume.report
    if primary is None or primary.replication is None or record is None:
        return None
    if not is_replicated(volume.volume) or volume.in_sync or volume.volume.meta.deleting:
        return None
    resync, since = report.resync if report is not None else None, volume.weak_since
    if not since or (not volume.volume.status_size_bytes and resync is None):
        return None  # a new one: most are equal without a copy
    linked = report is not None and not report.link_down and not report.peer_disk.gone
    able = linked and record.primary in record.in_sync and not volume.lost
    left = resync.remaining_bytes if resync is not None else volume.volume.size_bytes
    has_turn, priority = (volume.name, since) in turns, volume.volume.resync_priority
    return Candidate(volume.name, able, has_turn, since, left, priority)
