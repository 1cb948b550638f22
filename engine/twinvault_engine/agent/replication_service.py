"""The agent's side of replication, put together: who wakes whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from twinvault_core.errors import TwinvaultError, UnavailableError
from twinvault_core.model import VolumeReplica
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer

from .. import durable
from ..drbd_config import resource_name, volume_of_resource
from ..drbd_events import DrbdEvents, OnChange
from ..drbd_kernel import MARKS, SOCKET
from ..layout import DataDirectory
from .abandoned import Abandoned
from .config import AgentConfig
from .drbd_feed import DrbdFeed, DrbdSource
from .event_queue import EventQueue
from .fence_desk import FenceDesk
from .fence_server import FenceServer
from .locks import VolumeLocks
from .node_replication import NodeReplication
from .node_view import NodeView
from .objects import timestamp
from .promotion import Promoter
from .record_store import RecordStore
from .replica_memory import ReplicaMemory
from .replication_look import Looker
from .replication_metrics import FenceMetrics, ReplicationCollector
from .replication_parts import ReplicationParts
from .replication_reconciler import ReplicationReconciler
from .replication_report import ReplicationReporter
from .replication_steps import StepRunner
from .requests import BY_VOLUME
from .rescuer import LONGEST_SECONDS, Rescuer
from .safety_clones import SafetyClones
from .snapshot_attempt import SnapshotAttempts
from .stall_watch import StallWatch
from .storage import OperationMeter, Storage, StorageThreads
from .work_queue import Key, Subject, WorkQueue

logger = logging.getLogger(__name__)

WORKERS = 8
HELPER_SECONDS = 30.0
"""How often the kernel's choice of helper is looked at: another user of DRBD may set its own."""


