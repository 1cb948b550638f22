"""For how long the operator's word that a resync must wait counts."""

from __future__ import annotations

import time
from collections.abc import Callable

from twinvault_core.model import VolumeReplica

PATIENCE_SECONDS = 900.0
"""Three times as long as the operator waits until it says so anew."""


class Holds:
    """A hold that is not said anew is over: an operator that is gone must not keep a volume with
    one replica. That the word changes is what counts, never the time that is written in it, and
    only this process's clock measures. Any thread.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._heard: dict[str, tuple[str, float]] = {}

    def counts(self, replica: VolumeReplica) -> bool:
        """Whether a resync of it must wait now."""
        word = replica.replication.resync_hold if replica.replication is not None else ""
        if not word:
            self._heard.pop(replica.volume, None)
            return False
        now = self._monotonic()
        known = self._heard.get(replica.volume)
        if known is None or known[0] != word:
            known = self._heard[replica.volume] = (word, now)
        return now - known[1] < PATIENCE_SECONDS

    def forget(self, volume_id: str) -> None:
        self._heard.pop(volume_id, None)
