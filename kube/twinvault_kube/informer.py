"""A local copy of one kind, kept current by list and watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from twinvault_core.errors import DeadlineError, NotFoundError, TwinvaultError, UnavailableError

from .client import Json, KubeClient
from .errors import ExpiredError
from .kinds import Kind

logger = logging.getLogger(__name__)

OnChange = Callable[[str, Json | None], None]
"""Called with an object's name and what it is now; None when it is gone."""


@dataclass
class Backoff:
    """Delays between failed attempts in seconds: doubles up to ``most_seconds``."""

    least_seconds: float = 0.2
    most_seconds: float = 5.0
    _next: float = field(default=0.0, init=False)

    def next_seconds(self) -> float:
        self._next = min(self.most_seconds, max(self.least_seconds, self._next * 2))
        return self._next

    def reset(self) -> None:
        self._next = 0.0


class Informer:
    """``store`` holds the newest known object by name; ``on_change`` hears of every difference.

    The store may lag behind the API server; whoever decides on it must write by compare-and-swap.
    """

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        on_change: OnChange | None = None,
        index: Mapping[str, Callable[[Json], str]] | None = None,
    ) -> None:
        self._client = client
        self.kind = kind
        self._namespace, self._labels, self._fields = namespace, labels, fields
        self._on_change = on_change
        self._index_keys = dict(index or {})
        self._indexes: dict[str, dict[str, set[str]]] = {name: {} for name in self._index_keys}
        self._version = ""
        self._synced = asyncio.Event()
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self.store: dict[str, Json] = {}

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    async def wait_synced(self, timeout_seconds: float) -> None:
        """Until the first list is in the store; DeadlineError says which kind was waited for."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._synced.wait()
        except TimeoutError:
            raise DeadlineError(
                f"no list of {self.kind.plural} from the API server within {timeout_seconds} s;"
                " check that it is reachable and that the CRDs and roles are installed"
            ) from None

    def find(self, index: str, value: str) -> list[Json]:
        """Objects whose key of the named index is ``value``, sorted by name."""
        return [self.store[name] for name in sorted(self._indexes[index].get(value, ()))]

    async def wait_for(
        self, name: str, done: Callable[[Json | None], bool], timeout_seconds: float, what: str
    ) -> Json | None:
        """The object ``name`` as soon as ``done`` holds of it (None stands for "gone").

        DeadlineError that says ``what`` was waited for.
        """
        changed = asyncio.Event()
        self._waiters.setdefault(name, set()).add(changed)
        try:
            async with asyncio.timeout(timeout_seconds):
                while not done(self.store.get(name)):
                    changed.clear()
                    await changed.wait()
                return self.store.get(name)
        except TimeoutError:
            raise DeadlineError(f"waited {timeout_seconds:g} s for {what}") from None
        finally:
            self._waiters[name].discard(changed)
            if not self._waiters[name]:
                del self._waiters[name]

    def saw(self, obj: Json) -> None:
        """Put in what a write answered, so that the next decision does not read an older state.

        1. A write takes the last finalizer away; the API server deletes the object.
        2. The watch tells us DELETED before the write's answer is handled here.
        3. Putting the answer in would bring a dead object back: so one that is being deleted is
           only taken where the store still has it.
        """
        current = self.store.get(obj["metadata"]["name"])
        if current is None and obj["metadata"].get("deletionTimestamp"):
            return
        if current is None or _is_newer(obj, current):
            self._put(obj)

    async def run(self) -> None:
        """List and watch until cancelled; every failure is logged once and retried."""
        backoff = Backoff()
        while True:
            try:
                if not self._version:
                    await self._relist()
                    backoff.reset()
                await self._watch(backoff)
            except ExpiredError:
                self._version = ""
            except (UnavailableError, NotFoundError) as error:
                delay = backoff.next_seconds()
                logger.warning(
                    "%s: %s; trying again in %.1f s", self.kind.plural, error.message, delay
                )
                await asyncio.sleep(delay)
            except TwinvaultError as error:
                self._version = ""
                logger.error("%s: %s; listing again", self.kind.plural, error.message)
                await asyncio.sleep(backoff.next_seconds())

    async def _relist(self) -> None:
        items, version = await self._client.list(
            self.kind, namespace=self._namespace, labels=self._labels, fields=self._fields
        )
        fresh = {item["metadata"]["name"]: item for item in items}
        for name in self.store.keys() - fresh.keys():
            self._remove(name)
        for item in fresh.values():
            self._put(item)
        self._version = version
        self._synced.set()

    async def _watch(self, backoff: Backoff) -> None:
        async for event, obj in self._client.watch(
            self.kind,
            self._version,
            namespace=self._namespace,
            labels=self._labels,
            fields=self._fields,
        ):
            if event == "DELETED":
                self._remove(obj["metadata"]["name"])
            elif event != "BOOKMARK":
                self._put(obj)
            self._version = obj["metadata"]["resourceVersion"]
            backoff.reset()

    def _put(self, obj: Json) -> None:
        name = obj["metadata"]["name"]
        before = self.store.get(name)
        if before is not None:
            if not _is_newer(obj, before):
                return
            self._unindex(name, before)
        self.store[name] = obj
        for index, key in self._index_keys.items():
            self._indexes[index].setdefault(key(obj), set()).add(name)
        self._tell(name, obj)

    def _remove(self, name: str) -> None:
        before = self.store.pop(name, None)
        if before is not None:
            self._unindex(name, before)
            self._tell(name, None)

    def _unindex(self, name: str, obj: Json) -> None:
        for index, key in self._index_keys.items():
            names = self._indexes[index].get(key(obj), set())
            names.discard(name)
            if not names:
                self._indexes[index].pop(key(obj), None)

    def _tell(self, name: str, obj: Json | None) -> None:
        for waiter in self._waiters.get(name, ()):
            waiter.set()
        if self._on_change is not None:
            self._on_change(name, obj)


def _is_newer(candidate: Json, current: Json) -> bool:
    """Versions of one etcd are numbers that grow (stable API guarantee since Kubernetes 1.35)."""
    if candidate["metadata"].get("uid") != current["metadata"].get("uid"):
        return True
    return int(candidate["metadata"]["resourceVersion"]) > int(
        current["metadata"]["resourceVersion"]
    )


async def run_informers(informers: Iterable[Informer]) -> None:
    """Run all of them until cancelled."""
    async with asyncio.TaskGroup() as group:
        for informer in informers:
            group.create_task(informer.run())
