"""One replicated volume at a time: read the record, look, decide (core), do one step, again.

A healthy volume costs nothing: DRBD tells of every change, the operator's writes come through the
watch of our own VolumeReplicas, and what was at rest and has not changed is looked at
again every few minutes only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

from twinvault_core.errors import BusyError, NotFoundError, TwinvaultError
from twinvault_core.fence import CasOutcome
from twinvault_core.ids import replica_name
from twinvault_core.model import VolumeReplica
from twinvault_core.replication_state import DrbdState
from twinvault_core.replication_view import StepKind
from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import VOLUME_REPLICAS

from .locks import record_key, volume_key
from .node_view import NodeView
from .replication_parts import FREEING, Decided, ReplicationParts
from .replication_steps import StepRunner
from .replication_storage import ReplicationStorage
from .storage import StorageThreads

logger = logging.getLogger(__name__)

MAX_STEPS = 12
"""In one go; then others have their turn."""
LOCK_SECONDS = 0.5
RESYNC_SECONDS = 2.0
"""How often a resync is looked at and its progress told."""
WAITING_SECONDS = 15.0
"""As often one that waits for its turn; DRBD and the operator tell when that comes."""
VERIFY_SECONDS = 5.0
GROWTH_SECONDS = 1.0
LEAST_SECONDS = 0.5
LONGEST_SECONDS = 15.0
_TOLD_BY_EVENTS = frozenset({"LinkDown", "Diverged", "Down"})
"""Nothing is asked again for these: DRBD, the operator or a person makes the next move."""
WELL_SECONDS = 300.0
UNWELL_SECONDS = 15.0
"""At rest a volume is looked at all the same, should a word about it ever be lost."""


@dataclass(frozen=True)
class _Rest:
    """Nothing is to be done while ``sign`` stays what it is, ``until`` the loop's time."""

    sign: Hashable
    until: float


def _now() -> float:
    return asyncio.get_running_loop().time()


def _shows_the_same(seen: DrbdState | None, told: DrbdState | None) -> bool:
    """Whether the kernel's events have told what a look has found. Else there is no rest:

    1. Events tell of a link.  2. It is cut; a look finds that before the event of it is read, and
    there is nothing to do.  3. The link is back, and both events are read at once: what they show
    is what they showed in step 1, and nobody looks again.
    """
    if seen is None or told is None:
        return seen is told
    return _shown(seen) == _shown(told)


def _shown(state: DrbdState) -> Hashable:
    return (state.connection, state.role, state.disk, state.peer_disk, state.frozen)


