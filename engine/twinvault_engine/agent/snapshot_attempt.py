"""One snapshot on both nodes of a replicated volume, of one instant.

Each agent speaks only through its own entry in the Snapshot's holders:
1. The leader (where the volume is primary) makes up a token, holds the writes for at most
   ``HOLD_SECONDS``, and says "Quiesced" with the token.
2. Both copy. The follower says "Cloned" with the token.
3. The leader sees that, and only then lets the writes go on. When they had not gone on by
   themselves before, it says Ready with the token; otherwise the attempt is void.
4. The follower sees Ready with the token of its own copy, and says Ready too.
A new attempt has a new token and begins with erasing what the last one left. So whoever is killed,
or comes too late, has a copy that no Ready ever speaks of.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from twinvault_core.errors import BusyError, DeadlineError
from twinvault_core.holder_plan import holder_taken
from twinvault_core.model import Holder, HolderState, Snapshot, VolumeReplica
from twinvault_core.replication_state import DrbdRole, DrbdState
from twinvault_kube.client import Json
from twinvault_kube.informer import Informer

from ..facts import SnapshotFacts
from ..steps import step
from .drbd_feed import DrbdFeed
from .storage import Storage, StorageThreads

HOLD_SECONDS = 5.0
CLONED_SECONDS = 4.0
"""For the other node's copy; below the time after which writes go on by themselves."""
QUIESCED = "Quiesced"
CLONED = "Cloned"
QUIET_REASONS = frozenset({QUIESCED, CLONED})

Say = Callable[[Holder], Awaitable[None]]


class SnapshotAttempts:
    """``find_replica`` knows our replica of a volume. Event loop only; with the locks of the
    snapshot and the volume held.
    """

    def __init__(
        self,
        snapshots: Informer,
        storage: Storage,
        threads: StorageThreads,
        feed: DrbdFeed,
        find_replica: Callable[[str], VolumeReplica | None],
    ) -> None:
        self._snapshots = snapshots
        self._storage, self._threads, self._feed = storage, threads, feed
        self._find_replica = find_replica

    def find_partner(self, snapshot: Snapshot) -> Holder | None:
        """The entry of the other node; None when this copy is the only one that counts, or the
        volume is not replicated here.
        """
        replica = self._find_replica(snapshot.volume)
        if replica is None or replica.replication is None:
            return None
        peer = snapshot.holder(replica.replication.peer_node)
        over = (HolderState.ERASED, HolderState.FAILED)  # Failed: maybe left out by the operator
        return None if peer is None or peer.state in over else peer

    async def take(self, snapshot: Snapshot, mine: Holder, partner: Holder, say: Say) -> Holder:
        """Our entry after the next step. BusyError: not now, try again."""
        if partner.state is HolderState.READY:
            return await self._follow_ready(snapshot, mine, partner)
        if self._leads(snapshot.volume):
            return await self._lead(snapshot, mine, partner, say)
        if partner.reason == QUIESCED and partner.attempt and partner.attempt != mine.attempt:
            await self._copy(snapshot, mine)
            return replace(
                mine, reason=CLONED, message="copied; not yet confirmed", attempt=partner.attempt
            )
        if mine.reason == CLONED:
            return mine
        return replace(mine, message=f"waiting for {partner.node} to hold the writes")

    def _leads(self, volume: str) -> bool:
        """Where it is primary; with no primary at all where it would be."""
        state = self._feed.state(volume)
        if state is None or not state.connected:
            raise BusyError(
                f"the link of volume {volume} is down; the snapshot is taken on both nodes when it"
                " is back"
            )
        if state.primary:
            return True
        replica = self._find_replica(volume)
        named = replica is not None and replica.role.value == DrbdRole.PRIMARY.value
        return state.peer_role is not DrbdRole.PRIMARY and named

    async def _follow_ready(self, snapshot: Snapshot, mine: Holder, partner: Holder) -> Holder:
        work = partial(self._storage.observe_snapshot, mine.pool, snapshot.meta.name)
        facts = await self._threads.run("observe_snapshot", work)
        if facts is not None and facts.ready and mine.attempt == partner.attempt:
            return holder_taken(mine, facts)
        return replace(
            mine,
            state=HolderState.FAILED,
            reason="AttemptMissed",
            message=f"the copy here is not of the same instant as that of {partner.node}; delete"
            " this Snapshot and take another one",
        )

    async def _lead(self, snapshot: Snapshot, mine: Holder, partner: Holder, say: Say) -> Holder:
        volume, token = snapshot.volume, uuid.uuid4().hex[:16]
        await self._erase(snapshot, mine)
        in_use = self._require_in_sync(volume).primary
        if in_use:
            hold = partial(
                self._storage.replication.quiesce, mine.pool, volume, token, seconds=HOLD_SECONDS
            )
            await self._threads.run("quiesce", hold)
        released = False
        try:
            step("say quiesced")
            told = replace(mine, reason=QUIESCED, message="the writes are held", attempt=token)
            said, facts = await asyncio.gather(
                say(told), self._take(snapshot, mine), return_exceptions=True
            )
            # Both have ended: nothing works on beside the next attempt.
            if isinstance(said, BaseException):
                raise said
            if isinstance(facts, BaseException):
                raise facts
            await self._wait_for_clone(snapshot, partner, token)
            released = True
            await self._release(token, in_use=in_use)
        finally:
            if not released:
                await asyncio.shield(self._release(token, in_use=in_use, quietly=True))
        if self._require_in_sync(volume).primary != in_use:
            raise BusyError(f"volume {volume} changed hands while its snapshot was taken")
        return holder_taken(replace(mine, attempt=token), facts)

    async def _wait_for_clone(self, snapshot: Snapshot, partner: Holder, token: str) -> None:
        def cloned(obj: Json | None) -> bool:
            entry = Snapshot.parse(obj).holder(partner.node) if obj is not None else None
            return entry is not None and (entry.reason, entry.attempt) == (CLONED, token)

        try:
            await self._snapshots.wait_for(
                snapshot.meta.name, cloned, CLONED_SECONDS, f"{partner.node} to copy its replica"
            )
        except DeadlineError as error:
            raise BusyError(f"{error.message}; the attempt is repeated") from error

    async def _release(self, token: str, *, in_use: bool, quietly: bool = False) -> None:
        """Raises when the writes had gone on before: what was copied does not count then."""
        if not in_use:
            return
        work = partial(self._storage.replication.release, token)
        try:
            await self._threads.run("release", work)
        except (BusyError, DeadlineError) as error:
            if not quietly:
                raise BusyError(f"{error.message}; the attempt is repeated") from error

    def _require_in_sync(self, volume: str) -> DrbdState:
        state = self._feed.state(volume)
        if state is None or not state.in_sync:
            raise BusyError(f"the replicas of volume {volume} are not in sync now; try again")
        return state

    async def _copy(self, snapshot: Snapshot, mine: Holder) -> None:
        await self._erase(snapshot, mine)
        await self._take(snapshot, mine)

    async def _take(self, snapshot: Snapshot, mine: Holder) -> SnapshotFacts:
        take = partial(
            self._storage.ensure_snapshot,
            mine.pool,
            snapshot.meta.name,
            snapshot.volume,
            snapshot.volume_uid,
            quiesced=True,
        )
        return await self._threads.run("take_snapshot", take)

    async def _erase(self, snapshot: Snapshot, mine: Holder) -> None:
        """What an earlier attempt left is of another instant."""
        erase = partial(self._storage.erase_snapshot, mine.pool, snapshot.meta.name)
        await self._threads.run("erase_snapshot", erase)
