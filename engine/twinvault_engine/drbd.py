"""Acts on one node's DRBD resources, each repeatable, each with a deadline.

Whatever depends on the file goes through drbdadm, which knows how 8.4 and 9 are told; what only
names a resource goes to drbdsetup, which is quicker and has no deadlines of its own.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import (
    BusyError,
    DeadlineError,
    ErrorCode,
    FailedPreconditionError,
)
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Connection, Disk, DrbdRole

from . import runner
from .drbd_config import resource_name
from .drbd_error import DrbdError, describe_failure
from .drbd_state import Resource, is_just_created, parse_events
from .runner import CommandError, Output
from .steps import step

SHORT_SECONDS = 10.0
PROMOTE_SECONDS = 25.0
"""The kernel asks its helper up to four times, and each call may take four seconds."""
LONG_SECONDS = 60.0
_SETTLE_SECONDS = 5.0
_NO_SUCH_RESOURCE = 10


@dataclass(frozen=True)
class Handle:
    """How to name one volume's resource to the tools. ``file``: its resource file."""

    volume_id: str
    minor: int
    node_id: int
    version: str
    file: Path

    @property
    def resource(self) -> str:
        return resource_name(self.volume_id)

    @property
    def newer(self) -> bool:
        """Whether the kernel has DRBD 9: some commands name the resource instead of the minor."""
        return not self.version.startswith("8.")

    @property
    def by_role(self) -> str:
        return self.resource if self.newer else str(self.minor)

    @property
    def by_peer(self) -> tuple[str, ...]:
        return (self.resource, str(1 - self.node_id), "0") if self.newer else (str(self.minor),)


def handle_of(volume_id: str, spec: ReplicationSpec, version: str, file: Path) -> Handle:
    number = sorted((spec.address, spec.peer_address)).index(spec.address)
    return Handle(volume_id, spec.minor, number, version, file)


def observe(resource: str) -> Resource | None:
    """The resource as the kernel has it now, with sizes; None when it is not configured."""
    return _dump(resource).get(resource)


def observe_all() -> dict[str, Resource]:
    """Every resource on the node, by name, also those of others; without sizes."""
    return parse_events(run_setup("asking for all states", "events2", "--now", "all").stdout)


def _dump(resource: str) -> dict[str, Resource]:
    said = run_setup(
        f"asking for the state of {resource}",
        *("events2", "--now", "--statistics", resource),
        accept=frozenset({0, _NO_SUCH_RESOURCE}),
    )
    return parse_events(said.stdout)


def observe_just_created(handle: Handle) -> bool:
    """Whether the attached metadata was made and never used since."""
    what = f"asking for the generations of {handle.volume_id}"
    return is_just_created(run_setup(what, "get-gi", *handle.by_peer).stdout)


def observe_generation(handle: Handle) -> str:
    """Identity of the local data's generation; another one after the primary went on alone."""
    what = f"asking for the generations of {handle.volume_id}"
    return run_setup(what, "get-gi", *handle.by_peer).stdout.split(":")[0]


def make_metadata(handle: Handle, device: str) -> None:
    """Write blank metadata to ``device``, which the caller has proved to be blank."""
    step("create drbd metadata")
    kind = ("v09", device, "flex-external", "create-md", "1")
    old = ("v08", device, "flex-external", "create-md")
    argv = ["drbdmeta", "--force", str(handle.minor), *(kind if handle.newer else old)]
    _run(f"making the metadata of {handle.volume_id}", argv, LONG_SECONDS)


def declare_whole(handle: Handle, device: str) -> None:
    """Let metadata that was just made say that the image is whole and up to date, in a generation
    of its own. For an image that was in use without DRBD, before it is attached.

    Generation, bitmap, two of history; then flags: consistent, up to date.
    """
    generation = secrets.randbits(64) & ~1 | 16
    words = f"{generation:016X}:{0:016X}:{0:016X}:{0:016X}:1:1"
    step("drbd declare whole")
    kind = ("v09", device, "flex-external", "set-gi")
    old = ("v08", device, "flex-external", "set-gi")
    node = ("--node-id", str(handle.node_id)) if handle.newer else ()
    argv = ["drbdmeta", "--force", str(handle.minor), *(kind if handle.newer else old)]
    _run(f"marking {handle.volume_id} as whole", [*argv, *node, words], LONG_SECONDS)


