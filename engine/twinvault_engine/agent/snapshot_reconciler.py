"""This node's copy of one Snapshot at a time: observe, plan (core), apply, tell."""

from __future__ import annotations

from functools import partial
from typing import Any

from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.holder_plan import (
    HolderAction,
    HolderPlan,
    decide_holder_failure,
    holder_erased,
    holder_taken,
    plan_holder,
)
from twinvault_core.model import Holder, HolderState, Snapshot
from twinvault_core.sizing import format_bytes
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import SNAPSHOTS

from ..facts import SnapshotFacts
from ..steps import step
from .event_queue import EventQueue
from .locks import VolumeLocks, snapshot_key, volume_key
from .node_view import NodeView
from .replica_reconciler import LOOK_AGAIN_SECONDS
from .snapshot_attempt import QUIET_REASONS, SnapshotAttempts
from .status import describe_internal
from .storage import Storage, StorageThreads


class SnapshotReconciler:
    """The holder list is shared with the operator and other agents: each write of our entry is a
    compare-and-swap of the list.
    """

    def __init__(
        self,
        client: KubeClient,
        informer: Informer,
        events: EventQueue,
        storage: Storage,
        threads: StorageThreads,
        locks: VolumeLocks,
        view: NodeView,
        attempts: SnapshotAttempts,
    ) -> None:
        self._attempts = attempts
        self._client, self._informer, self._events = client, informer, events
        self._storage, self._threads, self._locks = storage, threads, locks
        self._view = view

    async def reconcile(self, name: str) -> float | None:
        """As ``ReplicaReconciler.reconcile``."""
        obj = self._informer.store.get(name)
        if obj is None or not self._view.looked:
            return None
        snapshot = Snapshot.parse(obj)
        if snapshot.holder(self._view.node_name) is None:
            return None
        keys = [snapshot_key(name), volume_key(snapshot.volume)]
        failure: Exception | None = None
        async with self._locks.hold(keys, f"the agent works on snapshot {name}"):
            plan, holder, failure = await self._work(obj, snapshot)
        if holder is not None:
            await self._tell(obj, holder)
        if failure is not None:
            raise failure
        return LOOK_AGAIN_SECONDS if plan.action is HolderAction.WAIT else None

    async def _work(
        self, obj: Json, snapshot: Snapshot
    ) -> tuple[HolderPlan, Holder | None, Exception | None]:
        holder = snapshot.holder(self._view.node_name)
        plan = HolderPlan(HolderAction.NONE, holder)
        try:
            copy = await self._observe(snapshot, holder)
            pool = self._view.pools.get(holder.pool) if holder else None
            plan = plan_holder(snapshot, self._view.node_name, copy, pool)
            return plan, await self._apply(obj, snapshot, plan), None
        except TwinvaultError as error:
            told = decide_holder_failure(plan, error)
            final = told is not None and told.state is HolderState.FAILED
            return plan, told, None if final else error
        except Exception as error:  # noqa: BLE001 - a bug must be seen in the status too
            failure = TwinvaultError(describe_internal(error))
            return plan, decide_holder_failure(plan, failure), error

    async def _observe(self, snapshot: Snapshot, holder: Holder | None) -> SnapshotFacts | None:
        """Only a copy that is called ready is checked; taking finds by itself what is there."""
        if holder is None or holder.state is not HolderState.READY or snapshot.meta.deleting:
            return None
        if not self._view.pool_is_ready(holder.pool):
            return None
        work = partial(self._storage.observe_snapshot, holder.pool, snapshot.meta.name)
        return await self._threads.run("observe_snapshot", work)

    async def _apply(self, obj: Json, snapshot: Snapshot, plan: HolderPlan) -> Holder | None:
        holder, name = plan.holder, snapshot.meta.name
        if holder is None:
            return None
        partner = self._attempts.find_partner(snapshot)
        if plan.action is HolderAction.TAKE and partner is not None:
            return await self._attempts.take(snapshot, holder, partner, partial(self._tell, obj))
        if plan.action is HolderAction.TAKE:
            take = partial(
                self._storage.ensure_snapshot,
                holder.pool,
                name,
                snapshot.volume,
                snapshot.volume_uid,
            )
            return holder_taken(holder, await self._threads.run("take_snapshot", take))
        if plan.action is HolderAction.ERASE:
            erase = partial(self._storage.erase_snapshot, holder.pool, name)
            await self._threads.run("erase_snapshot", erase)
            return holder_erased(holder)
        return holder

    async def _tell(self, obj: Json, holder: Holder) -> None:
        name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
        newest = self._informer.store.get(name, obj)
        while newest["metadata"]["uid"] == uid:
            before = Snapshot.parse(newest).holder(holder.node)
            # The operator may have given this copy up meanwhile: its word stands.
            if before is None or before == holder or before.state is HolderState.ERASED:
                return
            step("write the holder of the snapshot")
            try:
                answer = await self._client.patch_status(
                    SNAPSHOTS,
                    name,
                    {"holders": _replace_holder(newest, holder)},
                    resource_version=newest["metadata"]["resourceVersion"],
                    uid=uid,
                )
            except ConflictError:
                try:
                    newest = await self._client.get(SNAPSHOTS, name)
                except NotFoundError:
                    return
                continue
            except NotFoundError:
                return
            self._informer.saw(answer)
            self._note(newest, before, holder)
            return

    def _note(self, obj: Json, before: Holder, holder: Holder) -> None:
        where = f"pool {holder.pool} of node {holder.node}"
        if holder.state is HolderState.READY and before.state is not HolderState.READY:
            size = format_bytes(holder.size_bytes)
            self._events.tell(obj, "SnapshotTaken", f"{size} taken in {where}")
        elif holder.state is HolderState.ERASED:
            self._events.tell(obj, "SnapshotErased", f"erased in {where}")
        elif holder.reason and holder.reason not in {before.reason, *QUIET_REASONS}:
            self._events.tell(obj, holder.reason, holder.message, warning=True)


def _replace_holder(obj: Json, holder: Holder) -> list[dict[str, Any]]:
    entries = (obj.get("status") or {}).get("holders") or []
    return [holder.to_dict() if e["node"] == holder.node else dict(e) for e in entries]
