"""Which agents are alive, from their Leases as this process sees them change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from twinvault_core.ids import node_lease_name
from twinvault_kube.client import Json

DEFAULT_DURATION_SECONDS = 10.0


class AgentState(StrEnum):
    ALIVE = "Alive"
    UNKNOWN = "Unknown"
    """Not heard of yet, but not for as long as its Lease lasts either."""
    SILENT = "Silent"


@dataclass
class _Seen:
    version: str
    at: float
    renewed: bool
    duration_seconds: float
    renew_time: str


class Liveness:
    """No clock of another machine is compared: only the time since we saw a change counts.

    After a silence of our own (start, new leader, API server away) call ``restart``: what we did
    not hear in that time says nothing about the agents.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}
        self._started = monotonic()
        self._last: dict[str, AgentState] = {}

    def observe(self, lease_name: str, lease: Json | None) -> None:
        """Feed every version of a Lease; None when it is gone."""
        if lease is None:
            self._seen.pop(lease_name, None)
            return
        version, spec = str(lease["metadata"]["resourceVersion"]), lease.get("spec") or {}
        known = self._seen.get(lease_name)
        if known is not None and known.version == version:
            return
        self._seen[lease_name] = _Seen(
            version,
            self._monotonic(),
            renewed=known is not None,
            duration_seconds=float(spec.get("leaseDurationSeconds") or DEFAULT_DURATION_SECONDS),
            renew_time=str(spec.get("renewTime") or "an unknown time").partition(".")[0],
        )

    def restart(self) -> None:
        """Give every agent its whole duration again."""
        now = self._monotonic()
        self._started = now
        for seen in self._seen.values():
            seen.at, seen.renewed = now, False

    def state(self, node: str) -> AgentState:
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            waited = self._monotonic() - self._started
            return AgentState.UNKNOWN if waited < DEFAULT_DURATION_SECONDS else AgentState.SILENT
        if self._monotonic() - seen.at >= seen.duration_seconds:
            return AgentState.SILENT
        return AgentState.ALIVE if seen.renewed else AgentState.UNKNOWN

    def describe_silence(self, node: str) -> str:
        """Since when, in words that stay the same as long as the silence lasts."""
        seen = self._seen.get(node_lease_name(node))
        if seen is None:
            return "has no agent that ever reported"
        return f"has been silent since {seen.renew_time}Z"

    def find_changes(self, nodes: Iterable[str]) -> list[str]:
        """Nodes whose state differs from the last call."""
        now = {node: self.state(node) for node in nodes}
        changed = [node for node, state in now.items() if self._last.get(node) != state]
        self._last = now
        return sorted(changed)
