"""Watches for lost nodes and answers: one task a node, awake when something happened.

What is decided stands in core (failover.py there). Here is when it is asked, and with which facts:
1. A Lease that was not renewed for its duration is read by GET; only that read proves the silence.
2. Reports of agents, records, pairs and Leases that come back wake the node's task at once.
3. After every round of steps the plan is made anew from what is there then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.failover import find_fenced, plan_node_failover
from twinvault_core.failover_view import (
    DeletePod,
    DeleteVolumeAttachment,
    FailoverStep,
    FailoverWork,
    NodeView,
    Swap,
    Untaint,
    Wait,
    choose_retry,
)
from twinvault_core.failover_words import describe_subject
from twinvault_core.ids import node_lease_name
from twinvault_core.model import Volume, VolumeReplica
from twinvault_core.replicated_status import is_replicated
from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import LEASES

from .attachments import Attached
from .evidence import NOBODY, Users, find_replicated_nodes, observe_failover
from .failover_report import FailoverReport
from .failover_steps import FailoverSteps, Outcome, Result
from .world import World

logger = logging.getLogger(__name__)

READ_SECONDS = 2.0
READ_AGAIN_SECONDS = 0.2
FRESH_SECONDS = 1.0
"""A proof of silence is repeated before more is done on it than this old."""
STALE_SECONDS = 0.02
LOOK_AGAIN_SECONDS = 15.0
"""A node that is lost, or has a mark or taint of ours, is looked at so often although nothing was
heard: an earlier leader may have left it.
"""
IDLE_SECONDS = 30.0


class Failover:
    """``run`` until cancelled; does nothing while ``leading`` says no."""

    def __init__(
        self,
        client: KubeClient,
        world: World,
        steps: FailoverSteps,
        report: FailoverReport,
        leading: Callable[[], bool],
        namespace: str,
    ) -> None:
        self._client, self._world, self._steps = client, world, steps
        self._report, self._leading, self._namespace = report, leading, namespace
        self._due: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._expired: set[str] = set()
        self._led = False
        self._wake = asyncio.Event()

    # -- what happened -----------------------------------------------------------------------------

    def look_at(self, nodes: Iterable[str]) -> None:
        """Something about these nodes changed."""
        now = self._world.liveness.monotonic()
        for node in nodes:
            self._due[node] = now
            self._again.add(node)
        self._wake.set()

    def lease_heard(self, lease_name: str) -> None:
        """A Lease was renewed: only news when its node counted as lost."""
        found = [node for node in self._expired if node_lease_name(node) == lease_name]
        if found:
            self._expired.difference_update(found)
            self.look_at(found)

    def volume_changed(self, before: Volume | None, after: Volume | None) -> None:
        known = after or before
        if known is None or not (known.replication_pair or is_replicated(known)):
            return
        self._report.observe(known.meta.name)
        if before is None or after is None or before.record != after.record:
            nodes = {r.node for r in self._world.replicas.find("volume", known.meta.name)}
            self.look_at(nodes)

    def replica_changed(self, before: VolumeReplica | None, after: VolumeReplica | None) -> None:
        known = after or before
        if known is None or known.replication is None:
            return
        self._report.observe(known.volume)
        old = (before.replication_status, before.in_use) if before is not None else None
        new = (after.replication_status, after.in_use) if after is not None else None
        if old != new:
            self.look_at({known.node, known.replication.peer_node})

    def attachment_changed(self, _: str, before: Attached | None, after: Attached | None) -> None:
        if after is not None and after.done and not (before is not None and before.done):
            self._report.attached(after.node)

    def pair_changed(self) -> None:
        self._report.pairs_changed()
        self.look_at(find_replicated_nodes(self._world))

    # -- the loop ----------------------------------------------------------------------------------

    def take_over(self) -> None:
        """The lead begins; to be called before anything is written in it."""
        self._led = True
        self._report.take_over()
        self.look_at(self._expired)

    async def run(self) -> None:
        """Asleep until the next Lease may run out, or something happened."""
        try:
            while True:
                self._wake.clear()
                leading = self._leading()
                if leading and not self._led:
                    self.take_over()
                self._led = leading
                if leading:
                    self._report.settle_approvals()
                delay = self._start_what_is_due() if leading else 1.0
                try:
                    async with asyncio.timeout(delay):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _start_what_is_due(self) -> float:
        """Starts a task for each node that is due; the seconds until the next one is."""
        world, now = self._world, self._world.liveness.monotonic()
        marked = self._find_marked()
        for node in marked:
            self._due.setdefault(node, now + LOOK_AGAIN_SECONDS)
        nodes = find_replicated_nodes(world) | marked
        world.liveness.gap_seconds = min((world.lease_seconds(n) for n in nodes), default=5.0)
        soonest = now + IDLE_SECONDS
        for node in nodes:
            due = self._find_due(node)
            if due <= now and node not in self._tasks:
                self._again.discard(node)
                self._due.pop(node, None)
                self._tasks[node] = asyncio.create_task(self._drive(node))
                self._tasks[node].add_done_callback(partial(self._finished, node))
            elif due > now:
                soonest = min(soonest, due)
        return max(0.001, soonest - now)

    def _find_due(self, node: str) -> float:
        planned = self._due.get(node)
        read = None
        if node not in self._expired:
            read = self._world.liveness.next_read(node, self._world.lease_seconds(node))
        known = [at for at in (planned, read) if at is not None]
        return min(known, default=float("inf"))

    def _find_marked(self) -> set[str]:
        """Nodes that a failover left a mark on, maybe of an operator before us."""
        world = self._world
        tainted = {n.name for n in world.nodes.values() if n.taints or n.resyncing}
        names = tainted | set(world.storage_nodes.names())
        return {n for n in names if n in tainted or world.observe_node(n).marked}

    def _finished(self, node: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(node, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("failover of %s: a bug in the operator", node, exc_info=task.exception())
            self._plan_look(node, LOOK_AGAIN_SECONDS)
        if node in self._again:
            self._due[node] = self._world.liveness.monotonic()
        self._wake.set()

    def _plan_look(self, node: str, after_seconds: float) -> None:
        at = self._world.liveness.monotonic() + after_seconds
        self._due[node] = min(self._due.get(node, at), at)

    # -- one node ----------------------------------------------------------------------------------

    async def _drive(self, node: str) -> None:
        """Rounds of reading, planning and doing until nothing is left but waiting."""
        attempt, before, users = 0, frozenset[str](), NOBODY
        while self._leading():
            if not await self._read_lease(node):
                self._plan_look(node, READ_AGAIN_SECONDS)
                return
            view = observe_failover(self._world, node, users, attempt)
            steps = plan_node_failover(view)
            steps = steps if _is_cut_off(view) else tuple(s for s in steps if _is_mild(s))
            waits = [s for s in steps if isinstance(s, Wait)]
            work = [s for s in steps if not isinstance(s, Wait)]
            self._report.waits(view, waits)
            if not any(isinstance(s, Swap) for s in work):
                self._report.settle_approvals()
            needs_users = _needs_users(view)
            if not work and (not needs_users or users is not NOBODY):
                self._rest(view, waits)
                return
            results, listed = await self._do(view, work, needs_users)
            self._tell_failing(view, work, results, before)
            outcomes = {result.outcome for result in results}
            users = listed or users
            same = frozenset(describe_subject(s) for s in work)
            stuck = bool(work) and (Outcome.FAILED in outcomes or same == before)
            attempt, before = (attempt + 1 if stuck else 0), same
            if stuck or (needs_users and listed is None):
                await asyncio.sleep(choose_retry(attempt).after_seconds)
            elif Outcome.STALE in outcomes:
                await asyncio.sleep(STALE_SECONDS)

    async def _do(
        self, view: NodeView, work: list[FailoverWork], needs_users: bool
    ) -> tuple[list[Result], Users | None]:
        """All steps side by side, and who uses the volumes of the lost node: meanwhile, when
        nothing of that is being removed, else afterwards.
        """
        removes = any(isinstance(s, DeletePod | DeleteVolumeAttachment) for s in work)
        early = needs_users and not removes
        listing = asyncio.create_task(self._steps.list_users(view.node)) if early else None
        if removes:
            self._report.acting(view.node)
        results = await asyncio.gather(*(self._steps.do(step) for step in work))
        ended = zip(work, results, strict=True)
        won = [s for s, r in ended if isinstance(s, Swap) and r.outcome is Outcome.DONE]
        if won:
            self._report.swapped(view, won)
        users = None
        if needs_users:
            users = await (listing or self._steps.list_users(view.node))
        if users is not None:
            self._world.attachments.handles = users.handles
        return results, users

    def _tell_failing(
        self,
        view: NodeView,
        work: list[FailoverWork],
        results: list[Result],
        before: frozenset[str],
    ) -> None:
        """What failed so often that a person should look: also what was done, and is to be done
        again as in the round ``before``.
        """
        failing = [
            (step, result.problem)
            for step, result in zip(work, results, strict=True)
            if step.retry.stuck and (result.problem or describe_subject(step) in before)
        ]
        for event in self._report.failing(view, failing):
            self._steps.tell(event)

    def _rest(self, view: NodeView, waits: list[Wait]) -> None:
        me = view.nodes[view.node]
        self._report.failing(view, [])
        self._report.evicted(view.node)
        if me.expired:
            self._plan_look(view.node, LOOK_AGAIN_SECONDS)
        for wait in waits:
            self._plan_look(view.node, max(READ_AGAIN_SECONDS, wait.after_seconds))

    async def _read_lease(self, node: str) -> bool:
        """Prove the node's silence anew when the proof is old; False when that was not possible.

        1. The node was lost; our watch stands still and does not tell of its return.
        2. Acting on the old proof would end pods of a node that is well.
        """
        liveness, seconds = self._world.liveness, self._world.lease_seconds(node)
        due = liveness.next_read(node, seconds)
        now = liveness.monotonic()
        if due is None or due > now or liveness.read_age(node) < FRESH_SECONDS:
            return True
        name = node_lease_name(node)
        try:
            async with asyncio.timeout(READ_SECONDS):
                lease = await self._client.get(LEASES, name, self._namespace)
        except NotFoundError:
            liveness.observe(name, None)
            return True
        except (TwinvaultError, TimeoutError) as error:
            logger.warning("Lease %s cannot be read: %s", name, error)
            return False
        liveness.observe(name, lease, read_began=now)
        if liveness.is_expired(node, seconds):
            if node not in self._expired:
                logger.warning("node %s: silent for %.1f s", node, liveness.silent_seconds(node))
            self._expired.add(node)
        else:
            self._expired.discard(node)
        return True


def _needs_users(view: NodeView) -> bool:
    """Whether pods or attachments may have to go: something of the node's is served elsewhere."""
    fenced, me = find_fenced(view), view.nodes[view.node]
    if me.expired:
        losing = any(e.record is not None and e.record.primary == view.node for e in view.volumes)
        return bool(fenced or losing) and _is_cut_off(view)
    used = (e.replica(view.node) for e in view.volumes if e.name in fenced)
    return any(r is not None and r.in_use for r in used)


def _is_cut_off(view: NodeView) -> bool:
    """Whether another agent reports that its link to the node is down.

    Without that only the agent is silent, for its own update maybe: the node works, and nothing is
    driven away from it.
    """
    if not view.nodes[view.node].expired:
        return True
    others = (e.other(view.node) for e in view.volumes)
    reports = [r.replication_status for r in others if r is not None]
    return any(report is not None and report.link_down for report in reports)


def _is_mild(step: FailoverStep) -> bool:
    """Steps that may be done although the node may work."""
    return isinstance(step, Wait | Swap | Untaint)