class ReplicationReconciler:
    """``reconcile`` is a queue's handler; never twice at a time for one name.

    ``heavy`` threads do the steps, which may take long. ``on_frozen`` hands a volume to the
    ``Rescuer``, ``on_down`` hears that a replica is out of the kernel and may be erased.
    """

    def __init__(
        self,
        client: KubeClient,
        parts: ReplicationParts,
        runner: StepRunner,
        storage: ReplicationStorage,
        heavy: StorageThreads,
        view: NodeView,
        *,
        on_frozen: Callable[[str], None],
        on_down: Callable[[str], None],
    ) -> None:
        self._client, self._parts, self._runner = client, parts, runner
        self._storage, self._heavy, self._view = storage, heavy, view
        self._on_frozen, self._on_down = on_frozen, on_down
        self._rested: dict[str, _Rest] = {}
        self._same: dict[str, tuple[StepKind, int]] = {}
        self._sizes: dict[str, int] = {}
        """Of devices that are primary here, as seen last; their filesystems were grown to that."""

    def unsettle(self, volume_id: str) -> None:
        """Something that is not in ``_sign`` changed: look at it again."""
        self._rested.pop(volume_id, None)

    def forget(self, volume_id: str) -> None:
        self._rested.pop(volume_id, None)
        self._same.pop(volume_id, None)
        self._sizes.pop(volume_id, None)
        self._parts.forget(volume_id)

    async def reconcile(self, name: str) -> float | None:
        """Seconds after which to look again, None for "when something changes"."""
        for _ in range(MAX_STEPS):
            replica = self._parts.find(name)
            if replica is None or not self._view.looked:
                return None
            sign = self._sign(replica)
            rested = self._rested.get(replica.volume)
            left = rested.until - _now() if rested is not None and rested.sign == sign else 0.0
            if left > 0:
                return left
            decided = await self._decide(replica)
            if decided is None:
                self._rested[replica.volume] = _Rest(sign, _now() + WELL_SECONDS)
                return WELL_SECONDS
            if decided.step.kind in FREEING:
                self._on_frozen(name)
                return None
            if decided.step.write is not None:
                continue
            if not self._acts(decided):
                return await self._rest(replica, decided, sign)
            delay = await self._act(replica)
            if delay is not None:
                return delay
        return LEAST_SECONDS

    def _sign(self, replica: VolumeReplica) -> Hashable:
        """What a decision depends on and changes by itself. The record is among it:

        1. Both are in sync; nothing to do.  2. The link is cut, and the fence desk writes that the
        peer is not in sync.  3. The link is back before anybody looked here: the kernel shows what
        it showed in step 1, and yet the peer is to be added.
        """
        return (
            replica.meta.uid,
            replica.meta.generation,
            replica.meta.deleting,
            replica.status_size_bytes,
            self._view.pool_is_ready(replica.pool),
            self._parts.feed.state(replica.volume),
            self._parts.records.known(replica.volume),
            replica.volume in self._parts.looker.diverged,
        )

    def _acts(self, decided: Decided) -> bool:
        step = decided.step
        return self._runner.handles(step.kind) and (step.kind is not StepKind.HOLD or step.snapshot)

    async def _decide(self, replica: VolumeReplica) -> Decided | None:
        """None for a volume that is not replicated and never was here. Writes the record when that
        is the step; the caller then looks again.
        """
        if replica.replication is None and not (await self._parts.look(replica, None)).on_disk:
            self._parts.forget(replica.volume)
            return None
        self._parts.feed.want()
        async with self._parts.locks.hold([record_key(replica.volume)], "the record is written"):
            decided = await self._parts.decide(replica)
            if decided.step.write is None or decided.step.kind in FREEING:
                return decided
            outcome = await self._parts.write(decided)
        self._parts.tell(decided)
        if outcome is CasOutcome.UNANSWERED:
            raise BusyError(f"the API server did not confirm the record of {replica.volume}")
        return decided

    async def _act(self, replica: VolumeReplica) -> float | None:
        """One step with the volume's lock; a delay when it must wait or made no difference.

        The decision is made anew with the lock held. Without that:
        1. The record names the other node; a look sees pods here; the step would be END_PODS.
        2. Meanwhile the operator moves the volume back, and a stage call promotes it here.
        3. The pods that are ended then are the right ones.
        The stage call holds the volume's lock, so under it the record that is read is not older.
        """
        volume = replica.volume
        try:
            keys = [volume_key(volume)]
            doing = f"the replica of {volume} is being worked on"
            async with self._parts.locks.hold(keys, doing, wait_seconds=LOCK_SECONDS):
                decided = await self._decide(replica)
                if decided is None or decided.step.kind in FREEING or not self._acts(decided):
                    return None
                self._parts.tell(decided)
                await self._run(replica, decided)
        except BusyError:
            self.unsettle(volume)
            return LOCK_SECONDS
        if decided.step.kind is StepKind.DOWN:
            self.forget(volume)
            self._on_down(replica.meta.name)
        return self._next_delay(volume, decided.step.kind)

    async def _run(self, replica: VolumeReplica, decided: Decided) -> None:
        logger.info("%s: %s: %s", replica.volume, decided.step.kind, decided.step.message)
        work = partial(self._runner.run, replica, decided.seen, decided.step)
        try:
            await self._heavy.run(f"replication_{decided.step.kind.value}", work)
        except TwinvaultError as error:
            self.unsettle(replica.volume)
            self._parts.tell(decided, error.message)
            raise

    def _next_delay(self, volume: str, kind: StepKind) -> float | None:
        """None to look again at once; more and more when the same step comes again and again."""
        before, count = self._same.get(volume, (kind, 0))
        count = count + 1 if before is kind else 0
        self._same[volume] = (kind, count)
        return None if count < 2 else min(LONGEST_SECONDS, LEAST_SECONDS * 2.0 ** min(count, 8))

    async def _rest(self, replica: VolumeReplica, decided: Decided, sign: Hashable) -> float | None:
        """Nothing to do now: tell it, and say when to look again."""
        volume, step, drbd = replica.volume, decided.step, decided.seen.view.drbd
        self._parts.tell(decided)
        if decided.seen.view.is_frozen:
            self._on_frozen(replica.meta.name)
            return None
        if drbd is not None and drbd.syncing:
            return WAITING_SECONDS if drbd.paused else RESYNC_SECONDS
        if step.well and drbd is not None and drbd.in_sync:
            self._same.pop(volume, None)
            await self._settle_equal(replica, decided)
            again = await self._grow(replica, decided)
            if again is not None:
                return again
        if drbd is not None and drbd.verifying:
            return VERIFY_SECONDS
        # Without the record nobody rests, however well the kernel looks:
        # 1. The copy ends; both kernels say UpToDate.  2. The read of the record is not answered.
        # 3. At rest now, nobody would add the peer, and nothing else would happen.
        if decided.reading is not None and (step.well or step.reason in _TOLD_BY_EVENTS):
            # Only if nothing happened while this was decided.
            if self._sign(replica) != sign:
                return 0.0
            if _shows_the_same(drbd, self._parts.feed.state(volume)):
                seconds = WELL_SECONDS if step.well else UNWELL_SECONDS
                self._rested[volume] = _Rest(sign, _now() + seconds)
                return seconds
        return self._next_delay(volume, step.kind) or LEAST_SECONDS

    async def _settle_equal(self, replica: VolumeReplica, decided: Decided) -> None:
        record, kept = decided.seen.view.record, decided.seen.remembered
        known = kept.equal_epoch == record.epoch if record is not None else False
        known = known and kept.replica_uid == replica.meta.uid
        if record is None or (known and not kept.snapshotted):
            return
        work = partial(self._runner.drop_clones, replica, record.epoch)
        await self._heavy.run("drop_clones", work)

    # -- growth ----------------------------------------------------------------------------------

    async def _grow(self, replica: VolumeReplica, decided: Decided) -> float | None:
        """At the primary, when both images have grown, the device takes their size, and a mounted
        filesystem the device's. Seconds until it is to be asked again (the other node's growth is
        not told to this one, and the device's new size is to be told); None when all is done.

        Why the filesystem is looked at although the device has its size: kernels that meet again
        after a cut take the new size of both images by themselves.
        """
        view, facts = decided.seen.view, decided.seen.facts
        if facts is None or facts.resource is None or view.record is None:
            return None
        size, volume = facts.resource.size_bytes, replica.volume
        if view.record.primary != view.node or not size:
            self._sizes.pop(volume, None)
            return None
        before, self._sizes[volume] = self._sizes.get(volume, size), size
        if size < replica.status_size_bytes:
            if not await self._has_peer_grown(replica, view.peer):
                return GROWTH_SECONDS
        elif size == before:
            return None
        # Sparse files that were made longer: nobody but DRBD writes to them, and it has not yet.
        work = partial(self._storage.resize, replica.pool, volume, peer_part_is_blank=True)
        keys = [volume_key(volume)]
        async with self._parts.locks.hold(keys, "the device grows", wait_seconds=LOCK_SECONDS):
            await self._heavy.run("grow_replica", work)
        return 0.0 if size < replica.status_size_bytes else None

    async def _has_peer_grown(self, replica: VolumeReplica, peer: str) -> bool:
        try:
            obj = await self._client.get(VOLUME_REPLICAS, replica_name(replica.volume, peer))
        except NotFoundError:
            return False
        return VolumeReplica.parse(obj).status_size_bytes >= replica.status_size_bytes