def apply_config(handle: Handle) -> None:
    """Bring the resource, its disk and its connection to what the file says, from any state."""
    step("drbd adjust")
    _adm(handle, "bringing up", "adjust", timeout_seconds=LONG_SECONDS)


def make_diskless(handle: Handle) -> None:
    """Make resource and device in the kernel and leave them without disk and connection; nothing
    to do for what is there.
    """
    present = observe(handle.resource)
    if present is None:
        step("drbd new resource")
        _adm(handle, "making the resource of", "new-resource")
    if present is None or present.minor < 0:
        step("drbd new minor")
        _adm(handle, "making the device of", "new-minor")


def attach(handle: Handle) -> None:
    """Attach the local disk; nothing to do when it is."""
    state = require(handle).state
    if state.disk in (Disk.DISKLESS, Disk.FAILED):
        step("drbd attach")
        _adm(handle, "attaching the disk of", "attach", timeout_seconds=LONG_SECONDS)


def connect(handle: Handle) -> None:
    """Begin to look for the peer; does not wait until it is found."""
    if require(handle).state.connection is Connection.STANDALONE:
        step("drbd connect")
        _adm(handle, "connecting", "connect")


def connect_discarding(handle: Handle) -> None:
    """As ``connect``, and let the peer's data win where both have writes of their own. Only when a
    person gave up the writes here, and never while primary.
    """
    state = require(handle).state
    if state.primary:
        raise FailedPreconditionError(
            f"volume {handle.volume_id} is primary here; its writes are not discarded"
        )
    if state.connection is Connection.STANDALONE:
        step("drbd connect, discarding own writes")
        argv = ["drbdadm", "-c", str(handle.file), "--", "--discard-my-data", "connect"]
        _run(f"connecting {handle.volume_id}", [*argv, handle.resource], SHORT_SECONDS)


def disconnect(handle: Handle) -> None:
    """Leave the peer. On a primary this is as if the link was cut: the fence question comes."""
    present = observe(handle.resource)
    if present is not None and present.state.connection is not Connection.STANDALONE:
        step("drbd disconnect")
        _adm(handle, "disconnecting", "disconnect")


def force_disconnect(handle: Handle) -> None:
    """Leave the peer without a word to it; it finds the link lost."""
    present = observe(handle.resource)
    if present is not None and present.state.connection is not Connection.STANDALONE:
        step("drbd disconnect by force")
        argv = ["drbdadm", "-c", str(handle.file), "--", "--force", "disconnect"]
        _run(f"disconnecting {handle.volume_id}", [*argv, handle.resource], SHORT_SECONDS)


def down(handle: Handle) -> None:
    """Take the resource out of the kernel; nothing to do when it is not there. InUse while it is
    primary and open.
    """
    if observe(handle.resource) is None:
        return
    demote(handle)
    step("drbd down")
    run_setup(f"taking down {handle.volume_id}", "down", handle.resource, seconds=LONG_SECONDS)


def promote(handle: Handle) -> None:
    """Become primary. Only for a caller whom the record names primary (R2, R3).

    Without the peer in reach the kernel asks the fence helper first; Unavailable when that did
    not allow it. FailedPrecondition while the other is primary, or without whole data.
    """
    if require(handle).state.primary:
        return
    step("drbd primary")
    what = f"promoting {handle.volume_id}"
    run_setup(what, "primary", handle.by_role, seconds=PROMOTE_SECONDS)


