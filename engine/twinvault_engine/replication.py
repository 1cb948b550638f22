"""The engine's front door to replication: what the agent asks about second replicas.

As ``Engine``: synchronous, one caller a volume at a time, everything repeatable. Nothing here asks
whether it may: R1 to R3 are kept by the agent, which reads and writes the record before it calls
``Engine.stage``, ``promote``, ``go_on_alone`` and ``release``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Disk

from . import drbd, drbd_kernel, drbd_sync
from .drbd_quiesce import Hold, Quiescer
from .drbd_replica import ReplicaFacts, Replicas
from .journal import DATA_FILE
from .layout import DataDirectory, PoolDirectory
from .local_use import VolumeUse, end_pods, observe_use
from .staged_record import StagedRecords
from .volume import grow_where_mounted


class Act(StrEnum):
    """What can be done to a replica that is up; see the function of that name in ``drbd``."""

    SKIP_FIRST_SYNC = "skip_first_sync"
    START_FULL_SYNC = "start_full_sync"
    ACCEPT_OUTDATED = "accept_outdated"
    PROMOTE = "promote"
    DEMOTE = "demote"
    ATTACH = "attach"
    CONNECT = "connect"
    CONNECT_DISCARDING = "connect_discarding"
    DISCONNECT = "disconnect"
    OUTDATE = "outdate"
    INVALIDATE = "invalidate"
    VERIFY = "verify"
    COPY_MARKED = "copy_marked"
    RESTART_SYNC = "restart_sync"
    HOLD_SYNC = "hold_sync"
    RELEASE_SYNC = "release_sync"


_ACTS: dict[Act, Callable[[drbd.Handle], None]] = {
    Act.SKIP_FIRST_SYNC: drbd_sync.skip_first_sync,
    Act.START_FULL_SYNC: drbd_sync.start_full_sync,
    Act.ACCEPT_OUTDATED: drbd_sync.accept_outdated,
    Act.PROMOTE: drbd.promote,
    Act.DEMOTE: drbd.demote,
    Act.ATTACH: drbd.attach,
    Act.CONNECT: drbd.connect,
    Act.CONNECT_DISCARDING: drbd.connect_discarding,
    Act.DISCONNECT: drbd.disconnect,
    Act.OUTDATE: drbd.outdate,
    Act.INVALIDATE: drbd_sync.invalidate,
    Act.VERIFY: drbd_sync.verify,
    Act.COPY_MARKED: drbd_sync.copy_marked,
    Act.RESTART_SYNC: drbd_sync.restart_sync,
    Act.HOLD_SYNC: drbd_sync.hold_sync,
    Act.RELEASE_SYNC: drbd_sync.release_sync,
}


@dataclass(frozen=True)
class FencePaths:
    """Where the helper on the host lies and where the agent must listen for it."""

    helper: Path
    socket: Path


class Replication:
    """``pool`` arguments are names of mounted pools."""

    def __init__(
        self,
        find_pool: Callable[[str], PoolDirectory],
        replicas: Replicas,
        data: DataDirectory,
        cgroup_root: Path,
    ) -> None:
        self._find_pool = find_pool
        self.replicas = replicas
        self._quiescer = Quiescer(data.frozen)
        self._records = StagedRecords(data.staged)
        self._cgroup_root = cgroup_root

    def ensure_module(self) -> str:
        """Version of the kernel's DRBD, loaded if needed; FailedPrecondition names what to
        install. Unreplicated volumes never need it.
        """
        return drbd_kernel.ensure_module()

    def fence_paths(self) -> FencePaths:
        """Paths for ``FenceServer``; its directory is there after the first ``ensure_replica`` or
        ``ensure_helper``.
        """
        return FencePaths(self.replicas.fence.path, self.replicas.fence.socket)

    def ensure_helper(self) -> None:
        """Install the helper and let the module call it: once at the agent's start when the module
        is loaded, and now and then, for another user of DRBD may have set its own.
        """
        self.replicas.ensure_helper()

    def restore_helper(self) -> None:
        """Give the module its former helper back if no volume here is replicated any more."""
        self.replicas.restore_helper()

    def ensure_replica(
        self,
        pool: str,
        volume_id: str,
        spec: ReplicationSpec,
        *,
        diskless: bool = False,
        whole: bool = False,
    ) -> ReplicaFacts:
        """Make this node's half and bring it up: attached and looking for its peer, or neither when
        ``diskless``. A half that is up is only told of changed settings. ``whole``: see
        ``Replicas.ensure``.
        """
        directory = self._find_pool(pool)
        return self.replicas.ensure(directory, volume_id, spec, diskless=diskless, whole=whole)

    def renew_metadata(self, pool: str, volume_id: str) -> None:
        """What failed is copied anew as a whole: see ``Replicas.renew_metadata``."""
        self.replicas.renew_metadata(self._find_pool(pool), volume_id)

    def observe_use(self, pool: str, volume_id: str) -> VolumeUse:
        """Which pods have it here, and where it is staged."""
        return observe_use(self._find_pool(pool).volume(volume_id), self._records)

    def end_pods(self, pool: str, volume_id: str) -> None:
        """SIGKILL to the pods that have it here; see ``local_use.end_pods``."""
        end_pods(self._find_pool(pool).volume(volume_id), self._cgroup_root)

    def observe_replica(self, pool: str, volume_id: str) -> ReplicaFacts:
        """NotFoundError when the volume is not replicated here."""
        return self.replicas.observe(self._find_pool(pool), volume_id)

    def act(self, pool: str, volume_id: str, act: Act) -> None:
        """Do one act; NotFoundError when the replica is not up here."""
        _ACTS[act](self.replicas.handle(self._find_pool(pool), volume_id))

    def go_on_alone(self, pool: str, volume_id: str) -> None:
        """Frozen writes go on without the peer. Only after the record says that the peer is not in
        sync and that we are primary.
        """
        handle = self.replicas.handle(self._find_pool(pool), volume_id)
        present = drbd.observe(handle.resource)
        if present is None or not present.state.frozen:
            return
        if not present.state.primary or present.state.disk is not Disk.UP_TO_DATE:
            raise FailedPreconditionError(
                f"volume {volume_id} cannot go on alone: it is {present.state.role} and its disk is"
                f" {present.state.disk} here"
            )
        drbd.resume_io(handle)

    def fail_frozen_io(self, pool: str, volume_id: str) -> None:
        """Nobody hears a late acknowledgement from a primary that lost: its pods are killed, then
        its frozen writes end. The volume has no disk and no link here afterwards and is still
        Primary; once it is unstaged it is attached again. Nothing to do when it is not frozen.

        The order is what keeps R1. 1. A write that was in flight when the link was lost may be
        whole on the local disk  2. detach and resume end it, and DRBD counts it as a success for
        that reason (measured; only later ones get EIO)  3. the other node does not have it. So
        nobody may be left who could see 2. FailedPreconditionError or DeadlineError when that
        cannot be made sure; everything stays frozen then.
        """
        handle = self.replicas.handle(self._find_pool(pool), volume_id)
        present = drbd.observe(handle.resource)
        if present is None or not present.state.frozen:
            return
        self.end_pods(pool, volume_id)
        # Not to meet its peer as a primary without a disk: it would write through it, and the
        # image that is attached later would not know.
        drbd.force_disconnect(handle)
        drbd.force_detach(handle)
        present = drbd.observe(handle.resource)
        if present is not None and present.state.suspended:
            drbd.resume_io(handle)

    def rejoin(self, pool: str, volume_id: str, spec: ReplicationSpec) -> ReplicaFacts:
        """Tear a demoted replica down and bring it up again, so that it becomes the resync's
        target: whoever wrote without its disk must not meet its peer before. InUse while mounted.
        """
        directory = self._find_pool(pool)
        facts = self.replicas.observe(directory, volume_id)
        if facts.resource is not None:
            drbd.down(self.replicas.handle(directory, volume_id))
        return self.replicas.ensure(directory, volume_id, spec)

    def resize(self, pool: str, volume_id: str, *, peer_part_is_blank: bool) -> int:
        """At the primary, when both images have grown: let the device, and its mounted filesystem,
        have that size, in bytes. ``peer_part_is_blank``: the peer's new part was never written, as
        ours is proved here; then nothing is copied.
        """
        directory = self._find_pool(pool)
        size = self.replicas.resize(directory, volume_id, peer_part_is_blank=peer_part_is_blank)
        grow_where_mounted(directory.volume(volume_id) / DATA_FILE)
        return size

    def quiesce(self, pool: str, volume_id: str, token: str, *, seconds: float) -> Hold:
        """At the primary: hold the writes until ``release(token)``, at most ``seconds``, so that
        both nodes take ``Engine.ensure_snapshot(..., quiesced=True)`` of the same content. A raw
        device is not held (Hold.RUNNING), see ``drbd_quiesce``.
        """
        return self._quiescer.hold(self._find_pool(pool).volume(volume_id), token, seconds)

    def release(self, token: str) -> None:
        """End ``quiesce``. DeadlineError or BusyError: what was copied does not count."""
        self._quiescer.release(token)

    def take_down(self, pool: str, volume_id: str, volume_uid: str) -> None:
        """Out of the kernel; everything stays on disk. InUse while it is staged."""
        self.replicas.take_down(self._find_pool(pool), volume_id, volume_uid)

    def remove_replica(self, pool: str, volume_id: str) -> None:
        """The volume is not replicated any more; its data stays here. InUse while it is staged."""
        self.replicas.release(self._find_pool(pool), volume_id)
