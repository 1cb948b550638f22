"""NodeStage of a replicated volume: the record is won first, then the kernel is told (R2, R3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from twinvault_core.errors import FailedPreconditionError, NotFoundError, TwinvaultError
from twinvault_core.fence import Promotion, decide_promotion
from twinvault_core.model import VolumeReplica
from twinvault_core.replication_state import DrbdState

from ..replication import Act
from .record_store import Reading, RecordStore
from .replication_storage import ReplicationStorage
from .storage import StorageThreads

logger = logging.getLogger(__name__)

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
                if promotion.outdated:
                    await self._accept_outdated(replica)
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
        forced = _is_forced(self._node, reading)
        wanted = decide_promotion(self._node, record, drbd, forced=forced)
        if wanted.write is None or reading is None:
            return wanted
        outcome = await self._records.swap(reading, wanted.write, timeout_seconds=WRITE_SECONDS)
        return decide_promotion(self._node, record, drbd, outcome, forced=forced)

    async def _accept_outdated(self, replica: VolumeReplica) -> None:
        logger.warning("volume %s: the outdated replica here counts by force", replica.volume)
        work = partial(self._storage.act, replica.pool, replica.volume, Act.ACCEPT_OUTDATED)
        await self._threads.run("accept_outdated", work)

    async def _observe(self, replica: VolumeReplica) -> DrbdState | None:
        work = partial(self._storage.observe_replica, replica.pool, replica.volume)
        try:
            facts = await self._threads.run("observe_replica", work)
        except NotFoundError:
            return None
        return facts.resource.state if facts.resource else None


def _is_forced(node: str, reading: Reading | None) -> bool:
    """Whether the record's epoch began with a person's word for this very node."""
    if reading is None or reading.record is None:
        return False
    return reading.forced_to == node and reading.forced_epoch == reading.record.epoch
