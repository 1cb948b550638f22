"""The one place that runs other programs.

Argument lists only, never a shell line; a deadline that ends the whole process group; C locale;
failures classified once.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from twinvault_core.errors import ErrorCode, TwinvaultError

logger = logging.getLogger(__name__)

KILL_GRACE_SECONDS = 2.0
_OUTPUT_IN_MESSAGE = 600
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failure(StrEnum):
    """Why a program failed, as far as callers need to tell."""

    MISSING = "missing"
    TIMEOUT = "timeout"
    NO_SPACE = "no-space"
    BUSY = "busy"
    NO_DEVICE = "no-device"
    OTHER = "other"


_CODES: Mapping[Failure, ErrorCode] = {
    Failure.MISSING: ErrorCode.FAILED_PRECONDITION,
    Failure.TIMEOUT: ErrorCode.TIMEOUT,
    Failure.NO_SPACE: ErrorCode.NO_SPACE,
    Failure.BUSY: ErrorCode.BUSY,
    Failure.NO_DEVICE: ErrorCode.NOT_FOUND,
    Failure.OTHER: ErrorCode.INTERNAL,
}

_PATTERNS: tuple[tuple[Failure, re.Pattern[str]], ...] = (
    (Failure.NO_SPACE, re.compile(r"no space left on device|disk quota exceeded", re.I)),
    (Failure.BUSY, re.compile(r"device or resource busy|target is busy|is mounted|in use", re.I)),
    (Failure.NO_DEVICE, re.compile(r"no such file or directory|no such device", re.I)),
)


@dataclass(frozen=True)
class Output:
    """What a program said. ``returncode`` is 0 unless ``accept`` allowed others."""

    stdout: str
    stderr: str
    returncode: int = 0


class CommandError(TwinvaultError):
    """A program failed; ``failure`` is the class, ``returncode`` is None if it never ended."""

    def __init__(
        self, argv: Sequence[str], failure: Failure, message: str, returncode: int | None = None
    ) -> None:
        super().__init__(message, _CODES[failure])
        self.argv = tuple(argv)
        self.failure = failure
        self.returncode = returncode


def classify_failure(text: str) -> Failure:
    """The class of a failure from what the program printed in the C locale."""
    for failure, pattern in _PATTERNS:
        if pattern.search(text):
            return failure
    return Failure.OTHER


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    accept: frozenset[int] = frozenset({0}),
    stdin: str = "",
) -> Output:
    """Run ``argv`` to its end; CommandError when it is missing, late or its status is not accepted.

    At the deadline the program's whole process group is killed.
    """
    begun = time.monotonic()
    process = _start(argv)
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        raise CommandError(
            argv,
            Failure.TIMEOUT,
            f"{argv[0]} did not end within {timeout_seconds:g} s and was killed"
            f" (asked: {' '.join(argv)}); look for a hung device in the node's kernel log",
        ) from None
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%.3f s: %s", time.monotonic() - begun, " ".join(argv))
    if process.returncode in accept:
        return Output(stdout, stderr, process.returncode)
    said = (stderr.strip() or stdout.strip())[-_OUTPUT_IN_MESSAGE:]
    raise CommandError(
        argv,
        classify_failure(said),
        f"{' '.join(argv)} failed with status {process.returncode}: {said or 'it said nothing'}",
        process.returncode,
    )


def start(argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a long-lived helper in a session of its own; the caller ends it."""
    return _start(argv)


def _start(argv: Sequence[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", _PATH)},
        )
    except FileNotFoundError:
        raise CommandError(
            argv, Failure.MISSING, f"{argv[0]} is not installed on this node or in this image"
        ) from None


def _kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL the group; a program stuck in the kernel is left to a thread that reaps it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.communicate(timeout=KILL_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        threading.Thread(target=process.wait, name=f"reap-{process.pid}", daemon=True).start()
