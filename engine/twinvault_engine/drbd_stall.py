"""Requests that neither end nor fail, although nothing is frozen.

Seen once on 8.4.11: 1. a write is in the kernel  2. the link is lost, I/O freezes  3. the fence
question is answered, I/O goes on, and that one write does not end  4. the peer comes back, and the
handshake waits for the write. DRBD says "Primary, UpToDate" meanwhile. A disk below that answers
nothing, at either node, looks the same from here. DRBD 9 prints no counters, so nothing is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twinvault_core.replication_state import DrbdRole

from .drbd_state import ProcMinor

PATIENCE_SECONDS = 15.0
"""Longer than a request takes on a slow disk, or until the kernel has found its peer lost."""


@dataclass
class Stalls:
    """``look`` is to be fed all of /proc/drbd every few seconds."""

    _since: dict[int, tuple[str, float]] = field(default_factory=dict)

    def look(self, minors: Mapping[int, ProcMinor], now: float) -> frozenset[int]:
        """Minors that stand still at ``now`` (seconds of a clock that never jumps), and have for
        PATIENCE_SECONDS: somebody waits, and no counter has moved.
        """
        waiting = {n: m.counters for n, m in minors.items() if _waits(m)}
        before = self._since
        self._since = {}
        for number, counters in waiting.items():
            known, since = before.get(number, ("", now))
            self._since[number] = (counters, since if known == counters else now)
        return frozenset(
            number for number, (_, since) in self._since.items() if now - since >= PATIENCE_SECONDS
        )


def _waits(minor: ProcMinor) -> bool:
    return minor.role is DrbdRole.PRIMARY and not minor.suspended and minor.pending > 0
