"""The kernel's side of DRBD: is the module there, which version, and whom does it call.

The module calls one program for the whole node (``usermode_helper``), also for resources of other
users. Ours is put in its place and hands on what is not ours (images/fence-peer). It lies in a
directory of its own beside what it needs; see its source for the names there.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError, TwinvaultError

from . import durable, runner
from .drbd_state import ProcMinor, parse_proc_drbd, parse_version
from .steps import step

logger = logging.getLogger(__name__)

HELPER_SOURCE = Path("/usr/lib/twinvault/fence-peer")
"""Where the image has the helper."""
MAX_HELPER_PATH = 79
"""The module keeps the path in 80 bytes."""
DRBD_MAJOR = 147
_PROC = Path("/proc/drbd")
_MODULE = Path("/sys/module/drbd")
_LOCKS = Path("/run/lock")
_MODPROBE_SECONDS = 30.0
_HELPER = "fence-peer"
_PREVIOUS = "previous"
MARKS = "ours"
SOCKET = "fence.sock"


def observe_version() -> str:
    """The loaded module's version, '' when it is not loaded."""
    for path in (_PROC, _MODULE / "version"):
        with suppress(OSError):
            version = parse_version(path.read_text())
            if version:
                return version
    return ""


def ensure_module() -> str:
    """Load the module if needed; its version. FailedPreconditionError says what to install."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    version = observe_version()
    if version:
        return version
    said = ""
    try:
        runner.run(["modprobe", "drbd"], timeout_seconds=_MODPROBE_SECONDS)
    except runner.CommandError as error:
        said = error.message
    version = observe_version()
    if not version:
        raise FailedPreconditionError(
            f"the kernel {os.uname().release} of this node has no DRBD, so it can hold no"
            " replicated volume; volumes without a replica work as ever. Install the module `drbd`"
            " (Debian: it comes with linux-image-amd64; elsewhere drbd-dkms or kmod-drbd) and"
            f" drbd-utils, then: modprobe drbd. {said}".rstrip()
        )
    return version


def observe_minors() -> dict[int, ProcMinor]:
    """What 8.4 tells in /proc/drbd; nothing on 9, or without the module."""
    try:
        return parse_proc_drbd(_PROC.read_text())
    except OSError:
        return {}


class FenceHelper:
    """The helper's directory, and the module parameter that points into it.

    ``directory`` must have the same path for the kernel, that is on the host, as it has here.
    """

    def __init__(self, directory: Path, *, parameters: Path = _MODULE / "parameters") -> None:
        self._directory = directory
        self._parameter = parameters / "usermode_helper"

    @property
    def path(self) -> Path:
        return self._directory / _HELPER

    @property
    def socket(self) -> Path:
        return self._directory / SOCKET

    def ensure_installed(self, source: Path = HELPER_SOURCE) -> None:
        """Put the program on the host and let the module call it. Repeatable.

        Somebody else's program that is configured now is remembered first, so that there is no
        moment at which the module calls ours and ours does not know whom to hand on to.
        """
        if len(os.fsencode(self.path)) > MAX_HELPER_PATH:
            raise FailedPreconditionError(
                f"{self.path} is longer than the {MAX_HELPER_PATH} bytes that DRBD's module keeps;"
                " use a shorter data directory"
            )
        durable.make_directory(self._directory)
        durable.make_directory(self._directory / MARKS)
        self._copy(source)
        configured = self.observe_configured()
        if configured == str(self.path):
            return
        if configured:
            step("remember previous helper")
            durable.write_text(self._directory / _PREVIOUS, f"{configured}\n")
        step("set helper")
        self._set(str(self.path))
        logger.info("DRBD's helper is %s; before it was %s", self.path, configured or "not set")

    def _copy(self, source: Path) -> None:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise FailedPreconditionError(
                f"the fence helper {source} cannot be read ({error.strerror}); this image was"
                " built without it"
            ) from error
        with suppress(OSError):
            if self.path.read_bytes() == content and os.access(self.path, os.X_OK):
                return
        step("install helper")
        # Replaced by a rename: one that runs right now ends in peace.
        durable.write_bytes(self.path, content, mode=0o755)

    def observe_configured(self) -> str:
        """What the module calls now; FailedPreconditionError when it is not loaded."""
        try:
            return self._parameter.read_text().strip()
        except OSError as error:
            raise FailedPreconditionError(
                f"{self._parameter} cannot be read ({error.strerror}); is the module drbd loaded?"
            ) from error

    def _set(self, program: str) -> None:
        # No newline: the module keeps it as a part of the name and then finds no such program.
        fd = os.open(self._parameter, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, program.encode())
        except OSError as error:
            raise TwinvaultError(
                f"{self._parameter} does not take {program}: {error.strerror}"
            ) from error
        finally:
            os.close(fd)
        if self._parameter.read_text() != f"{program}\n":
            raise TwinvaultError(
                f"{self._parameter} does not hold {program} after it was written; another program"
                " sets it too. Losing the peer would freeze volumes until that is solved"
            )

    def restore(self) -> bool:
        """Give the module its former program back; False when it is not ours to give.

        Only when no resource here is ours, and only if the module still calls ours.
        """
        if any((self._directory / MARKS).glob("*")) or self.observe_configured() != str(self.path):
            return False
        with suppress(OSError):
            previous = (self._directory / _PREVIOUS).read_text().strip()
            if previous:
                self._set(previous)
                return True
        return False

    def mark(self, resource: str, minor: int) -> None:
        """From now on calls about this resource are ours. To be done before it is configured."""
        for name in (resource, f"minor-{minor}"):
            path = self._directory / MARKS / name
            if not path.exists():
                path.touch()
                durable.fsync_directory(path.parent)

    def unmark(self, resource: str, minor: int) -> None:
        """To be done after the resource is gone from the kernel."""
        for name in (resource, f"minor-{minor}"):
            with suppress(FileNotFoundError):
                (self._directory / MARKS / name).unlink()
