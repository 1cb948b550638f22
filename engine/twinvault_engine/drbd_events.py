"""DRBD's state as it changes: ``drbdsetup events2``, followed for ever.

1. The tool prints all that is there, then a line for every change.
2. It ends, or is killed: it is started again, and what it prints first is compared with what we
   knew, so that nothing that happened in between is lost.
3. It lives but says nothing more: once a second /proc/drbd (8.4) is read beside it, which costs
   the read of a file. Two looks that disagree with what we know end it, and 2. follows.
So a frozen volume is told within two seconds even then, and at once otherwise.

One change of the kernel comes as several lines; what holds between them never was. So a state is
told a moment after its first line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from . import drbd_kernel
from .drbd_state import (
    HelperCall,
    ProcMinor,
    Resource,
    apply_event,
    parse_event_line,
    parse_helper,
)

logger = logging.getLogger(__name__)

COMMAND = ("drbdsetup", "events2", "all")
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 0.005
END_SECONDS = 5.0

OnChange = Callable[[str, Resource | None], None]
"""Hears the name of a resource and its state now, None when it is gone. Must not block."""


def _ignore_helper(call: HelperCall) -> None:
    """For whom the kernel's calls of its helper do not matter."""


class DrbdEvents:
    """Follows every resource of the node; ``run`` until cancelled. Needs the module loaded."""

    def __init__(
        self,
        on_change: OnChange,
        *,
        on_helper: Callable[[HelperCall], None] = _ignore_helper,
        command: Sequence[str] = COMMAND,
        observe_minors: Callable[[], Mapping[int, ProcMinor]] = drbd_kernel.observe_minors,
    ) -> None:
        self._on_change, self._on_helper = on_change, on_helper
        self._command, self._observe_minors = tuple(command), observe_minors
        self._known: dict[str, Resource] = {}
        self._told: dict[str, Resource] = {}
        self._first = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None

    @property
    def resources(self) -> Mapping[str, Resource]:
        """Everything as last told, by name."""
        return self._known

    async def wait_for_first(self, timeout_seconds: float) -> None:
        """Return when what is there was told once; TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            await self._first.wait()

    async def run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            lines = await self._follow_once()
            pause = FIRST_PAUSE_SECONDS if lines else min(pause * 2, LONGEST_PAUSE_SECONDS)
            logger.warning("drbdsetup events2 ended after %d lines; started again", lines)
            await asyncio.sleep(pause)

    async def _follow_once(self) -> int:
        """One life of the tool; how many lines it told."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError:
            logger.error("%s is missing: install drbd-utils", self._command[0])
            return 0
        assert process.stdout is not None
        watch = asyncio.create_task(self._watch(process))
        try:
            return await self._read(process.stdout)
        except ValueError:
            logger.exception("drbdsetup events2 told a line that is none")
            return 0
        finally:
            watch.cancel()
            _kill(process)
            await _wait_for_end(process)

    async def _read(self, stream: asyncio.StreamReader) -> int:
        fresh: dict[str, Resource] | None = {}
        count = 0
        while raw := await stream.readline():
            event = parse_event_line(raw.decode("utf-8", "replace"))
            if event is None:
                continue
            count += 1
            call = parse_helper(event)
            if call is not None:
                self._on_helper(call)
            elif fresh is not None and event.ends_dump:
                self._known, fresh = fresh, None
                self._tell()
                self._first.set()
            elif fresh is not None:
                apply_event(fresh, event)
            elif apply_event(self._known, event):
                self._tell_when_settled()
        return count

    def _tell_when_settled(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._settling = None
        before, self._told = self._told, dict(self._known)
        for name in sorted(before.keys() | self._told.keys()):
            now = self._told.get(name)
            if before.get(name) != now:
                self._on_change(name, now)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """End the tool when the kernel has said something else for two looks in a row."""
        doubts = 0
        while doubts < 2:
            await asyncio.sleep(LOOK_SECONDS)
            doubts = doubts + 1 if self._disagrees(self._observe_minors()) else 0
        logger.warning("drbdsetup events2 says nothing of what /proc/drbd shows; ended")
        _kill(process)

    def _disagrees(self, minors: Mapping[int, ProcMinor]) -> bool:
        known = {resource.minor: resource.state for resource in self._known.values()}
        return any(
            minor.minor not in known
            or (minor.suspended, minor.role, minor.disk)
            != (
                bool(known[minor.minor].suspended),
                known[minor.minor].role,
                known[minor.minor].disk,
            )
            for minor in minors.values()
        )


async def _wait_for_end(process: asyncio.subprocess.Process) -> None:
    """Not for ever: a tool that is stuck in the kernel does not end; another one may do well."""
    try:
        async with asyncio.timeout(END_SECONDS):
            await process.wait()
    except TimeoutError:
        logger.error("drbdsetup events2 (pid %d) does not end; another is started", process.pid)


def _kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to the tool's group: drbdsetup may run the drbdsetup of another version."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
