"""An API server in memory: versions, compare-and-swap, finalizers and watches, nothing else."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import Any

from twinvault_core.errors import AlreadyExistsError, NotFoundError, UnavailableError
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import Kind

Json = dict[str, Any]


def merge(target: Json, patch: Mapping[str, Any]) -> None:
    """JSON merge patch (RFC 7386) in place."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, Mapping):
            child = target.setdefault(key, {})
            merge(child, value)
        else:
            target[key] = copy.deepcopy(value)


class FakeApi:
    """Stands in for KubeClient where a real API server would only make a test slow.

    ``away`` makes every call fail as if the server did not answer; ``lose_swaps`` lets that many
    compare-and-swaps lose against another writer.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {}
        self.away = False
        self.lose_swaps = 0
        self._version = itertools.count(1)
        self._watchers: dict[str, list[asyncio.Queue[tuple[str, Json]]]] = {}

    def put(self, kind: Kind, obj: Json) -> Json:
        """Create or replace without any rule, as a test's set-up does."""
        meta = obj.setdefault("metadata", {})
        meta.setdefault("uid", f"uid-{next(self._version)}")
        meta.setdefault("generation", 1)
        known = meta["name"] in self._of(kind)
        return self._store(kind, obj, "MODIFIED" if known else "ADDED")

    def set_status(self, kind: Kind, name: str, status: Mapping[str, Any]) -> Json:
        obj = copy.deepcopy(self._of(kind)[name])
        merge(obj.setdefault("status", {}), status)
        return self._store(kind, obj, "MODIFIED")

    def remove_finalizers(self, kind: Kind, name: str) -> None:
        obj = copy.deepcopy(self._of(kind)[name])
        obj["metadata"]["finalizers"] = []
        self._store(kind, obj, "MODIFIED")
        if obj["metadata"].get("deletionTimestamp"):
            self._drop(kind, name)

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        self._answer()
        try:
            return copy.deepcopy(self._of(kind)[name])
        except KeyError:
            raise NotFoundError(f"{kind.plural} {name!r} not found") from None

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> tuple[list[Json], str]:
        self._answer()
        return copy.deepcopy(list(self._of(kind).values())), str(next(self._version))

    async def create(
        self, kind: Kind, obj: Mapping[str, Any], namespace: str | None = None
    ) -> Json:
        self._answer()
        name = obj["metadata"]["name"]
        if name in self._of(kind):
            raise AlreadyExistsError(f"{kind.plural} {name!r} already exists")
        return self.put(kind, copy.deepcopy(dict(obj)))

    async def patch(
        self,
        kind: Kind,
        name: str,
        patch: Mapping[str, Any],
        *,
        namespace: str | None = None,
        resource_version: str = "",
        uid: str = "",
    ) -> Json:
        obj = await self.get(kind, name)
        if resource_version and self.lose_swaps > 0:
            self.lose_swaps -= 1
            self.set_status(kind, name, {})
        current = self._of(kind)[name]["metadata"]
        if resource_version not in ("", current["resourceVersion"]):
            raise ConflictError("the object has been modified")
        if uid not in ("", current["uid"]):
            raise ConflictError("the UID does not match")
        before = copy.deepcopy(obj["spec"])
        merge(obj, patch)
        if obj["spec"] != before:
            obj["metadata"]["generation"] += 1
        return self._store(kind, obj, "MODIFIED")

    async def delete(
        self, kind: Kind, name: str, *, namespace: str | None = None, uid: str = ""
    ) -> None:
        obj = await self.get(kind, name)
        if uid not in ("", obj["metadata"]["uid"]):
            raise ConflictError("the UID does not match")
        obj["metadata"].setdefault("deletionTimestamp", "2026-01-01T00:00:00Z")
        if obj["metadata"].get("finalizers"):
            self._store(kind, obj, "MODIFIED")
        else:
            self._drop(kind, name)

    async def watch(
        self, kind: Kind, resource_version: str, **selectors: Any
    ) -> AsyncIterator[tuple[str, Json]]:
        queue: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()
        self._watchers.setdefault(kind.plural, []).append(queue)
        for obj in self._of(kind).values():
            queue.put_nowait(("MODIFIED", copy.deepcopy(obj)))
        while True:
            yield await queue.get()

    def _of(self, kind: Kind) -> dict[str, Json]:
        return self.objects.setdefault(kind.plural, {})

    def _answer(self) -> None:
        if self.away:
            raise UnavailableError("no answer from the API server")

    def _store(self, kind: Kind, obj: Json, event: str) -> Json:
        obj["metadata"]["resourceVersion"] = str(next(self._version))
        self._of(kind)[obj["metadata"]["name"]] = copy.deepcopy(obj)
        self._tell(kind, event, obj)
        return copy.deepcopy(obj)

    def _drop(self, kind: Kind, name: str) -> None:
        obj = self._of(kind).pop(name)
        obj["metadata"]["resourceVersion"] = str(next(self._version))
        self._tell(kind, "DELETED", obj)

    def _tell(self, kind: Kind, event: str, obj: Json) -> None:
        for queue in self._watchers.get(kind.plural, ()):
            queue.put_nowait((event, copy.deepcopy(obj)))
