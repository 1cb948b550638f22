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

GONE = {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": []}}


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


class _Clock:
    """Time in which the API server gives a sign of life every second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.liveness = Liveness(lambda: self.now)

    def pass_(self, seconds: float) -> None:
        whole = int(seconds)
        for _ in range(whole):
            self.now += 1
            self.liveness.contact()
        self.now += seconds - whole
        self.liveness.contact()

    def hear(self, version: int) -> None:
        self.liveness.observe(node_lease_name("n"), _lease(version))

    def read(self, version: int, began: float) -> None:
        self.liveness.observe(node_lease_name("n"), _lease(version), read_began=began)


def test_an_agent_is_silent_only_after_its_duration_as_seen_from_here() -> None:
    clock = _Clock()
    liveness = clock.liveness
    assert liveness.state("n") is AgentState.UNKNOWN
    clock.hear(1)
    assert liveness.state("n") is AgentState.UNKNOWN
    clock.hear(2)
    assert liveness.state("n") is AgentState.ALIVE
    clock.pass_(9.5)
    clock.hear(2)
    assert liveness.state("n") is AgentState.ALIVE
    clock.pass_(0.5)
    assert liveness.state("n") is AgentState.SILENT
    assert "2026-01-01T00:00:00Z" in liveness.describe_silence("n")


def test_our_own_silence_is_not_held_against_the_agents() -> None:
    clock = _Clock()
    clock.hear(1)
    clock.hear(2)
    clock.now = 60.0
    assert clock.liveness.state("n") is AgentState.ALIVE
    clock.liveness.contact()
    assert clock.liveness.state("n") is AgentState.ALIVE
    assert clock.liveness.state("never-seen") is AgentState.UNKNOWN
    clock.pass_(1.5)
    assert clock.liveness.state("n") is AgentState.ALIVE
    clock.pass_(1)
    assert clock.liveness.state("n") is AgentState.SILENT
    clock.pass_(10)
    assert clock.liveness.state("never-seen") is AgentState.SILENT


def test_a_failover_needs_a_read_that_began_after_the_duration() -> None:
    clock = _Clock()
    clock.hear(1)
    clock.pass_(5.5)
    assert not clock.liveness.is_expired("n", 5)
    clock.read(1, began=4.9)
    assert not clock.liveness.is_expired("n", 5)
    clock.read(1, began=5.2)
    assert clock.liveness.is_expired("n", 5)
    clock.hear(2)
    assert not clock.liveness.is_expired("n", 5)


def test_a_read_that_was_overtaken_by_the_watch_proves_nothing() -> None:
    clock = _Clock()
    clock.hear(1)
    clock.pass_(6)
    clock.hear(2)
    clock.read(1, began=5.5)
    assert not clock.liveness.is_expired("n", 5)
    assert clock.liveness.next_read("n", 5) == clock.now + 5


def test_after_an_outage_of_the_api_server_an_agent_may_speak_first() -> None:
    clock = _Clock()
    clock.hear(1)
    clock.now = 20.0
    clock.read(1, began=20.0)
    assert not clock.liveness.is_expired("n", 5)
    assert clock.liveness.next_read("n", 5) == 22.0
    clock.pass_(2)
    clock.read(1, began=22.0)
    assert clock.liveness.is_expired("n", 5)


def test_a_returned_node_is_well_only_since_its_gap() -> None:
    clock = _Clock()
    clock.hear(1)
    clock.pass_(4)
    clock.hear(2)
    assert clock.liveness.well_seconds("n", 5) == 4.0
    clock.pass_(7)
    assert clock.liveness.well_seconds("n", 5) == 0.0
    clock.hear(3)
    clock.pass_(3)
    assert clock.liveness.well_seconds("n", 5) == 3.0


def test_only_a_change_of_state_is_news() -> None:
    clock = _Clock()
    liveness = clock.liveness
    assert liveness.find_changes(["n"]) == ["n"]
    assert liveness.find_changes(["n"]) == []
    clock.pass_(11)
    assert liveness.find_changes(["n"]) == ["n"]


def test_a_silence_that_a_plan_has_seen_is_news_when_it_ends_however_short() -> None:
    clock = _Clock()
    liveness = clock.liveness
    clock.hear(1)
    clock.hear(2)
    assert liveness.find_changes(["n"]) == ["n"]
    clock.pass_(11)
    assert liveness.state("n") is AgentState.SILENT
    clock.hear(3)
    assert liveness.find_changes(["n"]) == ["n"]
    assert liveness.find_changes(["n"]) == []


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


def _paired_volume(api: ModelApi, name: str = "v") -> None:
    spec = {"sizeBytes": 4096, "pool": "fast", "replicationPair": "metro"}
    api.create("volumes", {"metadata": {"name": name}, "spec": spec})


def _pair(api: ModelApi) -> None:
    meta = {"name": "metro", "finalizers": ["twinvault.io/volumes"]}
    spec = {"clusters": ["east", "west"], "mode": "Sync"}
    api.create("replicationpairs", {"metadata": meta, "spec": spec})


def test_a_pair_is_kept_while_a_cache_does_not_know_its_volume() -> None:
    """1. The pair is deleted. 2. A volume of it is made. 3. An operator that knows only of 1 must
    not let the pair go; without volumes it does.
    """
    api = ModelApi()
    _pair(api)
    api.delete("replicationpairs", "metro")
    stale = ModelOperator(api, [0.0])
    _paired_volume(api)
    stale.reconcile(Key("ReplicationPair", "metro"))
    assert ("replicationpairs", "metro") in api.objects
    assert stale.world.volumes.get("v") is not None
    api.delete("volumes", "v")
    stale.settle()
    assert ("volumes", "v") not in api.objects
    assert ("replicationpairs", "metro") not in api.objects


def test_volumes_are_looked_at_again_when_their_pair_comes_or_goes() -> None:
    api = ModelApi()
    _paired_volume(api)
    operator = ModelOperator(api, [0.0])
    for change in (_pair, lambda api: api.patch("replicationpairs", "metro", GONE)):
        operator.queue.due.clear()
        operator.triggers.waiting.clear()
        change(api)
        operator.deliver()
        assert Key("Volume", "v") in operator.queue.due


def test_a_volume_whose_link_is_down_is_looked_at_again_when_time_has_passed() -> None:
    api = ModelApi()
    spec = {"volume": "v", "volumeUID": "u", "nodeName": "n", "storageCluster": "east"}
    spec |= {"pool": "fast", "sizeBytes": 4096}
    api.create("volumereplicas", {"metadata": {"name": "v.n"}, "spec": spec})
    operator = ModelOperator(api, [0.0])
    for connection, due in (("Connected", False), ("WFConnection", True)):
        status = {"replication": {"connection": connection}}
        api.patch("volumereplicas", "v.n", {"status": status})
        operator.deliver()
        operator.queue.due.clear()
        operator.triggers.add_pairs()
        assert (Key("Volume", "v") in operator.queue.due) is due
