"""This node's StorageNode: pools found, made and mounted; devices, usage and orphans told."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twinvault_core.model import PoolSpec, PoolState, PoolStatus, StorageNode
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import STORAGE_NODES

from ..facts import DeviceFacts
from ..steps import step
from .event_queue import EventQueue
from .node_view import NodeMemory, NodeView
from .objects import StatusWriter
from .orphans import Orphan, OrphanKeeper
from .status import build_node_status, describe_internal
from .storage import Storage, StorageThreads
from .transitions import choose_pool_happenings

logger = logging.getLogger(__name__)

WAITING_POOL_SECONDS = 30.0
"""How often a pool that waits for a device is looked at again."""
ORPHAN_SECONDS = 300.0
"""How often the disks are searched for orphans when nothing hints at one."""
_SYS_BLOCK = Path("/sys/block")


class NodeReconciler:
    """Everything about this one node; ``reconcile`` is never called twice at a time."""

    def __init__(
        self,
        client: KubeClient,
        informer: Informer,
        writer: StatusWriter,
        events: EventQueue,
        storage: Storage,
        threads: StorageThreads,
        view: NodeView,
        memory: NodeMemory,
        orphans: OrphanKeeper,
        *,
        agent_version: str,
        informers_synced: Callable[[], bool],
        on_pools: Callable[[], None],
        observe_replication: Callable[[], Awaitable[Mapping[str, Any]]],
    ) -> None:
        self._client, self._informer, self._writer = client, informer, writer
        self._events, self._storage, self._threads = events, storage, threads
        self._view, self._memory, self._keeper = view, memory, orphans
        self._agent_version, self._informers_synced = agent_version, informers_synced
        self._on_pools, self._observe_replication = on_pools, observe_replication
        self._ensured: dict[str, PoolSpec] = {}
        self._devices: tuple[DeviceFacts, ...] = ()
        self._block_names: list[str] | None = None
        self._replication: dict[str, Any] = {}
        """Empty until it was looked at, which may load a kernel module."""
        self._orphans: list[Orphan] | None = None
        """None until the first search: what the status says of them stands till then."""
        self._orphans_at = float("-inf")

    def expect_orphans(self) -> None:
        """Search the disks for orphans at the next reconcile."""
        self._orphans_at = float("-inf")

    async def reconcile(self, name: str) -> float | None:
        """Seconds after which to look again, None for "at the next observation"."""
        obj = self._informer.store.get(name)
        node = await self._choose_spec(obj)
        if node is None:
            return None
        self._view.spec = node
        pools = await self._look_at_pools(node)
        if obj is None:
            return None
        # Usage may be old by a moment; the pools' state must be told before slower searches.
        await self._tell(obj, node, pools)
        await self._look_at_orphans(obj, node)
        self._replication = dict(await self._observe_replication())
        await self._tell(self._informer.store.get(name, obj), node, pools)
        waiting = any(pool.state is not PoolState.READY for pool in pools)
        return WAITING_POOL_SECONDS if waiting else None

    async def _choose_spec(self, obj: Json | None) -> StorageNode | None:
        if obj is not None:
            await self._threads.run("remember_node", partial(self._memory.keep, obj))
            return StorageNode.parse(obj)
        if self._informer.synced:
            # The API answered: this node belongs to no StorageCluster (any more).
            if not self._view.looked:
                self._have_looked()
            return None
        return self._view.spec or await self._threads.run("recall_node", self._memory.recall)

    async def _look_at_pools(self, node: StorageNode) -> list[PoolStatus]:
        """Pools as they are now, made or mounted where they are not."""
        step("look at the pools")
        before = {pool.name: pool.state for pool in self._view.pools.values()}
        found = await asyncio.gather(*(self._look_at_pool(node, spec) for spec in node.pools))
        self._view.pools.update({pool.name: pool for pool in found})
        changed = [pool for pool in found if before.get(pool.name) is not pool.state]
        if changed:
            self.expect_orphans()
        # Before the devices: one that does not answer must not keep volumes waiting.
        if changed or not self._view.looked:
            self._have_looked()
        await self._look_at_devices(changed=bool(changed))
        return list(found)

    def _have_looked(self) -> None:
        self._view.looked = True
        self._on_pools()

    async def _look_at_pool(self, node: StorageNode, spec: PoolSpec) -> PoolStatus:
        known = self._view.pools.get(spec.name)
        if known and known.state is PoolState.READY and self._ensured.get(spec.name) == spec:
            observe = partial(self._storage.observe_pool, spec.name)
            now = await self._threads.run("observe_pool", observe)
            if now is not None and now.state is PoolState.READY:
                return now
        try:
            ensure = partial(self._storage.ensure_pool, spec, node.storage_cluster)
            pool = await self._threads.run("ensure_pool", ensure)
        except Exception as error:
            logger.exception("pool %s", spec.name)
            text = getattr(error, "message", None) or describe_internal(error)
            return PoolStatus(spec.name, PoolState.FAILED, "Internal", text)
        self._ensured[spec.name] = spec
        return pool

    async def _look_at_devices(self, *, changed: bool) -> None:
        """Devices cost a process or two: only when the kernel's list or a pool changed."""
        names = sorted(path.name for path in _SYS_BLOCK.iterdir() if path.name[:4] != "loop")
        waits = any(pool.state is not PoolState.READY for pool in self._view.pools.values())
        if changed or waits or names != self._block_names:
            self._devices = await self._threads.run(
                "observe_devices", self._storage.observe_devices
            )
            self._block_names = names

    async def _look_at_orphans(self, obj: Json, node: StorageNode) -> None:
        now = asyncio.get_running_loop().time()
        due = now - self._orphans_at >= ORPHAN_SECONDS or node.erase_orphans
        if not due or not self._informers_synced():
            return
        self._orphans_at = now
        orphans = await self._keeper.find(self._view.ready_pools())
        listed = set(node.erase_orphans)
        kept: list[Orphan] = [orphan for orphan in orphans if orphan.id not in listed]
        for orphan in orphans:
            if orphan.id in listed:
                failed = await self._keeper.erase(orphan, node.meta.name)
                if failed is None:
                    text = f"erased {orphan.id} in pool {orphan.pool} as listed"
                    self._events.tell(obj, "OrphanErased", text)
                else:
                    kept.append(failed)
        self._orphans = sorted(kept, key=lambda orphan: (orphan.pool, orphan.id))
        await self._settle_orders(obj, node)

    async def _settle_orders(self, obj: Json, node: StorageNode) -> None:
        """Take off the list what is done: an order must not outlive its data.

        1. A person lists volume v; it is erased. 2. Months later another v is left over here.
        3. With v still listed it would be erased without anybody asking for it.
        """
        all_looked_at = all(self._view.pool_is_ready(pool.name) for pool in node.pools)
        remaining = {orphan.id for orphan in self._orphans or ()}
        left = [id_ for id_ in node.erase_orphans if id_ in remaining]
        if not all_looked_at or len(left) == len(node.erase_orphans):
            return
        answer = await self._client.patch(
            STORAGE_NODES,
            node.meta.name,
            {"spec": {"eraseOrphans": left}},
            resource_version=self._informer.store[node.meta.name]["metadata"]["resourceVersion"],
            uid=node.meta.uid,
        )
        self._informer.saw(answer)

    def _format_orphans(self, node: StorageNode) -> list[dict[str, Any]]:
        if self._orphans is None:
            return list(node.status.get("orphans") or ())
        return [orphan.to_dict(node.meta.name) for orphan in self._orphans]

    async def _tell(self, obj: Json, node: StorageNode, pools: list[PoolStatus]) -> None:
        node = StorageNode.parse(obj)
        wanted = build_node_status(
            node,
            agent_version=self._agent_version,
            kernel=platform.release(),
            max_volumes=self._storage.max_volumes(),
            devices=self._devices,
            pools=pools,
            orphans=self._format_orphans(node),
            replication=self._replication or node.status.get("replication") or {},
            now=self._writer.clock(),
        )
        step("write status of the node")
        answer = await self._writer.try_write(obj, wanted)
        if answer is not None and answer is not obj:
            for what in choose_pool_happenings(node.pool_status, pools):
                self._events.tell(obj, what.reason, what.message, warning=what.warning)
