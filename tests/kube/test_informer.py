"""An informer's store follows the API server through every kind of trouble."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.kube.fake_api import FakeApi
from twinvault_core.errors import DeadlineError
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import VOLUMES

PATH = VOLUMES.path()


def volume(name: str, pool: str = "fast", **meta: object) -> Json:
    return {"metadata": {"name": name, **meta}, "spec": {"pool": pool}}


@contextlib.asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[Informer]:
    task = asyncio.ensure_future(informer.run())
    try:
        await informer.wait_synced(5)
        yield informer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_it_sees_what_is_there_and_what_comes_and_goes(
    api: FakeApi, client: KubeClient
) -> None:
    await api.put(PATH, volume("a"))
    seen: list[tuple[str, bool]] = []
    informer = Informer(
        client,
        VOLUMES,
        on_change=lambda name, obj: seen.append((name, obj is not None)),
        index={"pool": lambda obj: str(obj["spec"]["pool"])},
    )
    async with running(informer):
        await api.put(PATH, volume("b", pool="slow"))
        await informer.wait_for("b", lambda obj: obj is not None, 5, "b")
        assert [o["metadata"]["name"] for o in informer.find("pool", "slow")] == ["b"]
        await api.delete(PATH, "a")
        await informer.wait_for("a", lambda obj: obj is None, 5, "a to go")
    assert seen == [("a", True), ("b", True), ("a", False)]
    assert informer.find("pool", "fast") == []


async def test_selectors_are_the_servers_work(api: FakeApi, client: KubeClient) -> None:
    await api.put(PATH, volume("a", labels={"mine": "true"}))
    await api.put(PATH, volume("b"))
    informer = Informer(client, VOLUMES, labels="mine")
    async with running(informer):
        await api.put(PATH, volume("c"))
        await api.put(PATH, volume("d", labels={"mine": "true"}))
        await informer.wait_for("d", lambda obj: obj is not None, 5, "d")
    assert sorted(informer.store) == ["a", "d"]


async def test_what_was_missed_while_the_server_was_away_is_seen_afterwards(
    api: FakeApi, client: KubeClient
) -> None:
    await api.put(PATH, volume("old"))
    informer = Informer(client, VOLUMES)
    async with running(informer):
        await api.set_down(True)
        await api.delete(PATH, "old")
        await api.put(PATH, volume("new"))
        await asyncio.sleep(0.05)
        assert "old" in informer.store
        await api.set_down(False)
        await informer.wait_for("new", lambda obj: obj is not None, 5, "new")
        assert "old" not in informer.store


async def test_a_version_that_is_gone_is_listed_again(api: FakeApi, client: KubeClient) -> None:
    await api.put(PATH, volume("old"))
    informer = Informer(client, VOLUMES)
    async with running(informer):
        await api.set_down(True)
        await api.delete(PATH, "old")
        await api.put(PATH, volume("new"))
        api.forget_history()
        await api.set_down(False)
        await informer.wait_for("old", lambda obj: obj is None, 5, "old to go")
        assert "new" in informer.store


async def test_an_answer_of_a_write_counts_before_the_watch_tells(client: KubeClient) -> None:
    informer = Informer(client, VOLUMES)
    newer = volume("a", resourceVersion="7", uid="u")
    older = volume("a", resourceVersion="5", uid="u")
    informer.saw(newer)
    informer.saw(older)
    assert informer.store["a"] is newer


async def test_a_dead_object_is_not_brought_back_by_a_late_answer(client: KubeClient) -> None:
    informer = Informer(client, VOLUMES)
    informer.saw(volume("a", resourceVersion="7", uid="u", deletionTimestamp="now"))
    assert "a" not in informer.store


async def test_waiting_says_what_it_waited_for(client: KubeClient) -> None:
    informer = Informer(client, VOLUMES)
    with pytest.raises(DeadlineError, match="the moon"):
        await informer.wait_for("a", lambda obj: obj is not None, 0.01, "the moon")
    with pytest.raises(DeadlineError, match="volumes"):
        await informer.wait_synced(0.01)
