"""A feed keeps a store current through broken watches, and knows what vanished meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

from twinvault_core.errors import UnavailableError
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ExpiredError
from twinvault_operator.feeds import Feed
from twinvault_operator.store import Store


def _node(name: str, version: int) -> Json:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


class _Client:
    """Answers lists and watches from scripts; the last watch never ends."""

    def __init__(self, lists: list[tuple[list[Json], str]], watches: list[list[Any]]) -> None:
        self.lists, self.watches = lists, watches
        self.watched_from: list[str] = []
        self.finished = asyncio.Event()

    async def list(self, kind: kinds.Kind) -> tuple[list[Json], str]:
        return self.lists.pop(0)

    async def watch(self, kind: kinds.Kind, version: str) -> AsyncIterator[tuple[str, Json]]:
        self.watched_from.append(version)
        for step in self.watches.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step
        if not self.watches:
            self.finished.set()
            await asyncio.Event().wait()


async def _run(client: _Client) -> Store[str]:
    store = Store(kinds.NODES, lambda obj: str(obj["metadata"]["resourceVersion"]))
    feed = Feed(cast(KubeClient, client), store)
    task = asyncio.create_task(feed.run())
    async with asyncio.timeout(5):
        await feed.wait_synced()
        await client.finished.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return store


async def test_changes_and_deletions_reach_the_store() -> None:
    events = [
        ("ADDED", _node("b", 11)),
        ("MODIFIED", _node("b", 12)),
        ("DELETED", _node("a", 13)),
        ("BOOKMARK", {"metadata": {"resourceVersion": "14"}}),
    ]
    client = _Client([([_node("a", 5)], "10")], [events, []])
    store = await _run(client)
    assert (store.names(), store.get("b")) == (["b"], "12")
    assert client.watched_from == ["10", "14"]


async def test_a_broken_watch_goes_on_where_it_was() -> None:
    broken = [("ADDED", _node("b", 11)), UnavailableError("cut")]
    client = _Client([([], "10")], [broken, []])
    store = await _run(client)
    assert (store.names(), client.watched_from) == (["b"], ["10", "11"])


async def test_what_vanished_while_the_watch_had_expired_is_gone() -> None:
    lists = [([_node("a", 5), _node("b", 6)], "10"), ([_node("b", 6)], "20")]
    client = _Client(lists, [[ExpiredError("too old")], []])
    store = await _run(client)
    assert (store.names(), client.watched_from) == (["b"], ["10", "20"])
