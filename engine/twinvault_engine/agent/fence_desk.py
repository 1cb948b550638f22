"""Answers to the kernel's questions, made from the record and nothing else.

The desk takes no lock of a volume. Why:
1. NodeStage holds the volume's lock and runs ``drbdsetup primary``.
2. The peer is not connected, so the kernel asks, and the command waits for the answer.
3. Were the desk to wait for the lock, both would wait until the helper gives up.
The same with an unmount that hangs on frozen I/O, which only the answer sets free.

It needs none, for every outcome is decided by a compare-and-swap over a record that was read after
the question came:
1. The reconciler read the record and saw both disks UpToDate; it is about to add the peer.
2. The link is cut; the kernel asks; the desk writes that the peer is not in sync.
3. The reconciler's write fails, for the record has moved. In the other order the desk's fails, and
   it reads again and writes what R1 asks for.
An answer may come when the link is long back and the peer in sync again. The kernel counts its
connections and does not take it.

What the desk could not answer stays frozen. ``on_unsure`` hears of it, and ``Rescuer`` finishes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.fence import CasOutcome, FenceAnswer, FenceExit, decide_fence_answer
from twinvault_core.model import VolumeReplica
from twinvault_core.replication_state import Disk

from ..drbd_config import volume_of_resource
from .drbd_feed import DrbdFeed
from .fence_server import Answer, Question
from .record_store import Reading, RecordStore
from .replication_storage import ReplicationStorage
from .storage import StorageThreads

logger = logging.getLogger(__name__)

DESK_SECONDS = 3.2
"""Below the time after which ``FenceServer`` answers in our stead."""
READ_SECONDS = 0.8
WRITE_SECONDS = 1.2
PAUSE_SECONDS = 0.05


class FenceMeter(Protocol):
    """Hears of every answer."""

    def observe_answer(self, handler: str, code: int, seconds: float) -> None: ...


class FenceDesk:
    """``decide`` is for ``FenceServer``. Event loop only.

    ``find_replica`` knows our replica of a volume, None for none. ``before_resync`` must return
    before a resync may write over the image. ``on_diverged`` hears that the kernel refused to
    connect; ``on_unsure`` that I/O stays frozen although the question was heard.
    """

    def __init__(
        self,
        node: str,
        records: RecordStore,
        feed: DrbdFeed,
        storage: ReplicationStorage,
        threads: StorageThreads,
        meter: FenceMeter,
        *,
        find_replica: Callable[[str], VolumeReplica | None],
        before_resync: Callable[[VolumeReplica], None],
        on_diverged: Callable[[str], None],
        on_unsure: Callable[[str], None],
    ) -> None:
        self._node, self._records, self._feed = node, records, feed
        self._storage, self._threads, self._meter = storage, threads, meter
        self._find_replica, self._before_resync = find_replica, before_resync
        self._on_diverged, self._on_unsure = on_diverged, on_unsure
        self._open: Counter[str] = Counter()

    def is_answering(self, volume_id: str) -> bool:
        """Whether a fence-peer question about it is with the desk right now."""
        return self._open[volume_id] > 0

    async def decide(self, question: Question) -> int:
        """The helper's exit code."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        code = int(Answer.UNSURE)
        try:
            code = await self._decide(question, begun + DESK_SECONDS)
        finally:
            self._meter.observe_answer(question.handler, code, loop.time() - begun)
        return code

    async def _decide(self, question: Question, deadline: float) -> int:
        volume_id = self._volume_of(question)
        match question.handler:
            case "fence-peer":
                return await self._answer_fence(volume_id, deadline)
            case "before-resync-target":
                return await self._prepare_resync(volume_id)
            case "split-brain" if volume_id:
                logger.error("volume %s: both replicas hold writes of their own", volume_id)
                self._on_diverged(volume_id)
        return Answer.GO_AHEAD

    def _volume_of(self, question: Question) -> str:
        if question.minor is not None:
            return self._feed.volume_of_minor(question.minor)
        return volume_of_resource(question.what) or ""

    # -- may I/O go on, may this node be promoted ------------------------------------------------

    async def _answer_fence(self, volume_id: str, deadline: float) -> int:
        if not volume_id:
            return Answer.UNSURE
        self._open[volume_id] += 1
        late = True
        exit_code = FenceExit.UNSURE
        try:
            answer = await self._ask(volume_id, deadline)
            exit_code = answer.exit or FenceExit.UNSURE
            logger.info("fence-peer of %s: %s (%s)", volume_id, answer.message, answer.reason)
            # One that comes later is heard by nobody: FenceServer has said "unsure" by then.
            late = asyncio.get_running_loop().time() > deadline
        finally:
            self._open[volume_id] -= 1
            if late or exit_code is FenceExit.UNSURE:
                self._on_unsure(volume_id)
        return exit_code

    async def _ask(self, volume_id: str, deadline: float) -> FenceAnswer:
        """Until the answer is final. An API server that does not answer is asked again while there
        is time: an election in etcd is over within the kernel's patience.
        """
        loop = asyncio.get_running_loop()
        while True:
            answer = await self._ask_once(volume_id)
            unreachable = answer.reason == "ApiUnreachable"
            if answer.exit is not None and not unreachable:
                return answer
            if loop.time() + PAUSE_SECONDS >= deadline:
                return answer
            if unreachable:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _ask_once(self, volume_id: str) -> FenceAnswer:
        replica = self._find_replica(volume_id)
        uid = replica.volume_uid if replica else ""
        reading = await self._records.read(volume_id, uid, timeout_seconds=READ_SECONDS)
        record = reading.record if reading else None
        disk = await self._observe_disk(volume_id, replica)
        answer = decide_fence_answer(self._node, record, disk)
        if answer.write is None or reading is None:
            return answer
        outcome = await self._swap(reading, answer)
        return decide_fence_answer(self._node, record, disk, outcome)

    async def _swap(self, reading: Reading, answer: FenceAnswer) -> CasOutcome:
        assert answer.write is not None
        return await self._records.swap(reading, answer.write, timeout_seconds=WRITE_SECONDS)

    async def _observe_disk(self, volume_id: str, replica: VolumeReplica | None) -> Disk:
        """What the kernel told last; it tells before it asks. Asking it back would need a command,
        and while it waits for us it may not answer one.
        """
        state = self._feed.state(volume_id)
        if state is not None:
            return state.disk
        if replica is None:
            return Disk.UNKNOWN
        try:
            facts = await self._threads.run(
                "observe_replica",
                lambda: self._storage.observe_replica(replica.pool, volume_id),
            )
        except (NotFoundError, TwinvaultError):
            return Disk.UNKNOWN
        return facts.resource.state.disk if facts.resource else Disk.UNKNOWN

    # -- before a resync -------------------------------------------------------------------------

    async def _prepare_resync(self, volume_id: str) -> int:
        """A copy that takes longer than the kernel waits is finished all the same; the kernel
        disconnects, connects again, and finds it done.
        """
        replica = self._find_replica(volume_id) if volume_id else None
        if replica is None:
            return Answer.UNSURE
        try:
            await self._threads.run("clone_before_resync", lambda: self._before_resync(replica))
        except TwinvaultError as error:
            logger.error("%s is not resynced: %s", volume_id, error.message)
            return Answer.UNSURE
        return Answer.GO_AHEAD
