"""The operator's process: watches, stores, queue and lead put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable

import kopf

from twinvault_core.actions import NODE, STORAGE_NODE, VOLUME_REPLICA
from twinvault_core.errors import TwinvaultError
from twinvault_core.model import Snapshot, Volume, VolumeReplica
from twinvault_core.placement import candidate_available_bytes
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.events import EventRecorder, EventSource
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import LEASES
from twinvault_kube.lease import LeaseKeeper, LeaseName
from twinvault_kube.logs import configure_logging

from .announcer import Announcer
from .applier import Applier
from .config import LEADER_LEASE, Config
from .drill_metrics import fill_drills
from .drills import Drills
from .failover import Failover
from .failover_report import FailoverReport
from .failover_steps import FailoverSteps
from .feeds import Feed
from .leadership import Leadership
from .liveness import AgentState, Liveness
from .metrics import Metrics
from .probes import ProbeServer
from .reconciler import Reconciler, rfc3339_now
from .replication_metrics import ReplicationMetrics
from .sweep import Sweeper
from .triggers import Triggers
from .watches import make_registry, make_settings, quiet_logs
from .work_queue import WorkQueue
from .world import World

logger = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
QUIET_SECONDS = 1.0
EVENTS_WAIT_SECONDS = 15.0
"""An Event waits for a quiet second, so that a burst of volumes is not slowed, but not for ever."""
EVENT_PAUSE_SECONDS = 0.02
PAIRS_SECONDS = 15.0
"""How often pairs are looked at although nothing happened: a schedule is due, a hold is old."""
FED = (VOLUME_REPLICA, STORAGE_NODE, NODE)
"""Kinds without a handler of their own: see feeds.py. All others are kopf's."""


