"""The state directory: whose it is, and one `up` or `down` at a time."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.lab.config import Settings

_MARKER = ".twinvault-lab"


class StateError(Exception):
    """The state directory is in use or is not the lab's."""


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Hold the lab; StateError when another `up` or `down` does."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    with (settings.cache / "lab.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError("another `up` or `down` is at work: wait until it ends") from None
        yield


def claim_state(settings: Settings) -> None:
    """Make the state directory and mark it as the lab's, so that `down` may remove it."""
    state = settings.state
    if state.is_dir() and any(state.iterdir()) and not (state / _MARKER).exists():
        raise StateError(f"{state} holds something else: set TWINVAULT_LAB to another directory")
    state.mkdir(parents=True, exist_ok=True)
    (state / _MARKER).touch()


def is_claimed(settings: Settings) -> bool:
    return (settings.state / _MARKER).exists()


def remove_state(settings: Settings) -> None:
    """Remove the directory; refused while anything is mounted below it."""
    if not is_claimed(settings):
        return
    mounts = observe_mounts(settings.state)
    if mounts:
        raise StateError(f"still mounted: {', '.join(map(str, mounts))}; unmount and try again")
    shutil.rmtree(settings.state)


def observe_mounts(directory: Path) -> list[Path]:
    """Mount points at or below a directory, the deepest first."""
    prefix = f"{directory.resolve()}/"
    points = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    # The kernel writes blanks and such as octal escapes.
    plain = [point.encode().decode("unicode_escape") for point in points]
    inside = [point for point in plain if f"{point}/".startswith(prefix)]
    return [Path(point) for point in sorted(inside, key=len, reverse=True)]
