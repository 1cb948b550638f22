"""Hold a replicated volume's writes for an instant, so that both nodes copy the same content.

A mounted filesystem is frozen (see ``freeze``): nothing is in flight below it then, and both
images are equal. DRBD is left alone, so a peer that is lost meanwhile freezes I/O as ever.

DRBD's own ``suspend-io`` is not used, for two reasons, both met on a real kernel:
- 8.4 holds back the completion of writes that were in flight, and ``resume-io`` of a connected
  resource does not bring it back: the writer hangs for ever (measured, the first write in ten).
- ``resume-io`` lifts every suspension at once: 1. we look: only we suspended  2. the link is lost,
  DRBD freezes and asks the fence helper  3. we resume: writes go on alone before anybody said that
  they may (R1).

So a raw device, which has no filesystem to freeze, is not held. Its two copies are each a state
that a power cut in those milliseconds could have left, with every write that was acknowledged
before; they may differ in what was written meanwhile, and are never taken for equal.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path

from twinvault_core.errors import BusyError, FailedPreconditionError

from . import drbd, durable
from .attachment import observe_attachment
from .drbd_device import handle_of
from .drbd_journal import ReplicaRecord, load
from .freeze import Freezer
from .journal import DATA_FILE

_RELEASE_SECONDS = 2.0


class Hold(StrEnum):
    """How the writes are held."""

    FROZEN = "Frozen"
    """Its mounted filesystem is frozen: both copies will be equal."""
    RUNNING = "Running"
    """A raw device: writes go on, each copy is consistent, they need not be equal."""


class Quiescer:
    """Holds volumes by token; ``freezer_records`` is where freezes are noted for a next life."""

    def __init__(self, freezer_records: Path) -> None:
        self._freezer_records = freezer_records
        self._held: dict[str, ExitStack] = {}
        self._lock = threading.Lock()

    def hold(self, directory: Path, token: str, seconds: float) -> Hold:
        """Hold the writes of the volume in ``directory`` until ``release(token)``, at most
        ``seconds``. FailedPrecondition when it is not primary here; Busy when it is not in sync.
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
            if not mounts:
                stack.enter_context(_same_generation(record))
                durable.fsync_file(Path(attached.device.path))
                return Hold.RUNNING
            freezer = Freezer(self._freezer_records, timeout_seconds=seconds)
            stack.enter_context(freezer.frozen(mounts[0], f"quiesce-{token}"))
            _require_in_sync(record)
            return Hold.FROZEN
        except BaseException:
            with self._lock:
                self._held.pop(token, None)
            stack.close()
            raise

    def release(self, token: str) -> None:
        """Let the writes go on. DeadlineError when they went on before, BusyError when the link was
        lost under a volume that was not held: what was copied does not count then. Nothing to do
        for an unknown token.
        """
        with self._lock:
            stack = self._held.pop(token, None)
        if stack is not None:
            _close_in_time(stack)


def _close_in_time(stack: ExitStack) -> None:
    """The thaw of a filesystem writes to it: over a frozen device it waits until that goes on. The
    caller must not wait with it, for it may be who makes it go on.
    """
    failures: list[BaseException] = []

    def close() -> None:
        try:
            stack.close()
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            failures.append(error)

    thread = threading.Thread(target=close, name="thaw", daemon=True)
    thread.start()
    thread.join(_RELEASE_SECONDS)
    if thread.is_alive():
        raise BusyError(
            "the filesystem thaws when its device goes on: the other replica was lost meanwhile."
            " The fence question comes first"
        )
    if failures:
        raise failures[0]


def _require_in_sync(record: ReplicaRecord) -> None:
    present = drbd.observe(handle_of(record).resource)
    if present is None or not present.state.in_sync:
        raise BusyError(f"the replicas of volume {record.volume_id} are not in sync now; try again")


@contextmanager
def _same_generation(record: ReplicaRecord) -> Iterator[None]:
    """BusyError unless both replicas got every write from the beginning of the block to its end: a
    primary that went on alone begins a new generation of data.
    """
    handle = handle_of(record)
    before = drbd.observe_generation(handle)
    _require_in_sync(record)
    yield
    _require_in_sync(record)
    if drbd.observe_generation(handle) != before:
        raise BusyError(f"volume {record.volume_id} lost its other replica meanwhile; try again")