class Operator:
    """All parts of one operator process; ``run`` lives until ``stop`` or a fatal error."""

    def __init__(
        self, client: KubeClient, config: Config, *, urgent_client: KubeClient | None = None
    ) -> None:
        self._config, self._urgent_client = config, urgent_client or client
        self.metrics = Metrics()
        self.liveness = Liveness()
        self.world = World(self.liveness)
        self.queue = WorkQueue()
        self.triggers = Triggers(self.world, self.queue)
        stores = self.world.stores
        self._feeds = [Feed(client, stores[kind]) for kind in FED]
        self._feeds.append(Feed(client, self.world.attachments))
        self._handled = {kind: store for kind, store in stores.items() if kind not in FED}
        self._sweeper = Sweeper(client, self._handled, config.sweep_seconds)
        self._leases = Informer(
            client, LEASES, namespace=config.namespace, on_change=self._observe_lease
        )
        self._keeper = LeaseKeeper(
            self._urgent_client,
            LeaseName(config.namespace, LEADER_LEASE),
            config.identity,
            duration_seconds=config.lease_duration_seconds,
            renew_seconds=config.lease_renew_seconds,
        )
        self.leadership = Leadership(
            self._keeper,
            self.world,
            self.queue,
            self.triggers,
            self.liveness,
            lambda: self._current,
        )
        recorder = EventRecorder(client, EventSource("twinvault-operator", config.identity))
        self._announcer = Announcer(recorder, self.metrics, pause=self._quiet_moment)
        applier = Applier(
            client,
            self.world,
            self._announcer,
            self.metrics,
            self.leadership.leading,
            config.namespace,
        )
        self.reconciler = Reconciler(self.world, self.queue, self.triggers, applier, self.metrics)
        self._drills = Drills(client, self.world, applier, self.metrics)
        self._failover = self._make_failover()
        self._probes = ProbeServer(
            self.metrics.registry,
            healthy=self._find_hang,
            ready=lambda: "" if self._filled else "the first lists are not complete",
            before_scrape=self._fill_gauges,
        )
        self._filled = self._current = False
        self._beat = time.monotonic()
        self._stopping = asyncio.Event()

    def _make_failover(self) -> Failover:
        world, metrics = self.world, self.metrics
        leading = self.leadership.leading
        steps = FailoverSteps(
            self._urgent_client, world, self._announcer, metrics, self._config.namespace, leading
        )
        clock = self.liveness.monotonic
        report = FailoverReport(world, self.queue, metrics, clock, rfc3339_now)
        failover = Failover(
            self._urgent_client, world, steps, report, leading, self._config.namespace
        )
        self._replication = ReplicationMetrics(world, metrics, clock)

        def replica_changed(before: VolumeReplica | None, after: VolumeReplica | None) -> None:
            self._replication.replica_changed(before, after)
            failover.replica_changed(before, after)
            self._drills.replica_changed(before, after)

        def volume_changed(before: Volume | None, after: Volume | None) -> None:
            failover.volume_changed(before, after)
            self._drills.volume_changed(before, after)

        def pair_changed() -> None:
            failover.pair_changed()
            self._drills.pairs_changed()

        self.triggers.on_replica = replica_changed
        self.triggers.on_volume = volume_changed
        self.triggers.on_pair = pair_changed
        world.attachments.on_change = failover.attachment_changed
        self.leadership.on_start = failover.take_over
        return failover

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Until ``stop``; raises what ended kopf or one of our own tasks."""
        await self._probes.start(self._config.metrics_port)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._work_forever())]
                await self._stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            await self._probes.stop()
            await self._keeper.release()

    async def _work_forever(self) -> None:
        """1. Lists, so that missing CRDs and roles are told. 2. The Lease. 3. As its holder:
        watches, and when the stores are current, the lead, and with it writes.
        """
        await self._sweeper.fill()
        self._filled = True
        logger.info("the first lists are complete: %d volumes", len(self.world.volumes))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keeper.run())
            group.create_task(self._leases.run())
            group.create_task(self.leadership.run())
            group.create_task(self._announcer.run())
            group.create_task(self._keep_beating())
            for _ in range(self._config.workers):
                group.create_task(self.queue.work(self.reconciler.handle))
            await self._keeper.wait_held()
            await self._start_watching(group)

    async def _start_watching(self, group: asyncio.TaskGroup) -> None:
        """Only who takes the Lease watches more than Leases: a standby costs next to nothing.

        1. Every watch starts; kopf's list anew whatever ours miss.
        2. What changed, and what vanished, while we stood by comes in with a list of every kind.
        3. Only then there is a lead. When it is lost the watches stay, and the next one is quick.
        """
        for feed in self._feeds:
            group.create_task(feed.run())
        group.create_task(self._watch())
        await self._sweeper.fill()
        for feed in self._feeds:
            await feed.wait_synced()
        self._current = True
        group.create_task(self._failover.run())
        group.create_task(self._drills.run())
        group.create_task(self._look_at_pairs())
        group.create_task(self._sweeper.run())

    async def _look_at_pairs(self) -> None:
        while True:
            await asyncio.sleep(PAIRS_SECONDS)
            if self.leadership.leading():
                self.triggers.add_pairs()

    async def _watch(self) -> None:
        """kopf, until cancelled; its own end (a watch that is refused) ends the process."""
        registry = make_registry(self._handled, self._sweeper.ask)
        before = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry, settings=make_settings(), clusterwide=True, standalone=True
        )
        _handle_signals(self.stop)
        await kopf.run_tasks(tasks, ignored=before)
        raise TwinvaultError("kopf stopped watching; see its last log lines above")

    async def _quiet_moment(self) -> None:
        if not self._announcer.waiting:
            await asyncio.sleep(0.25)
            return
        await self.queue.wait_quiet(QUIET_SECONDS, EVENTS_WAIT_SECONDS)
        await asyncio.sleep(EVENT_PAUSE_SECONDS)

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(1.0)

    def _find_hang(self) -> str:
        silent = time.monotonic() - self._beat
        if self._filled and silent > STUCK_SECONDS:
            return f"the event loop's heartbeat is {silent:.0f} s old"
        return ""

    def _observe_lease(self, name: str, lease: Json | None) -> None:
        if name == LEADER_LEASE and lease is not None:
            self._keeper.hear(lease)
        if not self.world.numbers.observe(name, lease):
            self.liveness.observe(name, lease)
            self._failover.lease_heard(name)

    def _fill_gauges(self) -> None:
        metrics, world = self.metrics, self.world
        metrics.queue_depth.set(self.queue.depth)
        metrics.leader.set(1 if self.leadership.leading() else 0)
        if not self._current:
            return
        _count(metrics, world.volumes.values(), world.snapshots.values())
        self._replication.fill()
        fill_drills(self.world, metrics)
        for node in world.node_names():
            alive = self.liveness.state(node) is AgentState.ALIVE
            metrics.agents.labels(node).set(1 if alive else 0)
        for candidate in world.candidates():
            for pool in candidate.node.pools:
                labels = (candidate.node.storage_cluster, candidate.name, pool.name)
                available = candidate_available_bytes(candidate, pool.name)
                metrics.pool_available.labels(*labels).set(available)
                promised = candidate.pool_use(pool.name).promised_bytes
                metrics.pool_promised.labels(*labels).set(promised)


def _count(metrics: Metrics, volumes: list[Volume], snapshots: list[Snapshot]) -> None:
    metrics.volumes.clear()
    for volume in volumes:
        metrics.volumes.labels(volume.phase.value if volume.phase else "Pending").inc()
    metrics.snapshots.clear()
    for snapshot in snapshots:
        metrics.snapshots.labels(str(snapshot.ready_to_use).lower()).inc()


def _handle_signals(stop: Callable[[], None]) -> None:
    """After kopf took them: SIGTERM ends our work first, then kopf's."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


async def _run(config: Config) -> None:
    client = KubeClient.from_environment(user_agent="twinvault-operator")
    # The lead, and all of a failover, by whichever API server answers.
    urgent = KubeClient.urgent(user_agent="twinvault-operator-urgent")
    operator = Operator(client, config, urgent_client=urgent)
    _handle_signals(operator.stop)
    try:
        await operator.run()
    finally:
        await client.close()
        await urgent.close()


def main() -> None:
    """Entry point; exit code 1 and one line that says why when it cannot go on."""
    configure_logging()
    quiet_logs()
    try:
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(_run(Config.from_environment()))
    except* TwinvaultError as group:
        for error in group.exceptions:
            logger.error("the operator ends: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
