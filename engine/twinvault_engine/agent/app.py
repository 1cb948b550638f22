"""One agent: its parts put together, and the order in which they start."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from importlib import metadata

from prometheus_client import generate_latest

from twinvault_core.errors import DeadlineError
from twinvault_core.ids import holder_label, node_lease_name
from twinvault_core.model import VolumeReplica
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.events import EventRecorder, EventSource
from twinvault_kube.http_status import Health, StatusServer
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import SNAPSHOTS, STORAGE_NODES, VOLUME_REPLICAS
from twinvault_kube.lease import LeaseKeeper, LeaseName

from ..drbd_events import DrbdEvents, OnChange
from .config import AgentConfig
from .drbd_feed import DrbdSource
from .event_queue import EventQueue
from .instance import only_agent
from .locks import VolumeLocks
from .metrics import NodeCollector, OperationMetrics, new_registry
from .node_reconciler import NodeReconciler
from .node_view import NodeMemory, NodeView
from .objects import StatusWriter, timestamp
from .orphans import OrphanKeeper
from .replica_reconciler import ReplicaReconciler
from .replication_service import ReplicationService
from .requests import BY_VOLUME, RequestHandler
from .snapshot_reconciler import SnapshotReconciler
from .socket_server import SocketServer
from .storage import Storage, StorageThreads
from .work_queue import Key, Subject, WorkQueue

logger = logging.getLogger(__name__)

SYNC_SECONDS = 10.0
"""How long the start waits for the API server before it goes on from what the disk remembers."""


def agent_version() -> str:
    """Version of the installed package; from a checkout there is none."""
    try:
        return metadata.version("twinvault")
    except metadata.PackageNotFoundError:
        return "development"


def needs_work(obj: Json | None) -> Hashable:
    """What of an object calls for a reconcile when it changes; statuses are our own words."""
    if obj is None:
        return None
    meta = obj["metadata"]
    return (
        meta["uid"],
        meta.get("generation"),
        bool(meta.get("deletionTimestamp")),
        tuple(meta.get("finalizers") or ()),
    )


class Agent:
    """``run`` works until it is cancelled."""

    def __init__(
        self,
        config: AgentConfig,
        client: KubeClient,
        storage: Storage,
        *,
        urgent_client: KubeClient | None = None,
        make_events: Callable[[OnChange], DrbdSource] = DrbdEvents,
    ) -> None:
        self._config, self._client, self._storage = config, client, storage
        self._urgent_client, self._make_events = urgent_client or client, make_events
        self._node_key = Key(Subject.NODE, config.node_name)
        self.view = NodeView(config.node_name)
        self.queue = WorkQueue(self._handle)
        self._seen: dict[Key, Hashable] = {}
        self._registry = new_registry()
        meter = self._meter = OperationMetrics(self._registry)
        self._threads = StorageThreads(config.engine_threads, meter, "engine")
        self._socket_threads = StorageThreads(config.socket_threads, meter, "socket")
        self._make_informers()
        self._make_reconcilers()
        self._make_servers()

    def _make_informers(self) -> None:
        node = self._config.node_name
        self.nodes = Informer(
            self._client,
            STORAGE_NODES,
            fields=f"metadata.name={node}",
            on_change=self._node_changed,
        )
        self.replicas = Informer(
            self._client,
            VOLUME_REPLICAS,
            fields=f"spec.nodeName={node}",
            on_change=self._replica_changed,
            index={BY_VOLUME: lambda obj: str(obj["spec"]["volume"])},
        )
        self.snapshots = Informer(
            self._client,
            SNAPSHOTS,
            labels=holder_label(node),
            on_change=self._snapshot_changed,
        )

    def _make_reconcilers(self) -> None:
        config, client, storage, threads = self._config, self._client, self._storage, self._threads
        locks = self.locks = VolumeLocks()
        source = EventSource("twinvault-agent", config.node_name)
        self._events = EventQueue(EventRecorder(client, source))
        self.replication = ReplicationService(
            config,
            client,
            self._urgent_client,
            storage,
            self.replicas,
            self._events,
            locks,
            self.view,
            threads,
            self._meter,
            self._registry,
            on_down=self._replica_down,
            make_events=self._make_events,
        )
        writer = StatusWriter(client, VOLUME_REPLICAS, self.replicas, timestamp)
        self._replica_reconciler = ReplicaReconciler(
            client, self.replicas, writer, self._events, storage, threads, locks, self.view
        )
        self._snapshot_reconciler = SnapshotReconciler(
            client,
            self.snapshots,
            self._events,
            storage,
            threads,
            locks,
            self.view,
            self.replication.make_attempts(self.snapshots, storage, threads),
        )
        self._node_reconciler = NodeReconciler(
            client,
            self.nodes,
            StatusWriter(client, STORAGE_NODES, self.nodes, timestamp),
            self._events,
            storage,
            threads,
            self.view,
            NodeMemory(config.data_dir),
            OrphanKeeper(client, self.replicas, self.snapshots, storage, threads, locks),
            agent_version=agent_version(),
            informers_synced=lambda: self.replicas.synced and self.snapshots.synced,
            on_pools=self._add_all,
            observe_replication=self.replication.observe_node,
        )

    def _make_servers(self) -> None:
        config = self._config
        self._lease = LeaseKeeper(
            self._urgent_client,
            LeaseName(config.namespace, node_lease_name(config.node_name)),
            # The node, not the pod: the next agent of this node goes on at once.
            config.node_name,
            duration_seconds=config.lease_duration_seconds,
            renew_seconds=config.lease_renew_seconds,
        )
        self._registry.register(
            NodeCollector(
                self.view,
                self.replicas,
                self.snapshots,
                queue_depth=lambda: self.queue.depth,
                lease_failures=lambda: self._lease.failures,
            )
        )
        handler = RequestHandler(
            self._storage,
            self._socket_threads,
            self.locks,
            self.view,
            self.replicas,
            self.replication,
            on_change=self._volume_touched,
        )
        self._socket = SocketServer(config.socket_path, handler.handle)
        self._status_server = StatusServer(
            config.metrics_address,
            config.metrics_port,
            metrics=lambda: generate_latest(self._registry),
            healthy=self.check_health,
            ready=self.check_ready,
        )

    @property
    def status_port(self) -> int:
        return self._status_server.port

    async def run(self) -> None:
        """Start in order, then work until cancelled.

        1. The node's lock: before it may act, this agent must be the only one.
        2. Recover: what an earlier life left frozen hangs applications, so it comes next.
        3. The kernel's questions: whoever is frozen for the loss of a peer waits for an answer.
        4. The socket: unmounting must work even when the API server is away.
        5. Pools, then replicas and snapshots; the queue's handlers wait for the pools.
        """
        await self._status_server.start()
        try:
            async with only_agent(self._config.data_dir):
                await self._work()
        finally:
            await self._status_server.close()

    async def _work(self) -> None:
        await self._recover()
        await self.replication.start()
        await self._socket.start()
        try:
            async with asyncio.TaskGroup() as group:
                for part in (
                    self.nodes.run(),
                    self.replicas.run(),
                    self.snapshots.run(),
                    self._lease.run(),
                    self._events.run(),
                    self.replication.run(),
                    self._start_queue(),
                    self._observe_now_and_then(),
                ):
                    group.create_task(part)
        finally:
            await self._socket.close()
            await self.replication.stop()
            await asyncio.to_thread(self._threads.close)
            await asyncio.to_thread(self._socket_threads.close)

    async def _recover(self) -> None:
        found = await self._threads.run("recover", self._storage.recover)
        for what, names in vars(found).items():
            if names:
                logger.warning("recovery: %s: %s", what, ", ".join(names))

    async def _start_queue(self) -> None:
        try:
            await self.nodes.wait_synced(SYNC_SECONDS)
        except DeadlineError as error:
            logger.warning("going on from what the disk remembers: %s", error.message)
        self.queue.add(self._node_key)
        await self.queue.run()

    async def _observe_now_and_then(self) -> None:
        """Usage changes without anybody telling: look, and write what is worth it."""
        while True:
            await asyncio.sleep(self._config.observe_seconds)
            self.queue.add(self._node_key)
            for obj in list(self.replicas.store.values()):
                # Only what is attached can change by itself.
                if (obj.get("status") or {}).get("inUse"):
                    self.queue.add(Key(Subject.REPLICA, obj["metadata"]["name"]))

    async def _handle(self, key: Key) -> float | None:
        match key.subject:
            case Subject.NODE:
                return await self._node_reconciler.reconcile(key.name)
            case Subject.REPLICA:
                try:
                    return await self._replica_reconciler.reconcile(key.name)
                finally:
                    self.replication.replica_touched(key.name)
            case Subject.SNAPSHOT:
                return await self._snapshot_reconciler.reconcile(key.name)
            case Subject.REPLICATION:
                raise AssertionError("replication has a queue of its own")

    def _add_all(self) -> None:
        for name in list(self.replicas.store):
            self.queue.add(Key(Subject.REPLICA, name))
        for name in list(self.snapshots.store):
            self.queue.add(Key(Subject.SNAPSHOT, name))

    def _changed(self, key: Key, sign: Hashable) -> bool:
        """Whether ``sign`` differs from the last one of ``key``."""
        before = self._seen.get(key)
        if sign is None:
            self._seen.pop(key, None)
            self.queue.forget(key)
        else:
            self._seen[key] = sign
        return before != sign

    def _node_changed(self, name: str, obj: Json | None) -> None:
        if self._changed(Key(Subject.NODE, name), needs_work(obj)):
            self.queue.add(self._node_key)

    def _replica_changed(self, name: str, obj: Json | None) -> None:
        key = Key(Subject.REPLICA, name)
        before = self._seen.get(key)
        if not self._changed(key, needs_work(obj)):
            return
        if obj is not None:
            self.queue.add(key)
            # Beside it: a volume that moved on must not wait for slow work on its image.
            self.replication.replica_touched(name)
            return
        self.replication.replica_gone(name, name.partition(".")[0])
        if isinstance(before, tuple) and not self._replica_reconciler.forget(before[0]):
            # Somebody else let it go: its data may still be here.
            self._node_reconciler.expect_orphans()
            self.queue.add(self._node_key)

    def _snapshot_changed(self, name: str, obj: Json | None) -> None:
        # The operator adds our entry to the status, so every change of it counts here.
        sign = None if obj is None else (needs_work(obj), str(obj.get("status")))
        key = Key(Subject.SNAPSHOT, name)
        if self._changed(key, sign) and obj is not None:
            self.queue.add(key)

    def _replica_down(self, name: str) -> None:
        """It is out of the kernel: what waited for that goes on now."""
        self.queue.add(Key(Subject.REPLICA, name))

    def _volume_touched(self, volume_id: str) -> None:
        self.replication.volume_touched(volume_id)
        for obj in self.replicas.find(BY_VOLUME, volume_id):
            self.queue.add(Key(Subject.REPLICA, VolumeReplica.parse(obj).meta.name))

    def check_health(self) -> Health:
        """The loop answers; a silent API server is told but is no reason to be restarted."""
        silent = self._lease.silent_seconds
        renewed = "never" if silent is None else f"{silent:.1f} s ago"
        return Health(True, f"alive; Lease renewed {renewed}")

    def check_ready(self) -> Health:
        unsynced = [
            informer.kind.plural
            for informer in (self.nodes, self.replicas, self.snapshots)
            if not informer.synced
        ]
        if unsynced:
            return Health(False, f"no list yet of {', '.join(unsynced)}")
        if not self.view.looked:
            return Health(False, "the pools are being looked at")
        return Health(True, "ready")
