"""Other ways to the API server, for the few calls that must not wait for one that hangs.

A cluster has an API server at each location, and one address in front of them. When a link between
locations is cut, the API server whose etcd member lost the majority takes requests and answers
none; whatever stands in front of it needs seconds to notice. A Lease runs out in that time, and
writes stay frozen. So a call that has no answer after ``PATIENCE_SECONDS`` is made once more, at
another API server, while the first one is still open. The first answer counts.

Only reads and compare-and-swaps are made twice: of a compare-and-swap at most one copy can win, a
late copy finds that the version has moved, and who hears of a conflict reads again anyway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec

from twinvault_core.errors import UnavailableError

from .config import Config
from .transport import Answer, HttpTransport, Transport

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.3
"""Longer than an answer takes in a busy cluster, far shorter than a Lease lasts."""
PREFER_SECONDS = 10.0
"""So long after another one had to answer it is asked first."""
LEARN_SECONDS = 30.0
SERVER_NAME = "kubernetes.default.svc"
"""In the certificate of every API server, whatever address it is reached by."""
_ENDPOINTS = (
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    "?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes"
)

Dial = Callable[[str], Transport]


class SpareTransport:
    """``dial`` opens a way to ``https://ADDRESS:PORT``. The usual way is ``first``.

    Which API servers there are is read again every LEARN_SECONDS from their EndpointSlices; what
    was known last stays in use when that fails.
    """

    def __init__(
        self, first: Transport, dial: Dial, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._first, self._dial, self._monotonic = first, dial, monotonic
        self._spares: dict[str, Transport] = {}
        self._preferred: tuple[Transport, float] | None = None
        self._learned_at: float | None = None
        self._learning: asyncio.Task[None] | None = None

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        self._learn_soon()
        ways = self._order()
        if not repeatable or len(ways) == 1:
            return await ways[0].request(method, target, headers, body)
        way, answer = await _race(
            ways, lambda way: way.request(method, target, headers, body), PATIENCE_SECONDS
        )
        if way is not ways[0]:
            logger.info("no answer from the usual API server: another one did %s", method)
            self._preferred = (way, self._monotonic() + PREFER_SECONDS)
        return answer

    def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        return self._first.stream(target, idle_seconds)

    async def close(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
            with suppress(asyncio.CancelledError):
                await self._learning
        for way in (self._first, *self._spares.values()):
            await way.close()

    def _order(self) -> list[Transport]:
        ways = [self._first, *self._spares.values()]
        if self._preferred is not None:
            way, until = self._preferred
            if way in ways and self._monotonic() < until:
                return [way, *(other for other in ways if other is not way)]
            self._preferred = None
        return ways

    def _learn_soon(self) -> None:
        if self._learning is not None and not self._learning.done():
            return
        learned = self._learned_at
        if learned is None or self._monotonic() - learned >= LEARN_SECONDS:
            self._learned_at = self._monotonic()
            self._learning = asyncio.create_task(self._learn())

    async def _learn(self) -> None:
        try:
            answer = await self._first.request("GET", _ENDPOINTS, {}, None)
        except UnavailableError as error:
            logger.info("the API servers' addresses are not known anew: %s", error.message)
            return
        if answer.status != 200:
            logger.info("the API servers' addresses are not told: HTTP %d", answer.status)
            return
        found = parse_servers(answer.body)
        for server in sorted(self._spares.keys() - found):
            await self._spares.pop(server).close()
        for server in sorted(found - self._spares.keys()):
            self._spares[server] = self._dial(server)


def dial_spares(config: Config, *, user_agent: str, timeout_seconds: float) -> SpareTransport:
    """The service's address first, and each API server's own one after it."""

    def dial(server: str) -> HttpTransport:
        return HttpTransport(
            replace(config, server=server),
            user_agent=user_agent,
            timeout_seconds=timeout_seconds,
            server_name=SERVER_NAME,
        )

    first = HttpTransport(config, user_agent=user_agent, timeout_seconds=timeout_seconds)
    return SpareTransport(first, dial)


def parse_servers(body: bytes) -> set[str]:
    """``https://ADDRESS:PORT`` of every API server in a list of EndpointSlices."""
    found: set[str] = set()
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        slices: Any = msgspec.json.decode(body)
        for one in slices.get("items") or ():
            family = "[{}]" if one.get("addressType") == "IPv6" else "{}"
            for endpoint in one.get("endpoints") or ():
                for port in one.get("ports") or ():
                    for address in endpoint["addresses"]:
                        found.add(f"https://{family.format(address)}:{int(port['port'])}")
    return found


async def _race(
    ways: Sequence[Transport], ask: Callable[[Transport], Any], patience_seconds: float
) -> tuple[Transport, Answer]:
    """The first answer that is one, and who gave it; the others are given up.

    An error, or HTTP 5xx, starts the next way at once; when none is left it is the result.
    """
    left = list(ways)
    running: dict[asyncio.Task[Answer], Transport] = {}
    failure: tuple[Transport, Answer] | None = None
    error: UnavailableError | None = None
    try:
        while left or running:
            if left:
                way = left.pop(0)
                running[asyncio.ensure_future(ask(way))] = way
            done, _ = await asyncio.wait(
                running,
                timeout=patience_seconds if left else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                way = running.pop(task)
                try:
                    answer = task.result()
                except UnavailableError as caught:
                    error = caught
                    continue
                if answer.status < 500:
                    return way, answer
                failure = (way, answer)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.gather(*running, return_exceptions=True)
    if failure is not None:
        return failure
    assert error is not None
    raise error
