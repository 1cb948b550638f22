"""Leases: leader election, and a node's sign of life. Expiry is counted from when WE saw a change.

No clock of another machine is ever compared with ours: a holder is gone when its Lease has not
changed for its whole duration as measured here by a monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from twinvault_core.errors import AlreadyExistsError, NotFoundError, TwinvaultError

from .client import Json, KubeClient
from .errors import ConflictError
from .kinds import LEASES

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 1.0
"""The first attempt's; twice as long after each that failed, for an API server that is slow."""
RETRY_SECONDS = 0.2
"""After the first failure, twice as long after each further one: what was asked for during an
election in etcd is never answered, and a request after it at once."""
MOST_DOUBLINGS = 8


@dataclass(frozen=True)
class LeaseName:
    namespace: str
    name: str


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaseKeeper:
    """Takes and renews one Lease for ``identity``.

    ``held`` turns false by itself when no renewal was confirmed for ``duration_seconds``, so a
    holder that cannot reach the API server stops before another one may take over.
    """

    def __init__(
        self,
        client: KubeClient,
        lease: LeaseName,
        identity: str,
        *,
        duration_seconds: float,
        renew_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if renew_seconds * 2 > duration_seconds:
            raise ValueError("a Lease must be renewed at least twice within its duration")
        self._client, self._lease, self._identity = client, lease, identity
        self._duration_seconds, self._renew_seconds = duration_seconds, renew_seconds
        self._monotonic = monotonic
        self._confirmed_at: float | None = None
        self._last: Json | None = None
        self._seen: tuple[str, float] | None = None
        self._acquired = asyncio.Event()
        self.failures = 0
        """How many attempts ended in an error, for metrics."""

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since the last confirmed renewal; None before the first."""
        confirmed = self._confirmed_at
        return None if confirmed is None else self._monotonic() - confirmed

    @property
    def held(self) -> bool:
        confirmed = self._confirmed_at
        return confirmed is not None and (self._monotonic() - confirmed < self._duration_seconds)

    async def wait_held(self) -> None:
        """Until this process holds the Lease. A standby waits here for as long as it takes."""
        await self._acquired.wait()

    async def run(self) -> None:
        """Acquire and renew until cancelled; a failed attempt is repeated at the next turn."""
        failed = 0
        while True:
            longest = self._renew_seconds * 2
            try:
                async with asyncio.timeout(min(PATIENCE_SECONDS * 2**failed, longest)):
                    await self.try_once()
            except (TwinvaultError, TimeoutError) as error:
                said = error or "no answer in time"
                logger.warning("Lease %s not renewed: %s", self._lease.name, said)
                self.failures += 1
                await asyncio.sleep(min(RETRY_SECONDS * 2**failed, self._renew_seconds))
                failed = min(failed + 1, MOST_DOUBLINGS)
                continue
            failed = 0
            await asyncio.sleep(self._next_delay())

    def hear(self, lease: Json) -> None:
        """A version that a watch told of: the holder's silence counts from now, and ``run`` tries
        the moment that it has lasted long enough.
        """
        version = str(lease["metadata"]["resourceVersion"])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._monotonic())

    def _next_delay(self) -> float:
        if self.held or self._seen is None:
            return self._renew_seconds
        due = self._seen[1] + self._duration_seconds - self._monotonic()
        return min(self._renew_seconds, due + 0.01) if due > 0 else self._renew_seconds

    async def release(self) -> None:
        """Let the next holder take over at once; only when we still hold it."""
        if not self.held:
            return
        self._confirmed_at = self._last = None
        try:
            current = await self._client.get(LEASES, self._lease.name, self._lease.namespace)
            if current["spec"].get("holderIdentity") == self._identity:
                current["spec"]["holderIdentity"] = ""
                await self._client.replace(LEASES, current, self._lease.namespace)
        except TwinvaultError as error:
            logger.info("Lease %s not released: %s", self._lease.name, error.message)

    async def try_once(self) -> bool:
        """One attempt; whether we hold the Lease after it.

        1. The time is taken BEFORE the request: a renewal counts from when it was asked for.
        2. The write is a compare-and-swap; losing it means another holder was quicker.
        """
        started = self._monotonic()
        # Our own last write is normally still the newest version: one call renews it.
        last, self._last = self._last, None
        try:
            if last is not None and await self._renew(last, started):
                return True
            current = await self._client.get(LEASES, self._lease.name, self._lease.namespace)
            if not self._may_take(current):
                self._lost()
                return False
            return await self._renew(current, started) or self.held
        except NotFoundError:
            return await self._create(started)

    async def _renew(self, current: Json, started: float) -> bool:
        wanted = {**current, "spec": self._spec(current["spec"])}
        try:
            written = await self._client.replace(LEASES, wanted, self._lease.namespace)
        except ConflictError:
            return False
        self._won(started, written)
        return True

    async def _create(self, started: float) -> bool:
        body = {
            "metadata": {"name": self._lease.name, "namespace": self._lease.namespace},
            "spec": self._spec({}),
        }
        try:
            written = await self._client.create(LEASES, body, self._lease.namespace)
        except AlreadyExistsError:
            return False
        self._won(started, written)
        return True

    def _may_take(self, current: Json) -> bool:
        holder = current["spec"].get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        version = str(current["metadata"]["resourceVersion"])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self._monotonic())
            return False
        duration = float(current["spec"].get("leaseDurationSeconds") or self._duration_seconds)
        return self._monotonic() - self._seen[1] >= duration

    def _spec(self, before: Json) -> dict[str, Any]:
        now = _micro_time()
        mine = before.get("holderIdentity") == self._identity
        transitions = int(before.get("leaseTransitions") or 0)
        return {
            **before,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration_seconds)),
            "renewTime": now,
            "acquireTime": before.get("acquireTime") if mine else now,
            "leaseTransitions": transitions if mine or not before else transitions + 1,
        }

    def _won(self, started: float, written: Json) -> None:
        self._last = written
        if not self._acquired.is_set():
            logger.info("holding Lease %s as %s", self._lease.name, self._identity)
        self._confirmed_at = started
        self._acquired.set()

    def _lost(self) -> None:
        if self._confirmed_at is not None:
            logger.error("Lease %s was taken by another holder", self._lease.name)
        self._confirmed_at = None
        self._acquired.clear()


class LeaseWatch:
    """Which holders are alive, from the versions of their Leases as we see them change."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, tuple[str, float]] = {}

    def observe(self, name: str, lease: Json | None) -> None:
        """Feed every version of a Lease; None when it is gone."""
        if lease is None:
            self._seen.pop(name, None)
            return
        version = str(lease["metadata"]["resourceVersion"])
        if self._seen.get(name, ("", 0.0))[0] != version:
            self._seen[name] = (version, self._monotonic())

    def silent_seconds(self, name: str) -> float | None:
        """Seconds since we saw the Lease change; None when it was never seen."""
        seen = self._seen.get(name)
        return None if seen is None else self._monotonic() - seen[1]
