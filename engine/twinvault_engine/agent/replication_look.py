"""One look at a replicated volume on this node, as the decision wants it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twinvault_core.errors import NotFoundError
from twinvault_core.model import ReplicationSpec, VerifyReport, VolumeReplica
from twinvault_core.replication_state import DrbdState, SyncState
from twinvault_core.replication_view import Applied, LocalUse, ReplicationView

from ..drbd_replica import ReplicaFacts
from ..freeze import read_boot_id
from .node_view import NodeView
from .record_store import Reading
from .replica_memory import Remembered, ReplicaMemory
from .replication_storage import ReplicationStorage
from .resync_holds import Holds
from .verify_watch import VerifyWatch

_AT_REST = frozenset({SyncState.ESTABLISHED, SyncState.OFF})


@dataclass(frozen=True)
class Seen:
    """``facts`` None: the volume has no replication on this node's disk. ``staging_path``: where
    it is staged, '' if not. ``verify``: what to tell of the last comparison.
    """

    view: ReplicationView
    facts: ReplicaFacts | None
    remembered: Remembered
    staging_path: str = ""
    verify: VerifyReport | None = None

    @property
    def on_disk(self) -> bool:
        return self.facts is not None


class Looker:
    """Blocking; any thread. What it notes of the disk is durable before anybody decides on it."""

    def __init__(
        self, node: str, storage: ReplicationStorage, memory: ReplicaMemory, view: NodeView
    ) -> None:
        self._node, self._storage, self._memory, self._view = node, storage, memory, view
        self.verify = VerifyWatch(memory)
        self._holds = Holds()
        self._applied: set[str] = set()
        self._progress: dict[str, tuple[int, int]] = {}
        self.diverged: set[str] = set()
        """Volumes that the kernel refused to connect; a connection takes them out again."""

    def note_applied(self, volume_id: str) -> None:
        """The engine was told the whole spec in this life."""
        self._applied.add(volume_id)

    def forget(self, volume_id: str) -> None:
        self._applied.discard(volume_id)
        self._progress.pop(volume_id, None)
        self.diverged.discard(volume_id)
        self.verify.forget(volume_id)
        self._holds.forget(volume_id)

    def look(self, replica: VolumeReplica, reading: Reading | None) -> Seen:
        """Everything but the record, which ``reading`` has from before.

        A stage call that is under way holds the volume's lock, and so no step that would disturb
        it is done; it needs no place in the view.
        """
        if not self._view.pool_is_ready(replica.pool):
            return Seen(
                _blank_view(self._node, replica, reading),
                None,
                self._memory.recall(replica.volume, replica.volume_uid),
            )
        try:
            facts = self._storage.observe_replica(replica.pool, replica.volume)
        except NotFoundError:
            facts = None
        if facts is None and replica.replication is None:
            return Seen(_blank_view(self._node, replica, reading), None, Remembered(""))
        drbd = facts.resource.state if facts and facts.resource else None
        remembered = self._remember(replica, drbd)
        if drbd is not None and _is_half_up(drbd, remembered):
            drbd = None
        if drbd is not None and drbd.connected:
            self.diverged.discard(replica.volume)
        use = self._storage.observe_use(replica.pool, replica.volume)
        verify, wanted = self.verify.observe(replica, facts, drbd)
        view = replace(
            _blank_view(self._node, replica, reading),
            drbd=drbd,
            use=LocalUse(len(use.targets), bool(use.staging_path)),
            image_ready=replica.status_size_bytes > 0,
            disk_failed=remembered.disk_failed,
            detached=remembered.detached,
            blank=facts is not None and facts.blank,
            diverged=replica.volume in self.diverged,
            snapshotted=remembered.snapshotted,
            discard_approved=_is_discard_approved(reading, remembered),
            applied=self._compare(replica, facts),
            stalled=self._count_stalls(replica.volume, facts, drbd),
            different_bytes=_different_bytes(facts, drbd),
            hold=self._holds.counts(replica),
            verify=wanted,
            stale=facts is not None and remembered.replica_uid != replica.meta.uid,
            other_peer=_is_other_peer(replica, facts),
        )
        return Seen(view, facts, remembered, use.staging_path, verify)

    def _remember(self, replica: VolumeReplica, drbd: DrbdState | None) -> Remembered:
        """The kernel never attaches a disk by itself: one that is attached was attached by UP or
        REATTACH. One that is missing, and was attached in this boot, failed or was given up.
        """
        volume, uid, boot = replica.volume, replica.volume_uid, read_boot_id()
        known = self._memory.recall(volume, uid)
        if drbd is None:
            return known
        if not drbd.disk.gone:
            return self._memory.note(
                volume, uid, disk_failed=False, detached=False, attached_boot=boot
            )
        if known.attached_boot == boot and not known.detached:
            return self._memory.note(volume, uid, disk_failed=True)
        return known

    def _compare(self, replica: VolumeReplica, facts: ReplicaFacts | None) -> Applied:
        wanted = replica.replication
        if facts is None or facts.resource is None or wanted is None:
            return Applied.SAME
        told = facts.spec
        if _where(told) != _where(wanted):
            return Applied.ADDRESS
        # Once in each life: an earlier one may have been killed while it told the kernel.
        same = told.lasting() == wanted.lasting()
        return Applied.SAME if same and replica.volume in self._applied else Applied.SETTINGS

    def _count_stalls(self, volume: str, facts: ReplicaFacts | None, drbd: DrbdState | None) -> int:
        if drbd is None or not drbd.syncing or drbd.paused or facts is None or not facts.resync:
            self._progress.pop(volume, None)
            return 0
        left = facts.resync.remaining_bytes
        before, count = self._progress.get(volume, (-1, 0))
        count = count + 1 if left == before else 0
        self._progress[volume] = (left, count)
        return count


def _is_other_peer(replica: VolumeReplica, facts: ReplicaFacts | None) -> bool:
    """Each set of replicas has a port of its own, so the port tells whom the kernel looks for."""
    if replica.replication is None or facts is None or facts.resource is None:
        return False
    return any(port != replica.replication.port for port in facts.ports)


def _where(spec: ReplicationSpec) -> tuple[object, ...]:
    return (spec.minor, spec.port, spec.address, spec.peer_address)


def _blank_view(node: str, replica: VolumeReplica, reading: Reading | None) -> ReplicationView:
    return ReplicationView(
        volume=replica.volume,
        node=node,
        spec=replica.replication,
        record=reading.record if reading else None,
        drbd=None,
        deleting=replica.meta.deleting,
        image_ready=False,
    )


def _is_half_up(drbd: DrbdState, remembered: Remembered) -> bool:
    """An earlier life was killed between making the resource and attaching its disk."""
    never_attached = remembered.attached_boot != read_boot_id()
    return (
        drbd.disk.gone
        and never_attached
        and not remembered.disk_failed
        and not (remembered.detached)
    )


def _is_discard_approved(reading: Reading | None, remembered: Remembered) -> bool:
    """Whether a person's force still stands: made in this very epoch, and both have not been equal
    since. Otherwise a divergence of next year would be settled by an approval of today.
    """
    if reading is None or reading.record is None or not reading.forced_epoch:
        return False
    current = reading.forced_epoch == reading.record.epoch
    return current and remembered.equal_epoch < reading.forced_epoch


def _different_bytes(facts: ReplicaFacts | None, drbd: DrbdState | None) -> int:
    """What a verify marked; while connected and at rest nothing else marks blocks."""
    if facts is None or facts.resource is None or drbd is None:
        return 0
    if not drbd.in_sync or drbd.sync not in _AT_REST:
        return 0
    return facts.resource.out_of_sync_bytes
