"""Sets frozen I/O free, one way or the other, apart from everything that may hang on it.

It takes the record's key, never the volume's lock. Why:
1. An unmount holds the volume's lock and writes the last pages.
2. The link is cut: the write freezes, and the unmount with it.
3. The record names the other node: this side's I/O must end in errors. That ends the unmount, and
   nothing else does.
Behind the volume's lock that step would wait for what waits for it. It has a queue and threads of
its own for the same reason.

The record's key is held from the read to the kernel's ``resume-io``. Without it:
1. The write that says "the peer is not in sync" is won.
2. The link comes back, the peer is copied to, and the reconciler adds it.
3. The link is cut again, and I/O freezes.
4. The ``resume-io`` of step 1 runs: writes go on alone while the record has both in sync.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from twinvault_core.fence import CasOutcome
from twinvault_core.model import VolumeReplica
from twinvault_core.replication_view import StepKind

from ..steps import step as mark
from .fence_desk import FenceDesk
from .locks import record_key
from .replica_memory import ReplicaMemory
from .replication_parts import FREEING, Decided, ReplicationParts
from .replication_storage import ReplicationStorage

logger = logging.getLogger(__name__)

KERNEL_ASKS_SECONDS = 0.3
"""The kernel asks right after it froze: its own question is the quicker way, so it goes first."""
DESK_SECONDS = 0.1
SETTLE_SECONDS = 0.3
AGAIN_SECONDS = 0.2
LONGEST_SECONDS = 2.0


class Rescuer:
    """``rescue`` is a queue's handler. ``on_done`` hears when there is nothing (more) to free."""

    def __init__(
        self,
        parts: ReplicationParts,
        desk: FenceDesk,
        storage: ReplicationStorage,
        memory: ReplicaMemory,
        *,
        on_done: Callable[[str], None],
    ) -> None:
        self._parts, self._desk, self._storage = parts, desk, storage
        self._memory, self._on_done = memory, on_done
        self._tries: dict[str, int] = {}
        self._freed_at: dict[str, float] = {}

    async def rescue(self, name: str) -> float | None:
        """Seconds until the next try; None when it is not frozen, or not for us to free."""
        replica = self._parts.find(name)
        if replica is None:
            return None
        volume = replica.volume
        frozen_for = self._parts.feed.frozen_seconds(volume)
        if self._desk.is_answering(volume):
            return DESK_SECONDS
        if 0 < frozen_for < KERNEL_ASKS_SECONDS:
            return KERNEL_ASKS_SECONDS - frozen_for
        now = asyncio.get_running_loop().time()
        just_freed = now - self._freed_at.get(name, float("-inf"))
        if just_freed < SETTLE_SECONDS:
            # The kernel was told; what is heard of it may be from before.
            return SETTLE_SECONDS - just_freed
        async with self._parts.locks.hold([record_key(volume)], f"frozen I/O of {volume}"):
            decided = await self._parts.decide(replica)
            freed = await self._free(replica, decided)
        if freed or not self._is_frozen(volume, decided):
            self._tries.pop(name, None)
            if freed:
                self._freed_at[name] = asyncio.get_running_loop().time()
            else:
                self._freed_at.pop(name, None)
            self._on_done(name)
            return None
        self._parts.tell(decided)
        tries = self._tries[name] = self._tries.get(name, 0) + 1
        return min(LONGEST_SECONDS, AGAIN_SECONDS * 2.0 ** min(tries, 8))

    def _is_frozen(self, volume: str, decided: Decided) -> bool:
        """By either of the two: a pool that was not looked at yet shows no volume of its own."""
        return decided.seen.view.is_frozen or self._parts.feed.is_frozen(volume)

    async def _free(self, replica: VolumeReplica, decided: Decided) -> bool:
        if decided.step.kind not in FREEING:
            return False
        if decided.step.kind is StepKind.FENCE_THEN_RESUME:
            if await self._parts.write(decided) is not CasOutcome.WON:
                return False
            mark("resume I/O alone")
            work = partial(self._storage.go_on_alone, replica.pool, replica.volume)
        else:
            work = partial(self._give_up, replica)
        logger.warning("%s: %s", replica.volume, decided.step.message)
        await asyncio.shield(self._parts.threads.run("free_frozen_io", work))
        self._parts.tell(decided)
        return True

    def _give_up(self, replica: VolumeReplica) -> None:
        """What was noted is true before it happens: an image that is detached under a living
        resource may lack writes, and its metadata does not know.
        """
        mark("note the detach")
        self._memory.note(replica.volume, replica.volume_uid, detached=True)
        self._storage.fail_frozen_io(replica.pool, replica.volume)
