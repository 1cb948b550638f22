"""Hold a replicated volume's writes for an instant, so that both nodes may copy the same content.

A mounted filesystem is frozen (see ``freeze``): nothing is in flight below it then, and both
images are equal. That leaves DRBD alone, and so the freeze for a lost peer works as ever meanwhile.

A raw device has no filesystem to freeze; DRBD itself suspends its I/O. This has a hazard, for
``resume-io`` lifts every suspension at once:
1. we look: only we suspended  2. the link is lost, DRBD freezes and asks the fence helper
3. we resume: writes go on alone before anybody said that they may.
The look makes 2. rare, not impossible. Whoever holds a SUSPENDED volume closes it by taking the
peer out of the record before ``release``, and bringing it back when both are still connected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from twinvault_core.errors import BusyError, DeadlineError, FailedPreconditionError, TwinvaultError
from twinvault_core.replication_state import Suspension

from . import drbd
from .attachment import observe_attachment
from .drbd_config import volume_of_resource
from .drbd_device import handle_of
from .drbd_journal import ReplicaRecord, load
from .freeze import Freezer
from .journal import DATA_FILE
from .steps import step


class Hold(StrEnum):
    """How the writes are held."""

    FROZEN = "Frozen"
    """Its mounted filesystem is frozen."""
    SUSPENDED = "Suspended"
    """It is a raw device; DRBD suspends its I/O. See the module for what ``release`` needs."""


class Quiescer:
    """Holds volumes by token; ``freezer_records`` is where freezes are noted for a next life."""

    def __init__(self, freezer_records: Path) -> None:
        self._freezer_records = freezer_records
        self._held: dict[str, ExitStack] = {}
        self._lock = threading.Lock()

    def hold(self, directory: Path, token: str, seconds: float) -> Hold:
        """Hold the writes of the volume in ``directory`` until ``release(token)``, at most
        ``seconds``. FailedPrecondition when it is not primary here; Busy while it is frozen.
        """
        record = load(directory)
        attached = observe_attachment(directory / DATA_FILE)
        if record is None or attached is None:
            raise FailedPreconditionError(
                f"{directory.name} is not a replicated volume that is primary on this node; its"
                " primary holds its writes"
            )
        mounts = [m for m in attached.filesystem_mounts if not m.read_only]
        stack = ExitStack()
        with self._lock:
            if token in self._held:
                raise BusyError(f"the writes of {directory.name} are held already for {token}")
            self._held[token] = stack
        try:
            if mounts:
                freezer = Freezer(self._freezer_records, timeout_seconds=seconds)
                stack.enter_context(freezer.frozen(mounts[0], f"quiesce-{token}"))
                return Hold.FROZEN
            stack.enter_context(_suspended(record, seconds))
            return Hold.SUSPENDED
        except BaseException:
            self._held.pop(token, None)
            raise

    def release(self, token: str) -> None:
        """Let the writes go on. DeadlineError when they went on before: what was copied is not of
        one instant. BusyError when the link was lost meanwhile: they go on when the fence question
        is answered, and what was copied does not count. Nothing to do for an unknown token.
        """
        with self._lock:
            stack = self._held.pop(token, None)
        if stack is not None:
            stack.close()


@contextmanager
def _suspended(record: ReplicaRecord, seconds: float) -> Iterator[None]:
    handle = handle_of(record)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        with suppress(TwinvaultError):
            _resume(handle)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        drbd.suspend_io(handle)
        present = drbd.observe(handle.resource)
        if present is None or not present.state.in_sync:
            raise BusyError(f"the replicas of volume {record.volume_id} are not in sync now")
        step("suspended")
        yield
    finally:
        timer.cancel()
        went_on = expired.is_set() or _resume(handle)
    if expired.is_set():
        raise DeadlineError(
            f"volume {record.volume_id} went on after {seconds:g} s, before the work on it was done"
        )
    if not went_on:
        raise BusyError(
            f"volume {record.volume_id} lost its other replica while its writes were held"
        )


def _resume(handle: drbd.Handle) -> bool:
    """Lift our own suspension; False when I/O is frozen for the lost peer, which is not ours to
    lift.
    """
    present = drbd.observe(handle.resource)
    if present is None or not present.state.suspended:
        return True
    if present.state.suspended != frozenset({Suspension.USER}):
        return False
    drbd.resume_io(handle)
    return True


def resume_leftovers(version: str) -> tuple[str, ...]:
    """Lift what an earlier life of ours suspended and did not resume; the volumes' ids."""
    resumed = []
    for name, resource in sorted(drbd.observe_all().items()):
        volume_id = volume_of_resource(name)
        handle = drbd.Handle(volume_id or "", resource.minor, 0, version, Path())
        ours_only = resource.state.suspended == frozenset({Suspension.USER})
        if volume_id and ours_only and _resume(handle):
            resumed.append(volume_id)
    return tuple(resumed)
