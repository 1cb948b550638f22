"""What is told of a failover: each phase timed, the preview, the approval that it used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twinvault_core import reasons
from twinvault_core.actions import REPLICATION_PAIR, STORAGE_NODE, VOLUME, Tell
from twinvault_core.failover_phases import UNKNOWN
from twinvault_core.failover_view import (
    STUCK_AFTER_ATTEMPTS,
    FailoverWork,
    NodeView,
    Policy,
    Swap,
    VolumeEvidence,
    Wait,
)
from twinvault_core.failover_words import describe_stuck, find_volumes
from twinvault_core.model import Meta
from twinvault_core.replication_state import DrbdRole
from twinvault_core.switchover import preview_failover

from .approvals import Approvals
from .failover_course import Course, resume_courses
from .metrics import Metrics
from .work_queue import Key, WorkQueue
from .world import World

WATCHED_SECONDS = 180.0
"""So long the pods of a failover are waited for; then what is known is told."""


class FailoverReport:
    """Kept in memory by the leader; written into the ReplicationPair by its own plan. What a leader
    that is gone had begun is taken over from there, and from the volumes. ``wall``: seconds since
    1970, read once; from then on the monotonic clock counts, which never jumps.
    """

    def __init__(
        self,
        world: World,
        queue: WorkQueue,
        metrics: Metrics,
        monotonic: Callable[[], float],
        now: Callable[[], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._world, self._queue, self._metrics = world, queue, metrics
        self._monotonic, self._now = monotonic, now
        self._offset = wall() - monotonic()
        self._courses: dict[tuple[str, str], Course] = {}
        self._approvals = Approvals(world, queue)

    def moment(self) -> float:
        """Now, in seconds since 1970."""
        return self._monotonic() + self._offset

    def take_over(self) -> None:
        """The lead begins: go on with what an earlier leader did not see the end of.

        What is remembered of an earlier lead of our own is forgotten. Why:
        1. We tell of a failover and lose the lead.  2. Another one leads, and tells of the next.
        3. We lead again, and would write the first one over it.
        """
        self._courses.clear()
        self._world.pair_news.clear()
        self._world.failover_waits.clear()
        since = self.moment() - WATCHED_SECONDS
        self._approvals.take_over(since)
        for pair in self._world.pairs.values():
            name = pair.meta.name
            told = pair.status.get("lastFailover") or {}
            volumes = self._world.volumes.find("pair", name)
            for course in resume_courses(name, told, volumes, since=since):
                self._courses[name, course.node] = course
                for volume in list(course.used):
                    self._reach(course, volume, UNKNOWN)
                self._tell_pairs({name})
                self._check_complete(course)

    def acting(self, node: str) -> None:
        """Pods or attachments of the node are being removed, by us."""
        for (_, name), course in self._courses.items():
            course.acted = course.acted or name == node

    def swapped(self, view: NodeView, swaps: list[Swap]) -> None:
        """These swaps were won."""
        at = self.moment()
        me = view.nodes[view.node]
        for swap in swaps:
            pair = swap.volume.replication_pair
            key = (pair, view.node)
            course = self._courses.get(key)
            if course is None or course.evicted_at is not None:
                lost_at = at - me.silent_seconds if me.expired else at
                course = self._courses[key] = Course(
                    pair, view.node, swap.after.primary, swap.reason, self._now(), lost_at, at
                )
                self._metrics.failovers.labels(pair, swap.reason).inc()
            if swap.volume.published_to == (view.node,):
                course.used.add(swap.volume.meta.name)
            course.fenced_at = at
            self._approvals.note(pair)
        self._tell_pairs({s.volume.replication_pair for s in swaps})

    def evicted(self, node: str) -> None:
        """Nothing is left to be done on the node for now."""
        for (pair, name), course in self._courses.items():
            if name == node and course.evicted_at is None:
                course.end_eviction(self.moment())
                self._tell_pairs({pair})
                self._check_complete(course)

    def observe(self, volume_name: str) -> None:
        """A volume or a replica of it changed: how far is its new user?"""
        if not self._courses:
            return
        for course in list(self._courses.values()):
            if volume_name in course.used:
                self._reach(course, volume_name, self.moment())
                self._check_complete(course)

    def attached(self, node: str) -> None:
        """An attachment there is done: of a volume that a course waits for?"""
        for course in [c for c in self._courses.values() if c.to == node]:
            for name in course.used - course.reached.get("attach", {}).keys():
                self._reach(course, name, self.moment())
            self._check_complete(course)

    def _reach(self, course: Course, name: str, at: float) -> None:
        volume = self._world.volumes.get(name)
        if volume is None or volume.record is None:
            course.used.discard(name)
            return
        replica = next(
            (r for r in self._world.replicas.find("volume", name) if r.node == course.to), None
        )
        report = replica.replication_status if replica is not None else None
        published = volume.published_to == (course.to,)
        attached = published and self._world.attachments.is_attached(volume, course.to)
        promoted = report is not None and report.role is DrbdRole.PRIMARY
        # Nobody promotes before it is attached, though the news of it may be lost.
        ends = {
            "reschedule": at if published else None,
            "attach": at if attached else UNKNOWN if promoted else None,
            "promote": at if promoted else None,
            "mount": at if replica is not None and replica.in_use else None,
        }
        for phase, ended_at in ends.items():
            if ended_at is not None:
                course.reach(phase, name, ended_at)

    def _check_complete(self, course: Course) -> None:
        late = self.moment() - course.decided_at > WATCHED_SECONDS
        if course.evicted_at is None or not (course.complete or late):
            return
        for phase in course.phases():
            if "seconds" in phase:
                self._metrics.failover_seconds.labels(course.pair, phase["name"]).observe(
                    phase["seconds"]
                )
        self._tell_pairs({course.pair})
        self._courses.pop((course.pair, course.node), None)

    # -- what keeps a failover from happening ----------------------------------------------------

    def waits(self, view: NodeView, waits: list[Wait]) -> None:
        """Tell each volume why its loss was not answered, and the pair what approving would do."""
        told = {wait.subject: wait for wait in waits}
        for evidence in view.volumes:
            record, name = evidence.record, evidence.name
            if record is None or record.primary != view.node:
                continue
            message = told[name].message if name in told else ""
            if self._world.failover_waits.get(name, "") != message:
                self._world.failover_waits[name] = message
                self._queue.add(Key("Volume", name))
        asked = {w.subject for w in waits if w.reason == "ApprovalNeeded"}
        self._preview(view, [e for e in view.volumes if _is_manual(e)], asked)

    def failing(
        self, view: NodeView, steps: Sequence[tuple[FailoverWork, str]]
    ) -> tuple[Tell, ...]:
        """Put what fails again and again, and why, into the status of the volumes that wait for it,
        and take out what does not; the Events that tell of what is new.
        """
        texts: dict[str, str] = {}
        told: list[Tell] = []
        for step, problem in steps:
            text = describe_stuck(step, problem)
            texts.update(dict.fromkeys(find_volumes(step), text))
            if not find_volumes(step) and step.retry.attempt == STUCK_AFTER_ATTEMPTS:
                known = self._world.storage_nodes.get(view.node)
                meta = known.meta if known is not None else Meta(view.node)
                told.append(Tell(STORAGE_NODE, meta, reasons.FAILOVER_STUCK, text, True))
        for evidence in view.volumes:
            key, wanted = (evidence.name, view.node), texts.get(evidence.name, "")
            if bool(self._world.failover_stuck.get(key)) == bool(wanted):
                continue
            self._world.failover_stuck[key] = wanted
            self._queue.add(Key("Volume", evidence.name))
            if wanted:
                meta = evidence.volume.meta
                told.append(Tell(VOLUME, meta, reasons.FAILOVER_STUCK, wanted, True))
        return tuple(told)

    def _preview(self, view: NodeView, volumes: list[VolumeEvidence], asked: set[str]) -> None:
        by_pair: dict[str, list[VolumeEvidence]] = {}
        for evidence in volumes:
            by_pair.setdefault(evidence.volume.replication_pair, []).append(evidence)
        for pair, found in by_pair.items():
            wanted = None
            if any(e.name in asked for e in found):
                wanted = preview_failover(view.node, found)
            news = self._world.pair_news.setdefault(pair, {})
            shown = self._shown_preview(pair)
            about_us = shown is None or shown.get("from") == view.node
            if news.get("failoverPreview", shown) != wanted and (wanted is not None or about_us):
                news["failoverPreview"] = wanted
                self._queue.add(Key(REPLICATION_PAIR, pair))

    def _shown_preview(self, name: str) -> Mapping[str, Any] | None:
        pair = self._world.pairs.get(name)
        return pair.status.get("failoverPreview") if pair is not None else None

    def settle_approvals(self) -> None:
        """Use up each approval whose failover is over."""
        self._approvals.settle()

    def pairs_changed(self) -> None:
        """Somebody wrote into the spec of a pair."""
        self._approvals.forget_cleared()

    def _tell_pairs(self, pairs: set[str]) -> None:
        for (pair, _), course in self._courses.items():
            if pair in pairs:
                self._world.pair_news.setdefault(pair, {})["lastFailover"] = course.to_dict()
                self._queue.add(Key(REPLICATION_PAIR, pair))


def _is_manual(evidence: VolumeEvidence) -> bool:
    return evidence.policy.policy is Policy.MANUAL
