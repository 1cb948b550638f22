"""Copying and comparing: a resync that waits, goes on or is prodded; verify. Each repeatable."""

from __future__ import annotations

from .drbd import Handle, connect, demote, disconnect, promote, require, run_setup
from .drbd_error import DrbdError
from .steps import step

_ALREADY_PAUSED = 134
_NOT_PAUSED = 135


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