def demote(handle: Handle) -> None:
    """Become secondary; InUse while something has the device open.

    A probe of the host (udev, blkid) may hold it for a moment after the unmount: that is waited
    for.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        present = observe(handle.resource)
        if present is None or not present.state.primary:
            return
        step("drbd secondary")
        try:
            run_setup(f"demoting {handle.volume_id}", "secondary", handle.by_role)
        except DrbdError as error:
            if error.code is not ErrorCode.IN_USE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def resize(handle: Handle, *, new_part_is_blank: bool) -> None:
    """Take the size that both images have now. ``new_part_is_blank``: on both, proved by the
    caller; then nothing is copied. Otherwise the new part is resynced.

    Only for the node that the record names primary: DRBD wants one, so a volume that nobody uses
    is promoted for this moment.
    """
    state = require(handle).state
    if not state.in_sync:
        raise FailedPreconditionError(
            f"volume {handle.volume_id} cannot grow now: {state.connection}, disks {state.disk} and"
            f" {state.peer_disk}; it grows when both replicas are in sync"
        )
    clean = ("--assume-clean",) if new_part_is_blank else ()
    what = f"growing {handle.volume_id}"
    unused = DrbdRole.PRIMARY not in (state.role, state.peer_role)
    if unused:
        promote(handle)
    try:
        step("drbd resize")
        run_setup(what, "resize", str(handle.minor), *clean, seconds=LONG_SECONDS)
    finally:
        if unused:
            demote(handle)


def wait_for_size(handle: Handle, size_bytes: int) -> int:
    """The device's size once it is at least ``size_bytes``. The kernel first asks the peer how
    large its disk is now, so it may grow a moment after ``resize``. Busy when it does not.
    """
    deadline = time.monotonic() + SHORT_SECONDS
    while True:
        size = require(handle).size_bytes
        if size >= size_bytes:
            return size
        if time.monotonic() > deadline:
            raise BusyError(
                f"volume {handle.volume_id} has {size} bytes and not yet {size_bytes}: the other"
                " node's image has not grown; it grows when that has"
            )
        time.sleep(0.02)


def resume_io(handle: Handle) -> None:
    """Let I/O go on that was frozen for the loss of the peer, alone. Only after the record allows
    it; without a local disk frozen I/O ends in errors.
    """
    step("drbd resume")
    run_setup(f"resuming {handle.volume_id}", "resume-io", str(handle.minor))


def outdate(handle: Handle) -> None:
    """Mark the local data as not the newest; it cannot be promoted then. Only while secondary."""
    if require(handle).state.disk is not Disk.OUTDATED:
        run_setup(f"outdating {handle.volume_id}", "outdate", str(handle.minor))


def force_detach(handle: Handle) -> None:
    """Drop the local disk at once, also while I/O is frozen; frozen I/O then ends in errors as
    soon as it is resumed.
    """
    if require(handle).state.disk is Disk.DISKLESS:
        return
    step("drbd detach")
    run_setup(f"detaching {handle.volume_id}", "detach", str(handle.minor), "--force")
    deadline = time.monotonic() + _SETTLE_SECONDS
    while require(handle).state.disk is not Disk.DISKLESS:
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"the disk of volume {handle.volume_id} is not detached after"
                f" {_SETTLE_SECONDS:g} s; its loop device does not answer. See the kernel log"
            )
        time.sleep(0.02)


def require(handle: Handle) -> Resource:
    """The resource as it is; NotFound when it is not up."""
    present = observe(handle.resource)
    if present is None:
        raise DrbdError(
            f"volume {handle.volume_id} is not up on this node; the agent brings it up first",
            ErrorCode.NOT_FOUND,
            None,
        )
    return present


def run_setup(
    what: str, *words: str, seconds: float = SHORT_SECONDS, accept: frozenset[int] = frozenset({0})
) -> Output:
    """One call of drbdsetup; DrbdError with what to do next. ``what`` is for people."""
    return _run(what, ["drbdsetup", *words], seconds, accept)


def _adm(handle: Handle, what: str, act: str, *, timeout_seconds: float = SHORT_SECONDS) -> Output:
    argv = ["drbdadm", "-c", str(handle.file), act, handle.resource]
    return _run(f"{what} {handle.volume_id}", argv, timeout_seconds)


def _run(
    what: str, argv: list[str], seconds: float, accept: frozenset[int] = frozenset({0})
) -> Output:
    try:
        return runner.run(argv, timeout_seconds=seconds, accept=accept)
    except CommandError as error:
        raise describe_failure(what, error) from error
