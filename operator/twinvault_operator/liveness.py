"""Which agents are alive, from their Leases as this process sees them change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from twinvault_core.failover_view import LeaseWatch, watch_lease
from twinvault_core.ids import node_lease_name
from twinvault_kube.client import Json

DEFAULT_DURATION_SECONDS = 10.0
DEFAULT_GAP_SECONDS = 5.0
BLIND_SECONDS = 3.0
"""So long without a word from the API server, we were blind: silence of others says nothing."""
CHANCE_SECONDS = 2.0
"""So long after we could see again an agent has had the time to renew its Lease."""


class AgentState(StrEnum):
    ALIVE = "Alive"
    UNKNOWN = "Unknown"
    """Not heard of yet, but not for as long as its Lease lasts either."""
    SILENT = "Silent"


@dataclass
class _Seen:
    watch: LeaseWatch
    duration_seconds: float
    renew_time: str
    renewed: bool = False


class Liveness:
    """No clock of another machine is compared: only the time since we saw a change counts.

    1. Every version of a Lease that the watch tells, or a read answers, is fed in; so is every
       other word from the API server (``contact``).
    2. After a time without any such word the agents get a chance to speak before one counts as
       silent: it may have been the API server that was away.
    3. A standby listens too, so taking the lead costs no time.
    For a failover that is not enough: ``is_expired`` asks for a read that began after the duration.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._started = self._contact = self._recovered = monotonic()
        self._last: dict[str, AgentState] = {}
        self._told_silent: set[str] = set()
        self.gap_seconds = DEFAULT_GAP_SECONDS
        """A silence of so long ends the time that a node has been well."""

    def observe(
        self, lease_name: str, lease: Json | None, *, read_began: float | None = None
    ) -> None:
        """Feed every version of a Lease; None when it is gone. ``read_began``: of a read by GET;
        without it the version came by the watch.
        """
        self.contact()
        if lease is None:
            self._seen.pop(lease_name, None)
            return
        now = self.monotonic()
        version, spec = str(lease["metadata"]["resourceVersion"]), lease.get("spec") or {}
        known = self._seen.get(lease_name)
        duration = float(spec.get("leaseDurationSeconds") or DEFAULT_DURATION_SECONDS)
        if known is not None and known.watch.renewal == version and read_began is None:
            return
        if known is not None and read_began is not None and _is_older(version, known.watch):
            return
        watch = watch_lease(
            known.watch if known is not None else None,
            version,
            read_began=now if read_began is None else read_began,
            read_ended=now,
            duration_seconds=self.gap_seconds,
        )
        renewed = known is not None and (known.renewed or known.watch.renewal != version)
        told = str(spec.get("renewTime") or "an unknown time").partition(".")[0]
        self._seen[lease_name] = _Seen(watch, duration, told, renewed)

    def contact(self) -> None:
        """The API server gave a sign of life."""
        now = self.monotonic()
        if now - self._contact > BLIND_SECONDS:
            self._recovered = now
        self._contact = now

    def state(self, node: str) -> AgentState:
        """Only time in which we could hear counts."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            waited = self._contact - max(self._started, self._recovered)
            return AgentState.UNKNOWN if waited < DEFAULT_DURATION_SECONDS else AgentState.SILENT
        silent = self._contact - seen.watch.seen_at
        if silent >= seen.duration_seconds and self._had_a_chance(self._contact):
            self._told_silent.add(node)
            return AgentState.SILENT
        return AgentState.ALIVE if seen.renewed else AgentState.UNKNOWN

    def is_expired(self, node: str, duration_seconds: float) -> bool:
        """Whether a read that began later than that proved its silence."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            return False
        return seen.watch.expired(duration_seconds) and self._had_a_chance(seen.watch.read_at)

    def next_read(self, node: str, duration_seconds: float) -> float | None:
        """When (monotonic seconds) a read may prove its silence; None while it was never seen."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            return None
        return max(seen.watch.seen_at + duration_seconds, self._recovered + CHANCE_SECONDS)

    def read_age(self, node: str) -> float:
        """Seconds since a read, or the watch, last told of the Lease."""
        seen = self._seen.get(node_lease_name(node))
        return float("inf") if seen is None else self.monotonic() - seen.watch.read_at

    def silent_seconds(self, node: str) -> float:
        seen = self._seen.get(node_lease_name(node))
        return 0.0 if seen is None else self.monotonic() - seen.watch.seen_at

    def well_seconds(self, node: str, duration_seconds: float) -> float:
        """For how long we have seen it renewed without a gap."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None or self.monotonic() - seen.watch.seen_at >= duration_seconds:
            return 0.0
        return self.monotonic() - seen.watch.well_since

    def describe_silence(self, node: str) -> str:
        """Since when, in words that stay the same as long as the silence lasts."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            return "has no agent that ever reported"
        return f"has been silent since {seen.renew_time}Z"

    def find_changes(self, nodes: Iterable[str]) -> list[str]:
        """Nodes whose state differs from the last call, or from what ``state`` told since.

        1. An agent falls silent between two calls; a plan is made from that, and written.
        2. The agent speaks again before the next call, which finds it as it was.
        3. Its volumes must be planned again all the same: what was written is wrong by now.
        """
        told, self._told_silent = self._told_silent, set()
        now = {node: self.state(node) for node in nodes}
        changed = [
            node
            for node, state in now.items()
            if self._last.get(node) != state or (node in told and state is not AgentState.SILENT)
        ]
        self._last = now
        return sorted(changed)

    def _had_a_chance(self, at: float) -> bool:
        """Not right after we could not see."""
        first = self._recovered == self._started
        return first or at - self._recovered >= CHANCE_SECONDS


def _is_older(version: str, watch: LeaseWatch) -> bool:
    """A read may be answered after the watch told of a newer version."""
    return int(version) < int(watch.renewal)
