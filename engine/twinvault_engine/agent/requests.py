"""What the agent does for each request of the CSI node service."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twinvault_core.agent_api import (
    Expand,
    NodeInfo,
    Publish,
    Request,
    Stage,
    Stats,
    Unpublish,
    Unstage,
)
from twinvault_core.errors import FailedPreconditionError, NotFoundError, UnavailableError
from twinvault_core.ids import parse_id
from twinvault_core.model import VolumeReplica
from twinvault_kube.informer import Informer

from .locks import VolumeLocks, volume_key
from .node_view import NodeView
from .promotion import Promoter
from .storage import Storage, StorageThreads

BY_VOLUME = "volume"
"""Name of the replica informer's index by volume id."""
LOCK_WAIT_SECONDS = 2.0
"""How long a request waits for the reconciler to finish with its volume."""
Answer = dict[str, Any]


class Replicated(Protocol):
    """What of replication the requests ask; see ``ReplicationService``."""

    @property
    def promoter(self) -> Promoter: ...
    def is_marked(self, volume_id: str) -> bool: ...
    def refuse_frozen(self, volume_id: str) -> None: ...


class RequestHandler:
    """Serves the socket from what is on disk: an API server that is away changes nothing for
    volumes that this node holds.
    """

    def __init__(
        self,
        storage: Storage,
        threads: StorageThreads,
        locks: VolumeLocks,
        view: NodeView,
        replicas: Informer,
        replication: Replicated,
        *,
        on_change: Callable[[str], None],
    ) -> None:
        self._replication = replication
        self._storage, self._threads, self._locks = storage, threads, locks
        self._view, self._replicas, self._on_change = view, replicas, on_change

    async def handle(self, request: Request) -> Answer:
        """The result of ``request``; TwinvaultError otherwise."""
        if isinstance(request, NodeInfo):
            return self._node_info()
        volume_id = parse_id(request.volume_id, "volume id")
        if isinstance(request, Stats):
            # Reads only: a slow one must not make a mount wait.
            return await self._run(request.operation, partial(self._storage.stats, request))
        work = self._choose_work(request)
        if isinstance(request, Stage | Unstage | Expand):
            self._replication.refuse_frozen(volume_id)
        doing = f"a {request.operation} call is in flight"
        keys = [volume_key(volume_id)]
        async with self._locks.hold(keys, doing, wait_seconds=LOCK_WAIT_SECONDS):
            try:
                if isinstance(request, Stage):
                    await self._allow_stage(request)
                if isinstance(request, Publish):
                    await self._stage_anew(volume_id)
                return await self._run(request.operation, work)
            finally:
                # After a failure too: it may have come as far as attaching.
                if isinstance(request, Stage | Unstage | Expand):
                    self._on_change(volume_id)

    def _choose_work(self, request: Request) -> Callable[[], Answer]:
        match request:
            case Stage():
                return self._choose_stage(request)
            case Unstage():
                return partial(self._storage.unstage, request)
            case Publish():
                return partial(self._storage.publish, request)
            case Unpublish():
                return partial(self._storage.unpublish, request)
            case Expand():
                return partial(self._storage.expand, request)
            case _:
                raise AssertionError(f"no work for {request.operation}")

    def _choose_stage(self, request: Stage) -> Callable[[], Answer]:
        if not self._view.looked:
            raise UnavailableError("the agent is starting: the pools are not mounted yet")
        replica = self._find_replica(request.volume_id)
        if replica is None:
            return partial(self._storage.stage, request)
        if replica.meta.deleting:
            raise FailedPreconditionError(
                f"volume {request.volume_id} is being deleted on node {replica.node}"
            )
        return partial(
            self._storage.stage, request, pool=replica.pool, volume_uid=replica.volume_uid
        )

    async def _allow_stage(self, request: Stage) -> None:
        """A replicated volume is staged only on the record's word; with its lock held."""
        replica = self._find_replica(request.volume_id)
        marked = self._replication.is_marked(request.volume_id)
        if replica is not None and (replica.replication is not None or marked):
            # Marked and not replicated any more: DRBD may still be below it until it is not used.
            await self._replication.promoter.allow(replica)
        elif marked:
            raise UnavailableError(
                f"volume {request.volume_id} is replicated here, and the API server has not told"
                " yet whether it still is and by whom; try again"
            )

    async def _stage_anew(self, volume_id: str) -> None:
        """What became replicated while it was staged gets DRBD below it now, when nobody has it:
        kubelet unmounts nothing between two pods that follow each other on a node.
        """
        found = self._replicas.find(BY_VOLUME, volume_id)
        if not found:
            return
        replica = VolumeReplica.parse(found[0])
        lift = partial(self._storage.lift, volume_id, replicated=replica.replication is not None)
        stage = await self._threads.run("lift", lift)
        if stage is None:
            return
        self._replication.refuse_frozen(volume_id)
        try:
            await self._allow_stage(stage)
            await self._run(stage.operation, self._choose_stage(stage))
        finally:
            self._on_change(volume_id)

    def _find_replica(self, volume_id: str) -> VolumeReplica | None:
        """None while the API server was never reached: then the disk alone decides."""
        found = self._replicas.find(BY_VOLUME, volume_id)
        if found:
            return VolumeReplica.parse(found[0])
        if self._replicas.synced:
            raise NotFoundError(
                f"no replica of volume {volume_id} belongs on node {self._view.node_name};"
                " see kubectl get volumereplicas"
            )
        return None

    def _node_info(self) -> Answer:
        spec = self._view.spec
        return {
            "node": self._view.node_name,
            "storageCluster": spec.storage_cluster if spec else "",
            "maxVolumes": self._storage.max_volumes(),
            # Also on a node that no StorageCluster has selected yet: kubelet registers a driver
            # once, and the node may be selected at any time later.
            "ready": self._view.looked,
        }

    async def _run(self, kind: str, work: Callable[[], Answer]) -> Answer:
        return await self._threads.run(kind, work)
