"""Copying and comparing: the first sync; a resync that waits, goes on or is prodded; verify. Each
repeatable.
"""

from __future__ import annotations

from twinvault_core.errors import DataAtRiskError, FailedPreconditionError
from twinvault_core.replication_state import Disk, DrbdRole

from .drbd import (
    PROMOTE_SECONDS,
    Handle,
    connect,
    demote,
    disconnect,
    observe_just_created,
    promote,
    require,
    run_setup,
)
from .drbd_error import DrbdError
from .steps import step

_ALREADY_PAUSED = 134
_NOT_PAUSED = 135


def skip_first_sync(handle: Handle) -> None:
    """Declare both replicas equal and whole without copying. Done on one node only.

    The caller has proved both images blank and both metadata just made. FailedPrecondition unless
    our metadata was never used and both are connected, secondary and inconsistent.
    """
    present = require(handle)
    state = present.state
    if state.in_sync and present.out_of_sync_bytes == 0:
        return
    both = (state.disk, state.peer_disk, state.role, state.peer_role)
    wanted = (Disk.INCONSISTENT, Disk.INCONSISTENT, DrbdRole.SECONDARY, DrbdRole.SECONDARY)
    if not state.connected or both != wanted or not observe_just_created(handle):
        raise FailedPreconditionError(
            f"the first sync of volume {handle.volume_id} cannot be skipped: disks {state.disk} and"
            f" {state.peer_disk}, roles {state.role} and {state.peer_role}, {state.connection};"
            " only two connected, never used replicas can be declared equal. Use a full sync"
        )
    step("drbd skip first sync")
    run_setup(
        f"skipping the first sync of {handle.volume_id}",
        *("new-current-uuid", str(handle.minor), "--clear-bitmap"),
    )


def start_full_sync(handle: Handle) -> None:
    """Declare the local data whole; the peer gets all of it. Never on a replica that was whole.

    DataAtRisk when the peer holds whole data: a human chooses then.
    """
    state = require(handle).state
    if state.disk is Disk.UP_TO_DATE:
        demote(handle)
        return
    if state.peer_disk in (Disk.UP_TO_DATE, Disk.CONSISTENT, Disk.OUTDATED):
        raise DataAtRiskError(
            f"the other replica of volume {handle.volume_id} holds data ({state.peer_disk}); it is"
            " not overwritten. Choose by hand which replica is right"
        )
    if state.disk is not Disk.INCONSISTENT or not observe_just_created(handle):
        raise FailedPreconditionError(
            f"the local replica of volume {handle.volume_id} is {state.disk} and was replicated"
            " before; it cannot be declared whole. Connect it to the replica that is"
        )
    step("drbd force primary")
    what = f"starting the first sync of {handle.volume_id}"
    run_setup(what, "primary", handle.by_role, "--force", seconds=PROMOTE_SECONDS)
    demote(handle)


def accept_outdated(handle: Handle) -> None:
    """Declare the local data good although it is known to be old: a person chose it. Only for a
    caller whom the record names primary by force and alone in sync. The other replica, should it
    come back, has writes of its own then, and the kernels refuse to connect.

    DataAtRisk when what is here is not a whole, only old, state, or the other side has a newer one.
    """
    state = require(handle).state
    if state.disk in (Disk.UP_TO_DATE, Disk.CONSISTENT):
        return
    newer = state.connected and state.peer_disk in (Disk.UP_TO_DATE, Disk.CONSISTENT)
    if state.disk is not Disk.OUTDATED or newer or state.syncing:
        raise DataAtRiskError(
            f"the local replica of volume {handle.volume_id} is {state.disk} and the other one"
            f" {state.peer_disk}; it cannot be declared good. Let them connect and resync"
        )
    step("drbd force primary")
    what = f"accepting the outdated replica of {handle.volume_id}"
    run_setup(what, "primary", handle.by_role, "--force", seconds=PROMOTE_SECONDS)
    demote(handle)


def invalidate(handle: Handle) -> None:
    """Throw the local data away; the peer sends all of it. Never while primary."""
    state = require(handle).state
    if state.primary or state.peer_disk is not Disk.UP_TO_DATE:
        raise FailedPreconditionError(
            f"the local replica of volume {handle.volume_id} is not thrown away: it is"
            f" {state.role} and the other is {state.peer_disk}"
        )
    step("drbd invalidate")
    run_setup(f"invalidating {handle.volume_id}", "invalidate", str(handle.minor), seconds=30.0)


def hold_sync(handle: Handle) -> None:
    """Let a resync wait, one that runs or one that comes; new writes go to both sides all the same.
    The kernel keeps that until ``release_sync`` or ``down``, also over a lost link.
    """
    _pace(handle, "pause-sync", _ALREADY_PAUSED)


def release_sync(handle: Handle) -> None:
    """Let a resync go on that waits because of ``hold_sync``."""
    _pace(handle, "resume-sync", _NOT_PAUSED)


def _pace(handle: Handle, act: str, nothing_to_do: int) -> None:
    step(f"drbd {act}")
    what = f"{act} of {handle.volume_id}"
    try:
        run_setup(what, act, *handle.by_peer)
    except DrbdError as error:
        if error.number != nothing_to_do:
            raise


def restart_sync(handle: Handle) -> None:
    """Pause a resync that stands still and let it go on, without cutting the link."""
    hold_sync(handle)
    release_sync(handle)


def verify(handle: Handle) -> None:
    """Start to compare both replicas, from the first block on; nothing to do while they are being
    compared. Blocks that differ are marked, not repaired: ``copy_marked`` does that. What bounds a
    resync (c-max-rate, c-min-rate beside applications) bounds this too.
    """
    if not require(handle).state.verifying:
        step("drbd verify")
        run_setup(f"verifying {handle.volume_id}", "verify", *handle.by_peer, "--start=0")


def copy_marked(handle: Handle) -> None:
    """Copy what a verify marked to the peer, at the node that the record names primary and only
    when it does not count on the peer.

    Two that were equal stay connected as they are: marks alone begin no resync (measured). A
    primary that loses its peer begins a new generation, which does; so a volume that nobody uses is
    promoted for this moment.
    """
    unused = not require(handle).state.primary
    if unused:
        promote(handle)
    try:
        disconnect(handle)
        connect(handle)
    finally:
        if unused:
            demote(handle)
