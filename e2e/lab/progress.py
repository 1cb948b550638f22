"""Lines that tell a person what the lab is doing, and waits that end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

_print_lock = threading.Lock()
_interrupted = threading.Event()


class WaitError(Exception):
    """Something did not become true in time; the message says what."""


def say(text: str) -> None:
    """Print one line at once, whole, from any thread."""
    with _print_lock:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say how long the block took, or that it failed."""
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  FAILED {what} after {time.monotonic() - begun:.1f} s")
        raise
    say(f"  {what}: {time.monotonic() - begun:.1f} s")


def wait_until(
    what: str,
    condition: Callable[[], bool],
    *,
    timeout_seconds: float,
    interval_seconds: float = 0.2,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Ask ``condition`` until it holds.

    Raises WaitError naming ``what`` and the text of ``explain`` (say, the tail of
    the log that tells why) after ``timeout_seconds``.
    """
    begun = time.monotonic()
    said = 0.0
    while not condition():
        waited = time.monotonic() - begun
        if waited > timeout_seconds:
            why = explain()
            raise WaitError(
                f"gave up waiting for {what} after {timeout_seconds:g} s" + (f"\n{why}" * bool(why))
            )
        if waited - said > 15:
            said = waited
            say(f"  ... waiting for {what} ({waited:.0f} of {timeout_seconds:g} s)")
        if _interrupted.wait(interval_seconds):
            raise WaitError(f"interrupted while waiting for {what}")


def together(actions: Iterable[Callable[[], object]]) -> None:
    """Run the actions at the same time; raise the first error once all have ended.

    When a person interrupts, waits in the other threads end too.
    """
    with ThreadPoolExecutor(max_workers=16) as pool:
        futures: list[Future[object]] = [pool.submit(action) for action in actions]
        try:
            wait(futures)
        except BaseException:
            _interrupted.set()
            raise
    for future in futures:
        future.result()
