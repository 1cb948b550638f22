"""Freeze a mounted filesystem for an instant; it thaws whatever happens to us.

Who thaws, by what happened:
1. all is well: this process, at the end of the ``with`` block;
2. the work takes too long: a timer in this process, and the caller gets DeadlineError;
3. this process is killed or stopped: a guard, a small shell started before the freeze. It reads
   from a pipe of ours: end of file or its own timeout makes it thaw;
4. the guard died too (a container that ends takes all its processes along): the record written
   before the freeze; the next agent thaws what is recorded, first thing at its start.

Measured on two cores: the freeze itself stalls writers for 30 to 50 ms, nearly all of it waits of
the kernel for RCU grace periods (4 ms with rcu_expedited, a switch of the whole host that is not
ours to set); a reflink of 1,000 extents adds 20 to 30 ms.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twinvault_core.errors import BusyError, DeadlineError, FailedPreconditionError, TwinvaultError

from . import durable, runner
from .mountinfo import Mount, mounts_of_device
from .steps import step

FREEZE_TIMEOUT_SECONDS = 10.0
_GUARD_EXTRA_SECONDS = 2.0
_FIFREEZE = 0xC0045877
_FITHAW = 0xC0045878
_libc = ctypes.CDLL(None, use_errno=True)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_GUARD = 'timeout "$1" sh -c "read -r word" && exit 0; fsfreeze --unfreeze "$2"; true'


def read_boot_id() -> str:
    """Identity of the running kernel; records of earlier boots are stale."""
    return _BOOT_ID.read_text().strip()


class Freezer:
    """Freezes filesystems; ``records`` is a directory on a filesystem that is never frozen."""

    def __init__(self, records: Path, *, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> None:
        self._records = records
        self._timeout_seconds = timeout_seconds

    @contextmanager
    def frozen(self, mount: Mount, name: str) -> Iterator[None]:
        """Keep ``mount`` frozen inside the block. ``name`` is unique among freezes under way.

        BusyError when somebody else has frozen it. DeadlineError at the end of the block when it
        had to be thawed before: what was done inside is then not of one instant.
        """
        record = self._records / f"{name}.json"
        fd = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            step("record freeze")
            durable.write_json(
                record,
                {"path": mount.path, "device": mount.major_minor, "boot_id": read_boot_id()},
            )
            guard = self._start_guard(mount.path)
            try:
                # Most of what the freeze would have to write is written while writers still run.
                _sync(fd)
                with self._held(fd, mount.path):
                    yield
            finally:
                _dismiss(guard)
                step("remove freeze record")
                durable.remove_file(record)
        finally:
            os.close(fd)

    @contextmanager
    def _held(self, fd: int, path: str) -> Iterator[None]:
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _thaw(fd)

        timer = threading.Timer(self._timeout_seconds, expire)
        timer.daemon = True
        timer.start()
        frozen = False
        try:
            step("freeze")
            _freeze(fd, path)
            frozen = True
            step("frozen")
            yield
            step("thaw")
        finally:
            timer.cancel()
            thawed = _thaw(fd) if frozen else True
        if expired.is_set() or not thawed:
            raise DeadlineError(
                f"{path} was thawed after {self._timeout_seconds:g} s, before the work on it was"
                " done; its device is slow or the volume has very many extents. Try again"
            )

    def _start_guard(self, path: str) -> subprocess.Popen[str]:
        seconds = self._timeout_seconds + _GUARD_EXTRA_SECONDS
        return runner.start(["sh", "-c", _GUARD, "thaw-guard", f"{seconds:g}", path])

    def thaw_leftovers(self) -> tuple[str, ...]:
        """Thaw what an earlier process recorded and did not finish; returns the paths."""
        thawed = []
        for record in sorted(self._records.glob("*.json")):
            content = durable.read_json(record) or {}
            if content.get("boot_id") == read_boot_id():
                for mount in mounts_of_device(str(content.get("device"))):
                    if _thaw_path(mount.path):
                        thawed.append(mount.path)
            durable.remove_file(record)
        return tuple(thawed)


def _sync(fd: int) -> None:
    """syncfs(2), which os does not offer: flush the one filesystem behind ``fd``."""
    if _libc.syncfs(fd) != 0:
        raise TwinvaultError(f"syncfs failed: {os.strerror(ctypes.get_errno())}")


def _freeze(fd: int, path: str) -> None:
    try:
        fcntl.ioctl(fd, _FIFREEZE, 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise BusyError(
                f"{path} is frozen by somebody else; thaw it (fsfreeze --unfreeze) and try again"
            ) from error
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            raise FailedPreconditionError(f"the filesystem at {path} cannot be frozen") from error
        raise TwinvaultError(f"{path} cannot be frozen: {error.strerror}") from error


def _thaw(fd: int) -> bool:
    """Thaw; False when it was not frozen any more."""
    try:
        fcntl.ioctl(fd, _FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def _thaw_path(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _thaw(fd)
    finally:
        os.close(fd)


def _dismiss(guard: subprocess.Popen[str]) -> None:
    """Tell the guard that all is well and let it end."""
    with suppress(subprocess.TimeoutExpired, BrokenPipeError):
        guard.communicate("thawed\n", timeout=runner.KILL_GRACE_SECONDS)
