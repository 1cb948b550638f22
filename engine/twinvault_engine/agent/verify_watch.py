"""A comparison of both replicas, from the question to the result, over restarts of the agent.

DRBD only says "comparing" and "connected"; that a pass ended, and was not cut off by the link, is
seen by who watched it without a gap:
1. The agent starts a pass and is killed.
2. The link is cut; the pass is over. It comes back, and what was marked is copied.
3. The next agent sees two equal replicas, and would call them compared.
So a result counts only if this life saw the pass run, and DRBD told of nothing else until it ended.
Otherwise the same question is asked again, from the first block on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from twinvault_core.model import VerifyReport, VerifyResult, VolumeReplica
from twinvault_core.model.verify import SHOWN_RANGES
from twinvault_core.replication_state import DrbdState, SyncState

from .. import kernel_log
from ..drbd_replica import ReplicaFacts
from .objects import timestamp
from .replica_memory import Remembered, ReplicaMemory

PERCENT_STEP = 5
"""Progress is told in such steps: each is a write."""
ReadLog = Callable[[int, float], tuple[tuple[int, int], ...]]


@dataclass
class _Pass:
    """A pass that this life watches. ``started``: the kernel took the command."""

    request: str
    begun_at: float
    started: bool = False


class VerifyWatch:
    """``heard`` from the event loop, everything else from any thread; one caller a volume."""

    def __init__(
        self, memory: ReplicaMemory, *, read_log: ReadLog = kernel_log.observe_differing
    ) -> None:
        self._memory, self._read_log = memory, read_log
        self._passes: dict[str, _Pass] = {}

    def begin(self, replica: VolumeReplica, start: Callable[[], None]) -> None:
        """Let ``start`` tell the kernel; what follows is watched from before that on."""
        assert replica.replication is not None, "only a replicated volume is compared"
        request = replica.replication.verify_request
        self._memory.note(
            replica.volume,
            replica.volume_uid,
            verify_request=request,
            verify_result="",
            verify_started=timestamp(),
            verify_ended="",
            verify_different_bytes=0,
            verify_ranges=(),
        )
        mine = self._passes[replica.volume] = _Pass(request, time.monotonic())
        try:
            start()
        except BaseException:
            self._passes.pop(replica.volume, None)
            raise
        mine.started = True

    def heard(self, volume_id: str, drbd: DrbdState | None) -> None:
        """DRBD told of a change. Only comparing, and equal, keep a pass alive."""
        if volume_id not in self._passes:
            return
        if drbd is None or not drbd.in_sync or drbd.sync is SyncState.VERIFY_TARGET:
            self._passes.pop(volume_id, None)

    def forget(self, volume_id: str) -> None:
        self._passes.pop(volume_id, None)

    def observe(
        self, replica: VolumeReplica, facts: ReplicaFacts | None, drbd: DrbdState | None
    ) -> tuple[VerifyReport | None, bool]:
        """What to tell, and whether a pass must be started (again)."""
        volume, wanted = replica.volume, _request_of(replica)
        kept = self._memory.recall(volume, replica.volume_uid)
        running = self._passes.get(volume)
        if drbd is not None and drbd.sync is SyncState.VERIFY_SOURCE and kept.verify_request:
            if running is None and not kept.verify_result:
                # An earlier life started it, and DRBD starts none by itself: it is the same pass.
                running = self._passes[volume] = _Pass(kept.verify_request, -1.0, started=True)
            if running is not None:
                return _running(kept, facts), False
        elif running is not None and running.started and drbd is not None and facts is not None:
            if drbd.in_sync and not drbd.verifying:
                kept = self._end(replica, running, facts)
            self._passes.pop(volume, None)
        elif running is not None:
            return _running(kept, None), False
        done = kept.verify_request == wanted and bool(kept.verify_result)
        return _final(kept), bool(wanted) and not done

    def _end(self, replica: VolumeReplica, ended: _Pass, facts: ReplicaFacts) -> Remembered:
        different = facts.resource.out_of_sync_bytes if facts.resource is not None else 0
        ranges: tuple[tuple[int, int], ...] = ()
        if different and ended.begun_at >= 0:
            ranges = self._read_log(facts.spec.minor, ended.begun_at)[:SHOWN_RANGES]
        result = VerifyResult.DIFFERENT if different else VerifyResult.EQUAL
        return self._memory.note(
            replica.volume,
            replica.volume_uid,
            verify_result=result.value,
            verify_ended=timestamp(),
            verify_different_bytes=different,
            verify_ranges=ranges,
        )


def _request_of(replica: VolumeReplica) -> str:
    return replica.replication.verify_request if replica.replication is not None else ""


def _running(kept: Remembered, facts: ReplicaFacts | None) -> VerifyReport:
    percent = 0
    if facts is not None and facts.resync is not None:
        percent = int(facts.resync.done_percent) // PERCENT_STEP * PERCENT_STEP
    return VerifyReport(kept.verify_request, started_at=kept.verify_started, percent=percent)


def _final(kept: Remembered) -> VerifyReport | None:
    """The result, until another one is there; none of a pass that was cut off."""
    if not kept.verify_request or not kept.verify_result:
        return None
    return VerifyReport(
        request=kept.verify_request,
        result=VerifyResult(kept.verify_result),
        started_at=kept.verify_started,
        ended_at=kept.verify_ended,
        percent=100,
        different_bytes=kept.verify_different_bytes,
        ranges=tuple((int(o), int(n)) for o, n in kept.verify_ranges),
    )
