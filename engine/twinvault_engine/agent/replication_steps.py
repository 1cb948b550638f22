"""Carrying out one step of a replicated volume. Blocking; with the volume's lock held.

Each step may be repeated after a kill at any line: it finds what was done and does the rest.
"""

from __future__ import annotations

from collections.abc import Callable

from twinvault_core.agent_api import Unstage
from twinvault_core.model import ReplicationSpec, VolumeReplica
from twinvault_core.replication_state import Disk
from twinvault_core.replication_view import Step, StepKind

from ..drbd_replica import ReplicaFacts
from ..freeze import read_boot_id
from ..replication import Act
from ..steps import step as mark
from .replica_memory import ReplicaMemory
from .replication_look import Looker, Seen
from .safety_clones import SafetyClones
from .storage import Storage

Work = Callable[[VolumeReplica, Seen, Step], None]


class StepRunner:
    """``run`` does everything but what only writes the record, and what frees frozen I/O."""

    def __init__(
        self, storage: Storage, memory: ReplicaMemory, looker: Looker, clones: SafetyClones
    ) -> None:
        self._storage, self._drbd = storage, storage.replication
        self._memory, self._looker, self._clones = memory, looker, clones
        self._works: dict[StepKind, Work] = {
            StepKind.UP: self._up,
            StepKind.CONNECT: self._connect,
            StepKind.CONNECT_AS_TARGET: self._connect,
            StepKind.SKIP_FIRST_SYNC: self._act(Act.SKIP_FIRST_SYNC),
            StepKind.START_FULL_SYNC: self._act(Act.START_FULL_SYNC),
            StepKind.END_PODS: self._end_pods,
            StepKind.UNMOUNT: self._unmount,
            StepKind.DEMOTE: self._act(Act.DEMOTE),
            StepKind.REATTACH: self._reattach,
            StepKind.RECONNECT: self._reconnect,
            StepKind.COPY_MARKED: self._act(Act.COPY_MARKED),
            StepKind.RESTART_SYNC: self._act(Act.RESTART_SYNC),
            StepKind.HOLD_SYNC: self._act(Act.HOLD_SYNC),
            StepKind.RELEASE_SYNC: self._act(Act.RELEASE_SYNC),
            StepKind.VERIFY: self._verify,
            StepKind.ADJUST: self._adjust,
            StepKind.HOLD: self._hold,
            StepKind.DISCONNECT: self._act(Act.DISCONNECT),
            StepKind.DOWN: self._down,
        }

    def handles(self, kind: StepKind) -> bool:
        return kind in self._works

    def run(self, replica: VolumeReplica, seen: Seen, step: Step) -> None:
        """Raises TwinvaultError; what was done stays done."""
        mark(f"replication {step.kind.value}")
        self._works[step.kind](replica, seen, step)

    def before_resync(self, replica: VolumeReplica) -> None:
        """The kernel is about to write over the own image: copy it, unless that was done since it
        fell behind, or it holds nothing that could be used.
        """
        pool, volume, uid = replica.pool, replica.volume, replica.volume_uid
        if self._memory.recall(volume, uid).snapshotted:
            return
        facts = self._drbd.observe_replica(pool, volume)
        if facts.resource is not None and facts.resource.state.disk is Disk.INCONSISTENT:
            return
        self._clones.take(pool, volume, uid)
        self._memory.note(volume, uid, snapshotted=True)

    def drop_clones(self, replica: VolumeReplica, epoch: int) -> None:
        """Both are in sync: what was kept for the case that they would not be can go."""
        volume, uid = replica.volume, replica.volume_uid
        if self._memory.recall(volume, uid).snapshotted:
            self._clones.drop(replica.pool, volume)
        self._memory.note(
            volume, uid, snapshotted=False, equal_epoch=epoch, replica_uid=replica.meta.uid
        )

    def _act(self, act: Act) -> Work:
        def work(replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
            self._drbd.act(replica.pool, replica.volume, act)

        return work

    def _up(self, replica: VolumeReplica, _seen: Seen, step: Step) -> None:
        """Noted for whom: when the metadata is certain to be made anew, or taken as it is."""
        if step.fresh:
            self._drbd.renew_metadata(replica.pool, replica.volume)
        self._memory.note(replica.volume, replica.volume_uid, replica_uid=replica.meta.uid)
        facts = self._drbd.ensure_replica(
            *(replica.pool, replica.volume, _spec(replica)),
            diskless=step.diskless,
            whole=step.whole,
        )
        self._looker.note_applied(replica.volume)
        self._note_attached(replica, facts)

    def _note_attached(self, replica: VolumeReplica, facts: ReplicaFacts) -> None:
        if facts.resource is not None and not facts.resource.state.disk.gone:
            self._memory.note(
                replica.volume,
                replica.volume_uid,
                disk_failed=False,
                detached=False,
                attached_boot=read_boot_id(),
            )

    def _connect(self, replica: VolumeReplica, _seen: Seen, step: Step) -> None:
        pool, volume, uid = replica.pool, replica.volume, replica.volume_uid
        if step.snapshot:
            self._clones.take(pool, volume, uid)
            self._memory.note(volume, uid, snapshotted=True)
        self._drbd.act(pool, volume, Act.CONNECT_DISCARDING if step.discard else Act.CONNECT)

    def _end_pods(self, replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
        self._drbd.end_pods(replica.pool, replica.volume)

    def _unmount(self, replica: VolumeReplica, seen: Seen, _step: Step) -> None:
        if seen.staging_path:
            self._storage.unstage(Unstage(replica.volume, seen.staging_path))

    def _reattach(self, replica: VolumeReplica, seen: Seen, step: Step) -> None:
        """While connected in place: a disconnect could take the last disk from a primary."""
        pool, volume = replica.pool, replica.volume
        if seen.view.drbd is not None and not seen.view.drbd.connected:
            self._drbd.act(pool, volume, Act.DISCONNECT)
        if step.fresh:
            self._drbd.renew_metadata(pool, volume)
            self._drbd.ensure_replica(pool, volume, _spec(replica))
        self._drbd.act(pool, volume, Act.ATTACH)
        self._note_attached(replica, self._drbd.observe_replica(pool, volume))

    def _reconnect(self, replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
        for act in (Act.DISCONNECT, Act.CONNECT):
            self._drbd.act(replica.pool, replica.volume, act)

    def _verify(self, replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
        self._looker.verify.begin(
            replica, lambda: self._drbd.act(replica.pool, replica.volume, Act.VERIFY)
        )

    def _adjust(self, replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
        self._drbd.ensure_replica(replica.pool, replica.volume, _spec(replica))
        self._looker.note_applied(replica.volume)

    def _hold(self, replica: VolumeReplica, _seen: Seen, step: Step) -> None:
        if step.snapshot:
            self._clones.take_diverged(replica.pool, replica.volume, replica.volume_uid)
            self._memory.note(replica.volume, replica.volume_uid, snapshotted=True)

    def _down(self, replica: VolumeReplica, _seen: Seen, _step: Step) -> None:
        if replica.meta.deleting and not replica.keep_data:
            self._drbd.take_down(replica.pool, replica.volume, replica.volume_uid)
        else:
            self._drbd.remove_replica(replica.pool, replica.volume)
        self._drbd.restore_helper()
        self._clones.drop(replica.pool, replica.volume)
        self._memory.forget(replica.volume)
        self._looker.forget(replica.volume)


def _spec(replica: VolumeReplica) -> ReplicationSpec:
    assert replica.replication is not None, "only a replicated volume has this step"
    return replica.replication
