"""NodeStage of a replicated volume: the record is won first, then the kernel is told (R2, R3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from twinvault_core.errors import FailedPreconditionError, NotFoundError, TwinvaultError
from twinvault_core.fence import Promotion, decide_promotion
from twinvault_core.model import VolumeReplica
from twinvault_core.replication_state import DrbdState

from .record_store import RecordStore
from .replication_storage import ReplicationStorage
from .storage import StorageThreads

READ_SECONDS = 2.0
WRITE_SECONDS = 3.0
DECIDE_SECONDS = 15.0
"""For reading and writing the record, again and again while others write it."""


class Promoter:
    """``allow`` is to be called with the volume's lock held, right before the engine's stage.

    1. ``allow`` wins the write that names this node.  2. The engine runs ``drbdsetup primary``.
    3. If the operator moves the record in between: both nodes' kernels are asked to promote. While
       they are connected the second is refused. While they are not, the kernel here asks the fence
       desk, which reads the moved record and answers 6.
    """

    def __init__(
        self,
        node: str,
        records: RecordStore,
        storage: ReplicationStorage,
        threads: StorageThreads,
        *,
        on_not_up: Callable[[str], None],
    ) -> None:
        self._node, self._records = node, records
        self._storage, self._threads = storage, threads
        self._on_not_up = on_not_up

    async def allow(self, replica: VolumeReplica) -> None:
        """Return when the kernel may be told; TwinvaultError with the reason and what to do."""
        deadline = asyncio.get_running_loop().time() + DECIDE_SECONDS
        while True:
            promotion = await self._decide(replica)
            if promotion.allowed:
                return
            if not promotion.read_again or asyncio.get_running_loop().time() >= deadline:
                break
        if promotion.reason == "NotUp":
            self._on_not_up(replica.volume)
        raise TwinvaultError(f"volume {replica.volume}: {promotion.message}", promotion.code)

    async def _decide(self, replica: VolumeReplica) -> Promotion:
        reading = await self._records.read(
            replica.volume, replica.volume_uid, timeout_seconds=READ_SECONDS
        )
        record = reading.record if reading else None
        if reading is not None and record is None:
            raise FailedPreconditionError(
                f"volume {replica.volume} has no replication record yet; the operator writes it"
                " (kubectl describe volume)"
            )
        drbd = await self._observe(replica)
        wanted = decide_promotion(self._node, record, drbd)
        if wanted.write is None or reading is None:
            return wanted
        outcome = await self._records.swap(reading, wanted.write, timeout_seconds=WRITE_SECONDS)
        return decide_promotion(self._node, record, drbd, outcome)

    async def _observe(self, replica: VolumeReplica) -> DrbdState | None:
        work = partial(self._storage.observe_replica, replica.pool, replica.volume)
        try:
            facts = await self._threads.run("observe_replica", work)
        except NotFoundError:
            return None
        return facts.resource.state if facts.resource else None
