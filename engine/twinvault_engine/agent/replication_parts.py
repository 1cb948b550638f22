"""What the reconciler and the rescuer of replicated volumes share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from twinvault_core.fence import CasOutcome
from twinvault_core.model import VolumeReplica
from twinvault_core.replication import decide_replication_step
from twinvault_core.replication_view import Step, StepKind
from twinvault_kube.informer import Informer

from .drbd_feed import DrbdFeed
from .locks import VolumeLocks
from .record_store import Reading, RecordStore
from .replication_look import Looker, Seen
from .replication_report import ReplicationReporter
from .storage import StorageThreads

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
LONGEST_READ_SECONDS = 4.0
WRITE_SECONDS = 3.0
FREEING = frozenset({StepKind.FENCE_THEN_RESUME, StepKind.GIVE_UP_FROZEN_IO})
"""What sets frozen I/O free. It must never stand behind work that may itself hang on that I/O."""


@dataclass(frozen=True)
class Decided:
    """A look and what follows. ``reading`` None: the API server did not answer."""

    seen: Seen
    step: Step
    reading: Reading | None


class ReplicationParts:
    """``threads`` are only for looks and acts that have deadlines of their own and touch no
    filesystem: they are free also when every other thread hangs on frozen I/O.
    """

    def __init__(
        self,
        replicas: Informer,
        records: RecordStore,
        looker: Looker,
        feed: DrbdFeed,
        reporter: ReplicationReporter,
        locks: VolumeLocks,
        threads: StorageThreads,
    ) -> None:
        self.replicas, self.records, self.looker = replicas, records, looker
        self.feed, self.reporter, self.locks, self.threads = feed, reporter, locks, threads
        self._silent: dict[str, int] = {}

    def find(self, name: str) -> VolumeReplica | None:
        obj = self.replicas.store.get(name)
        return None if obj is None else VolumeReplica.parse(obj)

    async def decide(self, replica: VolumeReplica) -> Decided:
        """Read the record, then look, then decide: in this order (see ``add_in_sync`` in core).

        With the record's key held.
        """
        reading = await self.read(replica)
        seen = await self.look(replica, reading)
        return Decided(seen, self.choose(replica, seen, reading), reading)

    async def look(self, replica: VolumeReplica, reading: Reading | None) -> Seen:
        work = partial(self.looker.look, replica, reading)
        return await self.threads.run("look_at_replica", work)

    def choose(self, replica: VolumeReplica, seen: Seen, reading: Reading | None) -> Step:
        if replica.meta.deleting and reading is None:
            text = "being removed; waiting for the API server to say who counts on this replica"
            return Step(StepKind.NOTHING, "ApiUnreachable", text)
        return decide_replication_step(seen.view)

    async def read(self, replica: VolumeReplica) -> Reading | None:
        """A slow API server is given more time with every failure; an answer ends that."""
        volume = replica.volume
        failures = self._silent.get(volume, 0)
        seconds = min(LONGEST_READ_SECONDS, READ_SECONDS * 2 ** min(failures, 8))
        reading = await self.records.read(volume, replica.volume_uid, timeout_seconds=seconds)
        if reading is None:
            self._silent[volume] = failures + 1
        else:
            self._silent.pop(volume, None)
        return reading

    async def write(self, decided: Decided) -> CasOutcome:
        """The compare-and-swap that the step asks for."""
        assert decided.step.write is not None
        assert decided.reading is not None
        return await self.records.swap(
            decided.reading, decided.step.write, timeout_seconds=WRITE_SECONDS
        )

    def tell(self, decided: Decided, trouble: str = "") -> None:
        """Into the status, where people see it."""
        facts, view = decided.seen.facts, decided.seen.view
        # The look may be older than what DRBD has told since.
        drbd = self.feed.state(view.volume) or view.drbd
        syncing = drbd is not None and drbd.syncing
        resource = facts.resource if facts is not None else None
        self.reporter.decided(
            view,
            decided.step,
            drbd=drbd,
            epoch=self.records.last_epoch(view.volume),
            resync=facts.resync if facts is not None and syncing else None,
            verify=decided.seen.verify,
            device_bytes=resource.size_bytes if resource is not None else 0,
            trouble=trouble,
        )

    def forget(self, volume_id: str) -> None:
        self._silent.pop(volume_id, None)
        self.records.forget(volume_id)
        self.reporter.forget(volume_id)
