"""The engine's front door to replication: what the agent asks about second replicas.

As ``Engine``: synchronous, one caller a volume at a time, everything repeatable. Nothing here asks
whether it may: R1 to R3 are kept by the agent, which reads and writes the record before it calls
``Engine.stage``, ``promote``, ``go_on_alone`` and ``release``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError, TwinvaultError
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Disk

from . import drbd, drbd_kernel
from .drbd_quiesce import Hold, Quiescer, resume_leftovers
from .drbd_replica import ReplicaFacts, Replicas
from .journal import DATA_FILE
from .layout import DataDirectory, PoolDirectory
from .volume import grow_where_mounted

logger = logging.getLogger(__name__)


class Act(StrEnum):
    """What can be done to a replica that is up; see the function of that name in ``drbd``."""

    SKIP_FIRST_SYNC = "skip_first_sync"
    START_FULL_SYNC = "start_full_sync"
    PROMOTE = "promote"
    DEMOTE = "demote"
    ATTACH = "attach"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    OUTDATE = "outdate"
    INVALIDATE = "invalidate"
    VERIFY = "verify"


_ACTS: dict[Act, Callable[[drbd.Handle], None]] = {
    Act.SKIP_FIRST_SYNC: drbd.skip_first_sync,
    Act.START_FULL_SYNC: drbd.start_full_sync,
    Act.PROMOTE: drbd.promote,
    Act.DEMOTE: drbd.demote,
    Act.ATTACH: drbd.attach,
    Act.CONNECT: drbd.connect,
    Act.DISCONNECT: drbd.disconnect,
    Act.OUTDATE: drbd.outdate,
    Act.INVALIDATE: drbd.invalidate,
    Act.VERIFY: drbd.verify,
}


@dataclass(frozen=True)
class FencePaths:
    """Where the helper on the host lies and where the agent must listen for it."""

    helper: Path
    socket: Path


class Replication:
    """``pool`` arguments are names of mounted pools."""

    def __init__(
        self, find_pool: Callable[[str], PoolDirectory], replicas: Replicas, data: DataDirectory
    ) -> None:
        self._find_pool = find_pool
        self.replicas = replicas
        self._quiescer = Quiescer(data.frozen)

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

    def recover(self) -> tuple[str, ...]:
        """To call once at start (``Engine.recover`` does): what an earlier life suspended for a
        snapshot goes on. The ids of those volumes.
        """
        version = drbd_kernel.observe_version()
        if not version:
            return ()
        try:
            return resume_leftovers(version)
        except TwinvaultError as error:
            # Unreplicated volumes must come up whatever is wrong with DRBD.
            logger.warning("DRBD's state cannot be read: %s", error.message)
            return ()

    def ensure_replica(self, pool: str, volume_id: str, spec: ReplicationSpec) -> ReplicaFacts:
        """Make this node's half and bring it up: attached and looking for its peer. A half that is
        up is only told of changed settings. See ``Replicas.ensure`` for errors.
        """
        return self.replicas.ensure(self._find_pool(pool), volume_id, spec)

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
        """Frozen writes end in errors, never in an acknowledgement: for a primary that lost. The
        volume has no disk here afterwards and is still Primary; once its pods are gone and it is
        unstaged, ``rejoin`` brings it back.
        """
        handle = self.replicas.handle(self._find_pool(pool), volume_id)
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
        both nodes take ``Engine.ensure_snapshot(..., quiesced=True)`` of the same content.
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
