"""The API server's rules without a server, and the real operator parts driven step by step.

Everything here is synchronous: a coroutine that never really waits runs to its end at once. So a
test decides in which order two operators with stale caches, agents and users act, and where one
of them is killed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from prometheus_client import CollectorRegistry

from tests.kube.fake_api import merge_patch
from twinvault_core.actions import Tell
from twinvault_core.errors import AlreadyExistsError, NotFoundError
from twinvault_core.ids import node_lease_name
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import Kind
from twinvault_operator.announcer import Announcer
from twinvault_operator.applier import Applier
from twinvault_operator.errors import StaleError
from twinvault_operator.liveness import Liveness
from twinvault_operator.metrics import Metrics
from twinvault_operator.reconciler import Reconciler
from twinvault_operator.triggers import Triggers
from twinvault_operator.work_queue import Key, WorkQueue
from twinvault_operator.world import World

Json = dict[str, Any]
GIB = 1024**3


class KilledError(BaseException):
    """The process ends here; nothing in it may catch this."""


class ModelApi:
    """Objects by (plural, name), versions, generations, finalizers, compare-and-swap."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.history: list[tuple[str, str, Json]] = []
        self.on_store: Callable[[str, str, Json], None] = lambda *_: None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def create(self, plural: str, body: Mapping[str, Any]) -> Json:
        obj = copy.deepcopy(dict(body))
        meta = obj["metadata"]
        if (plural, meta["name"]) in self.objects:
            raise AlreadyExistsError(meta["name"])
        meta.update(uid=f"uid-{next(self._uids)}", generation=1)
        meta.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        return self._store(plural, obj, "ADDED")

    def get(self, plural: str, name: str) -> Json:
        try:
            return copy.deepcopy(self.objects[(plural, name)])
        except KeyError:
            raise NotFoundError(name) from None

    def all(self, plural: str) -> list[Json]:
        return [copy.deepcopy(o) for (p, _), o in sorted(self.objects.items()) if p == plural]

    def patch(self, plural: str, name: str, patch: Mapping[str, Any], **guards: str) -> Json:
        before = self.get(plural, name)
        self._check(before, guards)
        after = merge_patch(before, patch)
        after["metadata"] |= {k: before["metadata"][k] for k in ("uid", "resourceVersion")}
        if after == before:
            return before
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] += 1
        return self._store(plural, after, "MODIFIED")

    def delete(self, plural: str, name: str, uid: str = "") -> None:
        obj = self.get(plural, name)
        self._check(obj, {"uid": uid})
        if obj["metadata"].get("deletionTimestamp"):
            return
        obj["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
        self._store(plural, obj, "MODIFIED")

    def _check(self, obj: Json, guards: Mapping[str, str]) -> None:
        for key, field in (("resource_version", "resourceVersion"), ("uid", "uid")):
            if guards.get(key) and guards[key] != obj["metadata"][field]:
                raise ConflictError(f"{field} differs")

    def _store(self, plural: str, obj: Json, event: str) -> Json:
        meta = obj["metadata"]
        meta["resourceVersion"] = str(next(self._versions))
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self.objects.pop((plural, meta["name"]), None)
            event = "DELETED"
        else:
            self.objects[(plural, meta["name"])] = obj
        self.history.append((plural, event, copy.deepcopy(obj)))
        self.on_store(plural, event, obj)
        return copy.deepcopy(obj)


class _Pause:
    """One moment in which everybody else may act."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@dataclass
class ModelClient:
    """What the applier calls, over a ModelApi.

    ``kill_at``: how many writes still succeed; the next one is done, but the process dies before
    it hears of it. ``slow``: each request waits until the test lets it go on.
    """

    api: ModelApi
    kill_at: int | None = None
    slow: bool = False

    async def _travel(self) -> None:
        if self.slow:
            await _Pause()

    def _fuse(self) -> bool:
        if self.kill_at is None:
            return False
        self.kill_at -= 1
        return self.kill_at < 0

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        await self._travel()
        return self.api.get(kind.plural, name)

    async def list(self, kind: Kind) -> tuple[list[Json], str]:
        await self._travel()
        return self.api.all(kind.plural), ""

    async def create(self, kind: Kind, body: Json, namespace: str | None = None) -> Json:
        await self._travel()
        return self._end(self.api.create(kind.plural, body))

    async def patch(self, kind: Kind, name: str, patch: Json, **guards: str) -> Json:
        await self._travel()
        return self._end(self.api.patch(kind.plural, name, patch, **guards))

    async def patch_status(self, kind: Kind, name: str, status: Json, **guards: str) -> Json:
        await self._travel()
        return self._end(self.api.patch(kind.plural, name, {"status": status}, **guards))

    async def delete(
        self, kind: Kind, name: str, *, namespace: str | None = None, uid: str = ""
    ) -> None:
        await self._travel()
        self.api.delete(kind.plural, name, uid)
        self._end({})

    def _end(self, answer: Json) -> Json:
        if self._fuse():
            raise KilledError
        return answer


class _Queue(WorkQueue):
    """Remembers what is due; the test takes the keys when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.due: set[Key] = set()

    def add(self, key: Key, delay_seconds: float = 0.0) -> None:
        self.due.add(key)


class _Announcer:
    def __init__(self) -> None:
        self.told: list[Tell] = []

    def tell(self, event: Tell) -> None:
        self.told.append(event)


class ModelOperator:
    """The real world, triggers, reconciler and applier over a ModelApi."""

    def __init__(self, api: ModelApi, clock: list[float]) -> None:
        self.api, self._clock = api, clock
        self.client = ModelClient(api)
        self.liveness = Liveness(lambda: clock[0])
        self.world = World(self.liveness)
        self.queue = _Queue()
        self.triggers = Triggers(self.world, self.queue)
        self.announcer = _Announcer()
        self.position = 0
        self.in_flight: dict[Key, Coroutine[Any, Any, bool]] = {}
        metrics = Metrics()
        assert isinstance(metrics.registry, CollectorRegistry)
        applier = Applier(
            cast(KubeClient, self.client),
            self.world,
            cast(Announcer, self.announcer),
            metrics,
            lambda: True,
        )
        self.reconciler = Reconciler(self.world, self.queue, self.triggers, applier, metrics)
        self._by_plural = {s.kind.plural: s for s in self.world.stores.values()}
        self.list_everything()

    def list_everything(self) -> None:
        """What a start does."""
        version = str(
            max((int(o["metadata"]["resourceVersion"]) for *_, o in self.api.history), default=0)
        )
        for plural, store in self._by_plural.items():
            store.replace_all(self.api.all(plural), version)
        for lease in self.api.all("leases"):
            self.world.numbers.observe(lease["metadata"]["name"], lease)
        self.position = len(self.api.history)
        self.triggers.add_everything()

    def deliver(self, count: int | None = None) -> None:
        """The next ``count`` watch events, or all."""
        end = len(self.api.history) if count is None else self.position + count
        for plural, event, obj in self.api.history[self.position : end]:
            store = self._by_plural.get(plural)
            if store is not None:
                store.removed(obj) if event == "DELETED" else store.put(obj)
            if plural == "leases":
                gone = event == "DELETED"
                self.world.numbers.observe(obj["metadata"]["name"], None if gone else obj)
        self.position = min(end, len(self.api.history))

    def hear_anything(self) -> None:
        """The API server answers, whoever else is silent."""
        self.liveness.contact()

    def hear(self, node: str, version: int) -> None:
        meta = {"resourceVersion": str(version)}
        lease = {"metadata": meta, "spec": {"leaseDurationSeconds": 10, "renewTime": "then."}}
        self.liveness.observe(node_lease_name(node), lease)

    def reconcile(self, key: Key, kill_at: int | None = None) -> None:
        """One key to its end; KilledError when the fuse blows."""
        while not self.step(key, kill_at=kill_at):
            continue

    def step(self, key: Key, *, slow: bool = False, kill_at: int | None = None) -> bool:
        """One key up to its next request, when ``slow``; whether it came to its end."""
        self.client.kill_at, self.client.slow = kill_at, slow
        coroutine = self.in_flight.pop(key, None)
        if coroutine is None:
            self.queue.due.discard(key)
            coroutine = self.reconciler.handle(key)
        try:
            coroutine.send(None)
        except StopIteration as end:
            if not end.value:
                raise AssertionError(f"{key} failed: a bug in the operator") from None
            return True
        self.in_flight[key] = coroutine
        return False

    def close(self) -> None:
        for coroutine in self.in_flight.values():
            coroutine.close()
        self.in_flight.clear()

    def settle(self) -> None:
        """Reconcile what is due until nothing is; AssertionError when it never ends."""
        for _ in range(400):
            self.deliver()
            self.queue.due.update(self.in_flight)
            if not self.queue.due:
                return
            self.reconcile(min(self.queue.due))
        raise AssertionError(f"it never ends: {sorted(self.queue.due)}")


__all__ = ["GIB", "KilledError", "ModelApi", "ModelClient", "ModelOperator", "StaleError"]
