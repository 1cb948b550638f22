"""One call at a time for each volume or snapshot; a second one is told to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twinvault_core.errors import BusyError


class InFlight:
    """Keys that a call is working on. Used by one event loop only, so it needs no lock itself."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    @contextmanager
    def hold(self, key: str, operation: str) -> Iterator[None]:
        """Hold ``key`` for ``operation``; BusyError at once while another call holds it."""
        if key in self._keys:
            raise BusyError(f"{self._keys[key]} of {key} is in flight; try again when it is done")
        self._keys[key] = operation
        try:
            yield
        finally:
            del self._keys[key]
