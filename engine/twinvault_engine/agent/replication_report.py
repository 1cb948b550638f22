"""``VolumeReplica.status.replication``: written at once, whatever else the agent is busy with.

The other site's operator acts on what stands here ("link down", "role Secondary"), so a write waits
for no lock and no record. Several changes that come while one is written become one write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from twinvault_core.errors import NotFoundError
from twinvault_core.model import ReplicationStatus, VerifyReport, VolumeReplica
from twinvault_core.replication_state import DrbdState, Resync
from twinvault_core.replication_view import ReplicationView, Step
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import VOLUME_REPLICAS

from ..steps import step as mark
from .event_queue import EventQueue
from .requests import BY_VOLUME
from .work_queue import Key, Subject, WorkQueue

WORKERS = 8


@dataclass
class Entry:
    """What is to be told of one volume, and what is counted."""

    status: ReplicationStatus
    drbd: DrbdState | None = None
    frozen_at: float | None = None
    frozen_seconds: float = 0.0
    resynced_bytes: int = 0
    well: bool = False
    reason: str = ""

    def total_frozen_seconds(self) -> float:
        now = 0.0 if self.frozen_at is None else time.monotonic() - self.frozen_at
        return self.frozen_seconds + now


class ReplicationReporter:
    """``clock`` is now in RFC 3339. Event loop only."""

    def __init__(
        self, client: KubeClient, replicas: Informer, events: EventQueue, clock: Callable[[], str]
    ) -> None:
        self._client, self._replicas, self._events = client, replicas, events
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._stalled: frozenset[str] = frozenset()
        self._queue = WorkQueue(self._write, workers=WORKERS, most_seconds=5.0)

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Volumes and what is known of them, for the metrics."""
        return iter(sorted(self._entries.items()))

    async def run(self) -> None:
        await self._queue.run()

    def kernel_changed(self, volume_id: str, drbd: DrbdState | None) -> None:
        """DRBD said something. Only volumes that have an entry, or a replica of ours, are told."""
        entry = self._entries.get(volume_id)
        if entry is None:
            if not self._replicas.find(BY_VOLUME, volume_id):
                return
            entry = self._begin(volume_id)
        self._take(entry, drbd)
        self._wake(volume_id)

    def decided(
        self,
        view: ReplicationView,
        step: Step,
        *,
        drbd: DrbdState | None,
        epoch: int,
        resync: Resync | None,
        verify: VerifyReport | None = None,
        device_bytes: int = 0,
        trouble: str = "",
    ) -> None:
        """What the agent does next and why; ``trouble``: why that did not work just now.
        ``device_bytes``: 0 while the kernel does not have the device; what it had last stays.
        """
        entry = self._entries.get(view.volume) or self._begin(view.volume)
        before = entry.status
        self._take(entry, drbd)
        if before.resync and resync:
            entry.resynced_bytes += max(0, before.resync.remaining_bytes - resync.remaining_bytes)
        message = f"{step.message}; {trouble}" if trouble else step.message
        entry.status = replace(
            entry.status,
            device_bytes=device_bytes or before.device_bytes,
            blank=view.blank,
            diverged=view.diverged,
            different_bytes=view.different_bytes,
            resync=resync,
            verify=verify,
            epoch=epoch,
            step=step.kind.value,
            message=message,
        )
        entry.well = step.well and not trouble
        self._note(view.volume, step, entry)
        self._wake(view.volume)

    def stalled(self, volumes: frozenset[str]) -> None:
        """I/O of these, and of no other, stands still although nothing is frozen."""
        self._stalled = volumes
        for volume_id, entry in self._entries.items():
            since = entry.status.stalled_since
            told = (since or self._clock()) if volume_id in volumes else ""
            if told != since:
                entry.status = replace(entry.status, stalled_since=told)
                self._wake(volume_id)

    def forget(self, volume_id: str) -> None:
        """It is not replicated here any more."""
        if self._entries.pop(volume_id, None) is not None:
            self._wake(volume_id)

    def _begin(self, volume_id: str) -> Entry:
        """Goes on from what an earlier life told: since when it is frozen must not be lost."""
        told: ReplicationStatus | None = None
        for obj in self._replicas.find(BY_VOLUME, volume_id):
            told = VolumeReplica.parse(obj).replication_status
        # A stall is known by watching for a while: what an earlier life saw may be over.
        stalled = self._clock() if volume_id in self._stalled else ""
        entry = Entry(replace(told or ReplicationStatus(), stalled_since=stalled))
        self._entries[volume_id] = entry
        return entry

    def _take(self, entry: Entry, drbd: DrbdState | None) -> None:
        state = drbd or DrbdState()
        since = entry.status.frozen_since if entry.status.frozen else ""
        cut_since = "" if state.connected else entry.status.disconnected_since or self._clock()
        if state.frozen and entry.frozen_at is None:
            entry.frozen_at = time.monotonic()
        elif not state.frozen and entry.frozen_at is not None:
            entry.frozen_seconds += time.monotonic() - entry.frozen_at
            entry.frozen_at = None
        entry.drbd = drbd
        entry.status = replace(
            entry.status,
            connection=state.connection,
            sync=state.sync,
            role=state.role,
            disk=state.disk,
            peer_disk=state.peer_disk,
            frozen=state.frozen,
            frozen_since=(since or self._clock()) if state.frozen else "",
            disconnected_since=cut_since,
            resync=entry.status.resync if state.syncing else None,
        )

    def _note(self, volume_id: str, step: Step, entry: Entry) -> None:
        """Events: once for each new trouble, and once when it is over."""
        before, entry.reason = entry.reason, step.reason
        if before == step.reason or (not before and entry.well):
            return
        for obj in self._replicas.find(BY_VOLUME, volume_id):
            self._events.tell(obj, step.reason, entry.status.message, warning=not entry.well)

    def _wake(self, volume_id: str) -> None:
        for obj in self._replicas.find(BY_VOLUME, volume_id):
            self._queue.add(Key(Subject.REPLICATION, obj["metadata"]["name"]))

    async def _write(self, key: Key) -> float | None:
        obj = self._replicas.store.get(key.name)
        if obj is None:
            return None
        entry = self._entries.get(obj["spec"]["volume"])
        wanted = entry.status.to_dict() if entry is not None else None
        if _present(wanted) == ((obj.get("status") or {}).get("replication") or {}):
            return None
        mark("write the state of replication")
        try:
            answer = await self._patch(obj, wanted)
        except (NotFoundError, ConflictError):
            return None
        self._replicas.saw(answer)
        return None

    async def _patch(self, obj: Json, wanted: Mapping[str, Any] | None) -> Json:
        meta = obj["metadata"]
        return await self._client.patch_status(
            VOLUME_REPLICAS, meta["name"], {"replication": wanted}, uid=meta["uid"]
        )


def _present(wanted: Mapping[str, Any] | None) -> dict[str, Any]:
    """As the API server stores it: what is None is not there."""
    return {
        key: _present(value) if isinstance(value, Mapping) else value
        for key, value in (wanted or {}).items()
        if value is not None
    }
