"""One VolumeReplica at a time: observe, plan (core), apply, tell."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from twinvault_core.errors import BusyError, NotFoundError, TwinvaultError
from twinvault_core.model import ReplicaState, VolumeReplica
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.replica_plan import (
    ReplicaAction,
    ReplicaPlan,
    decide_failure,
    plan_after_erasing,
    plan_replica,
)
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import VOLUME_REPLICAS

from ..facts import VolumeFacts
from ..steps import step
from .event_queue import EventQueue
from .locks import VolumeLocks, snapshot_key, volume_key
from .node_view import NodeView
from .objects import StatusWriter, remove_finalizer
from .status import build_replica_status, describe_internal
from .storage import Storage, StorageThreads
from .transitions import choose_replica_happenings

logger = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 30.0
"""For what waits for a person or for a pod to go; whatever is heard of earlier cuts it short."""
PROGRESS_SECONDS = 2.0
"""What takes longer than this says so in the status while it lasts."""


@dataclass(frozen=True)
class Outcome:
    """What the disk holds after the attempt and what is to be said about it."""

    plan: ReplicaPlan
    facts: VolumeFacts | None
    error: Exception | None = None


class ReplicaReconciler:
    """``reconcile`` may be called for any name at any time; one call per name at a time."""

    def __init__(
        self,
        client: KubeClient,
        informer: Informer,
        writer: StatusWriter,
        events: EventQueue,
        storage: Storage,
        threads: StorageThreads,
        locks: VolumeLocks,
        view: NodeView,
    ) -> None:
        self._client, self._informer, self._writer = client, informer, writer
        self._events, self._storage, self._threads = events, storage, threads
        self._locks, self._view = locks, view
        self._released: set[str] = set()

    def forget(self, uid: str) -> bool:
        """Whether the replica that is gone now went because we let it, its data erased."""
        if uid not in self._released:
            return False
        self._released.discard(uid)
        return True

    async def reconcile(self, name: str) -> float | None:
        """Seconds after which to look again, None for "when something changes".

        Raises what went wrong, after the status says so: the queue then repeats it.
        """
        obj = self._informer.store.get(name)
        if obj is None or not self._view.looked:
            return None
        replica = VolumeReplica.parse(obj)
        if replica.meta.deleting and FINALIZER_REPLICA not in replica.meta.finalizers:
            return None
        async with self._locks.hold(_keys(replica), f"the agent works on {name}"):
            outcome = await self._work(obj, replica)
        await self._tell(obj, replica, outcome)
        if outcome.error is not None:
            raise outcome.error
        if outcome.plan.action is ReplicaAction.RELEASE:
            await self._release(obj, replica)
            return None
        return LOOK_AGAIN_SECONDS if outcome.plan.action is ReplicaAction.WAIT else None

    async def _work(self, obj: Json, replica: VolumeReplica) -> Outcome:
        facts: VolumeFacts | None = None
        state = replica.state or ReplicaState.PENDING
        if replica.meta.deleting:
            state = ReplicaState.DELETING
        plan = ReplicaPlan(ReplicaAction.WAIT, state, "Observing", "")
        try:
            facts = await self._observe(replica)
            plan = self._plan(replica, facts)
            if plan.action in (ReplicaAction.CREATE, ReplicaAction.GROW):
                facts = await self._apply(obj, replica, plan, facts)
                plan = self._plan(replica, facts)
            elif plan.action is ReplicaAction.ERASE:
                await self._apply(obj, replica, plan, facts)
                facts, plan = None, plan_after_erasing()
            elif plan.action is ReplicaAction.RELEASE and replica.keep_data:
                await self._threads.run("check_down", partial(self._require_down, replica))
        except TwinvaultError as error:
            return Outcome(decide_failure(plan, error), facts, error)
        except Exception as error:  # noqa: BLE001 - a bug must be seen in the status too
            failure = TwinvaultError(describe_internal(error))
            return Outcome(decide_failure(plan, failure), facts, error)
        return Outcome(plan, facts)

    def _plan(self, replica: VolumeReplica, facts: VolumeFacts | None) -> ReplicaPlan:
        return plan_replica(
            replica,
            facts,
            self._view.pools.get(replica.pool),
            pool_is_possible=self._view.pool_is_possible(replica.pool),
        )

    async def _observe(self, replica: VolumeReplica) -> VolumeFacts | None:
        if not self._view.pool_is_ready(replica.pool):
            return None
        work = partial(self._storage.observe_volume, replica.pool, replica.volume)
        return await self._threads.run("observe_volume", work)

    async def _apply(
        self, obj: Json, replica: VolumeReplica, plan: ReplicaPlan, facts: VolumeFacts | None
    ) -> VolumeFacts | None:
        """Do it on a thread; what takes long is told meanwhile."""
        task = asyncio.ensure_future(
            self._threads.run(f"{plan.action.value.lower()}_volume", partial(self._act, replica))
        )
        done, _ = await asyncio.wait({task}, timeout=PROGRESS_SECONDS)
        if not done:
            try:
                await self._tell(obj, replica, Outcome(plan, facts))
            except TwinvaultError as error:
                logger.info("progress of %s not told: %s", replica.meta.name, error.message)
        return await task

    def _act(self, replica: VolumeReplica) -> VolumeFacts | None:
        if replica.meta.deleting:
            self._require_down(replica)
            self._storage.erase_volume(replica.pool, replica.volume, replica.volume_uid)
            return None
        return self._storage.ensure_volume(replica)

    def _require_down(self, replica: VolumeReplica) -> None:
        """Its data, or its object, goes when it is out of the kernel: a primary elsewhere may count
        on it, and only the record tells (see ``ReplicationReconciler``).
        """
        try:
            facts = self._storage.replication.observe_replica(replica.pool, replica.volume)
        except NotFoundError:
            return
        if facts.resource is not None:
            raise BusyError(
                f"the replica of {replica.volume} is taken out of its replication first; see"
                " status.replication"
            )

    async def _tell(self, obj: Json, replica: VolumeReplica, outcome: Outcome) -> None:
        if outcome.plan.action is ReplicaAction.RELEASE:
            return
        newest = self._informer.store.get(replica.meta.name, obj)
        if newest["metadata"]["uid"] != replica.meta.uid:
            return
        current = newest.get("status") or {}
        wanted = build_replica_status(
            replica, current, outcome.plan, outcome.facts, self._writer.clock()
        )
        step("write status of the replica")
        answer = await self._writer.try_write(newest, wanted)
        if answer is not None and answer is not newest:
            for what in choose_replica_happenings(
                VolumeReplica.parse(newest), outcome.plan, outcome.facts
            ):
                self._events.tell(newest, what.reason, what.message, warning=what.warning)

    async def _release(self, obj: Json, replica: VolumeReplica) -> None:
        """The data is gone: let the object go too."""
        if not replica.keep_data:
            self._released.add(replica.meta.uid)
        step("remove the finalizer of the replica")
        newest = self._informer.store.get(replica.meta.name, obj)
        left = await remove_finalizer(self._client, VOLUME_REPLICAS, newest, FINALIZER_REPLICA)
        if left is not None:
            self._informer.saw(left)
        if replica.keep_data:
            text = f"data of volume {replica.volume} that may be here is kept, as an orphan"
            self._events.tell(obj, "Kept", text)
        else:
            self._events.tell(obj, "Erased", f"no data of volume {replica.volume} is left here")


def _keys(replica: VolumeReplica) -> Iterable[str]:
    """The volume, and while it may be copied also what it is copied from."""
    yield volume_key(replica.volume)
    if replica.status_size_bytes == 0 and not replica.meta.deleting:
        if replica.source.volume:
            yield volume_key(replica.source.volume)
        if replica.source.snapshot:
            yield snapshot_key(replica.source.snapshot)
