"""The operator's parts alone: stores, ledger, liveness, queue, announcer, probes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tests.operator.model_api import ModelApi, ModelOperator
from twinvault_core.actions import Tell
from twinvault_core.ids import node_lease_name
from twinvault_core.model import Meta, Volume
from twinvault_core.placement import PoolUse
from twinvault_kube import kinds
from twinvault_kube.events import EventRecorder
from twinvault_operator.announcer import MAX_WAITING, REPEAT_SECONDS, Announcer
from twinvault_operator.ledger import Ledger
from twinvault_operator.liveness import AgentState, Liveness
from twinvault_operator.metrics import Metrics
from twinvault_operator.probes import ProbeServer
from twinvault_operator.store import Store
from twinvault_operator.work_queue import Key, WorkQueue


def _volume(version: int, uid: str = "u1", pool: str = "fast") -> dict[str, Any]:
    meta = {"name": "v", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"sizeBytes": 1, "pool": pool}}


@pytest.fixture
def store() -> Store[Volume]:
    return Store(kinds.VOLUMES, Volume.parse, {"pool": lambda v: (v.pool,)})


def _version(store: Store[Volume]) -> str | None:
    value = store.get("v")
    return None if value is None else value.meta.resource_version


def test_an_older_version_never_replaces_a_newer_one(store: Store[Volume]) -> None:
    store.put(_volume(5))
    store.put(_volume(4))
    assert _version(store) == "5"


def test_the_deletion_of_an_earlier_object_does_not_remove_its_successor(
    store: Store[Volume],
) -> None:
    store.put(_volume(5, "u2"))
    store.removed(_volume(3, "u1"))
    assert _version(store) == "5"


def test_a_write_answered_after_its_object_died_does_not_bring_it_back(
    store: Store[Volume],
) -> None:
    store.put(_volume(5))
    store.removed(_volume(7))
    store.put(_volume(6))
    assert _version(store) is None


def test_a_list_removes_what_vanished_unseen_but_nothing_that_is_newer(
    store: Store[Volume],
) -> None:
    store.put(_volume(5))
    store.replace_all([], "4")
    assert _version(store) == "5"
    store.replace_all([], "9")
    assert _version(store) is None


def test_an_index_follows_its_objects(store: Store[Volume]) -> None:
    store.put(_volume(1))
    store.put(_volume(2, pool="slow"))
    assert store.find("pool", "fast") == []
    assert [v.meta.name for v in store.find("pool", "slow")] == ["v"]
    store.removed(_volume(3))
    assert store.find("pool", "slow") == []


def test_an_object_that_cannot_be_read_is_reported_and_passed_over(
    store: Store[Volume], caplog: pytest.LogCaptureFixture
) -> None:
    broken = _volume(1)
    del broken["spec"]["pool"]
    store.put(broken)
    assert _version(store) is None
    assert "cannot be read" in caplog.text


def test_a_promise_counts_once_whoever_tells_of_it() -> None:
    ledger = Ledger()
    ledger.promise("v.n", "n", "fast", 10)
    ledger.promise("v.n", "n", "fast", 10)
    assert ledger.use_of("n") == {"fast": PoolUse(10, 1)}
    ledger.settle("v.n", None)
    assert ledger.use_of("n") == {}


def _lease(version: int) -> dict[str, Any]:
    return {
        "metadata": {"resourceVersion": str(version)},
        "spec": {"leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.0Z"},
    }


def test_an_agent_is_silent_only_after_its_duration_as_seen_from_here() -> None:
    now = [0.0]
    liveness = Liveness(lambda: now[0])
    name = node_lease_name("n")
    assert liveness.state("n") is AgentState.UNKNOWN
    liveness.observe(name, _lease(1))
    assert liveness.state("n") is AgentState.UNKNOWN
    liveness.observe(name, _lease(2))
    assert liveness.state("n") is AgentState.ALIVE
    now[0] = 9.9
    liveness.observe(name, _lease(2))
    assert liveness.state("n") is AgentState.ALIVE
    now[0] = 10.0
    assert liveness.state("n") is AgentState.SILENT
    assert "2026-01-01T00:00:00Z" in liveness.describe_silence("n")


def test_our_own_silence_is_not_held_against_the_agents() -> None:
    now = [0.0]
    liveness = Liveness(lambda: now[0])
    liveness.observe(node_lease_name("n"), _lease(1))
    now[0] = 60.0
    liveness.restart()
    assert liveness.state("n") is AgentState.UNKNOWN
    assert liveness.state("never-seen") is AgentState.UNKNOWN
    now[0] = 70.0
    assert liveness.state("never-seen") is AgentState.SILENT


def test_changes_of_agents_are_told_once() -> None:
    now = [0.0]
    liveness = Liveness(lambda: now[0])
    assert liveness.find_changes(["n"]) == ["n"]
    assert liveness.find_changes(["n"]) == []
    now[0] = 11.0
    assert liveness.find_changes(["n"]) == ["n"]


async def test_a_key_is_never_worked_on_twice_at_once_and_never_forgotten() -> None:
    queue, key = WorkQueue(), Key("Volume", "v")
    running, most, done = 0, 0, 0

    async def handle(_: Key) -> bool:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        if done == 0:
            queue.add(key)
        await asyncio.sleep(0)
        running -= 1
        done += 1
        return True

    tasks = [asyncio.create_task(queue.work(handle)) for _ in range(3)]
    queue.add(key)
    queue.add(key)
    await asyncio.sleep(0)
    await queue.wait_idle(5)
    for task in tasks:
        task.cancel()
    assert (most, done) == (1, 2)


async def test_quiet_comes_only_when_work_has_stayed_away() -> None:
    queue = WorkQueue()
    await queue.wait_quiet(60.0, 5)  # nothing was ever due

    async def handle(_: Key) -> bool:
        return True

    task = asyncio.create_task(queue.work(handle))
    queue.add(Key("Volume", "v"))
    await queue.wait_idle(5)
    quiet = asyncio.create_task(queue.wait_quiet(60.0, 60.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not quiet.done()
    for one in (task, quiet):
        one.cancel()


async def test_a_failure_comes_back_later_and_a_clear_forgets_it() -> None:
    queue, tries = WorkQueue(), 0

    async def handle(_: Key) -> bool:
        nonlocal tries
        tries += 1
        return tries > 1

    task = asyncio.create_task(queue.work(handle))
    queue.add(Key("Volume", "v"))
    async with asyncio.timeout(5):
        while tries < 2:
            await asyncio.sleep(0.01)
    queue.add(Key("Volume", "w"), 60.0)
    queue.clear()
    assert queue.depth == 0
    task.cancel()


class _Recorder:
    def __init__(self) -> None:
        self.written: list[str] = []

    async def record(self, obj: Any, reason: str, message: str, *, warning: bool = False) -> None:
        self.written.append(f"{obj['kind']} {reason} {message}")


async def _no_pause() -> None:
    return


async def test_the_same_event_is_written_once_in_a_while_and_the_queue_is_bounded() -> None:
    now, recorder, metrics = [0.0], _Recorder(), Metrics()
    announcer = Announcer(
        cast(EventRecorder, recorder), metrics, pause=_no_pause, monotonic=lambda: now[0]
    )
    event = Tell("Volume", Meta("v", uid="u"), "Ready", "it is")
    announcer.tell(event)
    announcer.tell(event)
    assert announcer.waiting == 1
    await announcer.write_one()
    now[0] = REPEAT_SECONDS
    announcer.tell(event)
    assert announcer.waiting == 1
    for number in range(MAX_WAITING + 5):
        announcer.tell(Tell("Volume", Meta("v", uid="u"), "R", str(number)))
    assert announcer.waiting == MAX_WAITING
    assert recorder.written == ["Volume Ready it is"]


async def test_probes_answer_and_garbage_is_survived() -> None:
    problem = ["not yet"]
    server = ProbeServer(
        Metrics().registry,
        healthy=lambda: "",
        ready=lambda: problem[0],
        before_scrape=lambda: None,
    )
    port = await server.start(0, "127.0.0.1")

    async def ask(line: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(line + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer

    assert b"503" in await ask(b"GET /readyz HTTP/1.1")
    problem[0] = ""
    assert b"200 OK" in await ask(b"GET /readyz HTTP/1.1")
    assert b"twinvault_operator_leader" in await ask(b"GET /metrics HTTP/1.1")
    assert b"404" in await ask(b"GET / HTTP/1.1")
    assert b"405" in await ask(b"POST /metrics HTTP/1.1")
    assert b"405" in await ask(b"\xff\x00")
    await server.stop()


def test_a_volume_is_kept_while_a_cache_does_not_know_its_replica() -> None:
    """1. A made the replica. 2. B has not heard of it and lets the deleted Volume go. 3. Not so."""
    api, clock = ModelApi(), [0.0]
    meta = {
        "name": "v",
        "finalizers": ["twinvault.io/replicas"],
        "uid": "",
    }
    api.create("volumes", {"metadata": meta, "spec": {"sizeBytes": 4096, "pool": "fast"}})
    uid = api.get("volumes", "v")["metadata"]["uid"]
    api.patch("volumes", "v", {"status": {"placement": {"nodes": ["n"]}}})
    api.delete("volumes", "v")
    stale = ModelOperator(api, clock)
    spec = {
        "volume": "v",
        "volumeUID": uid,
        "nodeName": "n",
        "storageCluster": "east",
        "pool": "fast",
        "sizeBytes": 4096,
    }
    made = {"name": "v.n", "finalizers": ["twinvault.io/data"]}
    api.create("volumereplicas", {"metadata": made, "spec": spec})
    stale.reconcile(Key("Volume", "v"))
    assert ("volumes", "v") in api.objects
    assert stale.world.replicas.get("v.n") is not None