class ReplicationService:
    """Event loop only. ``on_down`` hears the name of a replica that may be erased now."""

    def __init__(
        self,
        config: AgentConfig,
        client: KubeClient,
        record_client: KubeClient,
        storage: Storage,
        replicas: Informer,
        events: EventQueue,
        locks: VolumeLocks,
        view: NodeView,
        heavy: StorageThreads,
        meter: OperationMeter,
        registry: CollectorRegistry,
        *,
        on_down: Callable[[str], None],
        make_events: Callable[[OnChange], DrbdSource] = DrbdEvents,
    ) -> None:
        self._storage, self._replicas = storage.replication, replicas
        self._data = DataDirectory(config.data_dir)
        self._threads = StorageThreads(config.replication_threads, meter, "replication")
        node, drbd, threads = config.node_name, storage.replication, self._threads
        records = RecordStore(record_client)
        memory = ReplicaMemory(config.data_dir / "records" / "replicas")
        self.feed = DrbdFeed(drbd, threads, self._drbd_changed, make_events=make_events)
        self.reporter = ReplicationReporter(client, replicas, events, timestamp)
        self._looker = Looker(node, drbd, memory, view)
        runner = StepRunner(storage, memory, self._looker, SafetyClones(storage))
        parts = ReplicationParts(
            replicas, records, self._looker, self.feed, self.reporter, locks, threads
        )
        self._desk = FenceDesk(
            node,
            records,
            self.feed,
            drbd,
            threads,
            FenceMetrics(registry),
            find_replica=self._find_replica,
            before_resync=runner.before_resync,
            on_diverged=self._diverged,
            on_unsure=self._wake_rescue,
        )
        self._reconciler = ReplicationReconciler(
            client,
            parts,
            runner,
            drbd,
            heavy,
            view,
            on_frozen=self._frozen,
            on_down=on_down,
        )
        rescuer = Rescuer(parts, self._desk, drbd, memory, on_done=self.replica_touched)
        self._promoter = Promoter(node, records, drbd, threads, on_not_up=self.volume_touched)
        self._abandoned = Abandoned(node, client, replicas, drbd, threads, view)
        self.node = NodeReplication(drbd, config.node_address)
        self._server = FenceServer(self._data.fence / SOCKET, self._desk.decide)
        self._stalls = StallWatch(self.feed, self.reporter.stalled)
        self._queue = WorkQueue(
            lambda key: self._reconciler.reconcile(key.name), workers=WORKERS, most_seconds=15.0
        )
        self._rescues = WorkQueue(
            lambda key: rescuer.rescue(key.name), workers=WORKERS, most_seconds=LONGEST_SECONDS
        )
        registry.register(ReplicationCollector(self.reporter.entries))

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Be there for the kernel's questions before anything else is done. An agent that cannot
        is still good for volumes without a replica.
        """
        try:
            await asyncio.to_thread(durable.make_directory, self._data.fence)
            await self._server.start()
        except (TwinvaultError, OSError) as error:
            self.node.problem = f"the agent cannot hear DRBD's questions: {error}"
            logger.error("%s", self.node.problem)
        if self._has_marks():
            self.feed.want()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in (
                self.feed.run(),
                self.reporter.run(),
                self._queue.run(),
                self._rescues.run(),
                self._keep_helper(),
                self._stalls.run(),
            ):
                group.create_task(part)

    async def stop(self) -> None:
        """DRBD stays as it is: writes go on; what freezes meanwhile waits for the next agent."""
        await self._server.stop()
        await asyncio.to_thread(self._threads.close)

    def _has_marks(self) -> bool:
        marks = self._data.fence / MARKS
        return marks.is_dir() and any(marks.iterdir())

    def _marked_volumes(self) -> list[str]:
        names = (volume_of_resource(mark.name) for mark in (self._data.fence / MARKS).iterdir())
        return sorted(name for name in names if name)

    async def _keep_helper(self) -> None:
        while True:
            if self.feed.wanted and self._has_marks():
                try:
                    await self._threads.run("ensure_helper", self._storage.ensure_helper)
                except TwinvaultError as error:
                    logger.error("DRBD may not reach the agent: %s", error.message)
                await self._abandoned.sweep(self._marked_volumes())
            await asyncio.sleep(HELPER_SECONDS)

    # -- who wakes whom --------------------------------------------------------------------------

    def concerns(self, obj: Json) -> bool:
        """Whether a VolumeReplica is, or may still be, replicated."""
        told = (obj.get("status") or {}).get("replication")
        return bool(obj["spec"].get("replication") or told or self.feed.wanted)

    def replica_touched(self, name: str) -> None:
        """The object, its image or its use may have changed."""
        obj = self._replicas.store.get(name)
        if obj is not None and self.concerns(obj):
            self._queue.add(Key(Subject.REPLICATION, name))
            if self.feed.is_frozen(str(obj["spec"]["volume"])):
                # Told by the kernel before the API server told of the replica, maybe.
                self._frozen(name)

    def volume_touched(self, volume_id: str) -> None:
        """It was staged or unstaged here, or somebody waits for it."""
        self._reconciler.unsettle(volume_id)
        for name in self._names(volume_id):
            self.replica_touched(name)

    def replica_gone(self, name: str, volume_id: str) -> None:
        """The object is deleted."""
        for queue in (self._queue, self._rescues):
            queue.forget(Key(Subject.REPLICATION, name))
        if not self._names(volume_id):
            self._reconciler.forget(volume_id)

    def _drbd_changed(self, volume_id: str) -> None:
        self._looker.verify.heard(volume_id, self.feed.state(volume_id))
        self.reporter.kernel_changed(volume_id, self.feed.state(volume_id))
        for name in self._names(volume_id):
            if self.feed.is_frozen(volume_id):
                self._frozen(name)
            self.replica_touched(name)

    def _frozen(self, name: str) -> None:
        self._rescues.add(Key(Subject.REPLICATION, name))

    def _wake_rescue(self, volume_id: str) -> None:
        for name in self._names(volume_id):
            self._frozen(name)

    def _diverged(self, volume_id: str) -> None:
        self._looker.diverged.add(volume_id)
        self.volume_touched(volume_id)

    def _names(self, volume_id: str) -> list[str]:
        return [obj["metadata"]["name"] for obj in self._replicas.find(BY_VOLUME, volume_id)]

    def _find_replica(self, volume_id: str) -> VolumeReplica | None:
        found = self._replicas.find(BY_VOLUME, volume_id)
        return VolumeReplica.parse(found[0]) if found else None

    def make_attempts(
        self, snapshots: Informer, storage: Storage, threads: StorageThreads
    ) -> SnapshotAttempts:
        """For the snapshots of replicated volumes."""
        return SnapshotAttempts(snapshots, storage, threads, self.feed, self._find_replica)

    # -- for the socket --------------------------------------------------------------------------

    @property
    def promoter(self) -> Promoter:
        """Who may tell the kernel to be primary."""
        return self._promoter

    def is_marked(self, volume_id: str) -> bool:
        """Whether the kernel may have it, by what lies on this node's disk."""
        return (self._data.fence / MARKS / resource_name(volume_id)).exists()

    def refuse_frozen(self, volume_id: str) -> None:
        """UnavailableError while its I/O is frozen: whatever touched it would hang, and would hold
        the volume's lock and a thread meanwhile.
        """
        if self.feed.is_frozen(volume_id):
            seconds = self.feed.frozen_seconds(volume_id)
            raise UnavailableError(
                f"I/O of volume {volume_id} is frozen since {seconds:.1f} s: the other replica is"
                " lost and the record does not allow yet to go on; try again"
            )

    async def observe_node(self) -> dict[str, Any]:
        """For the StorageNode's status."""
        return await self._threads.run("observe_node_replication", partial(self.node.observe))
