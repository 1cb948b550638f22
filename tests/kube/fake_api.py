"""The API server's rules in memory, as a transport of the real client: versions, watches,
finalizers.

A stand-in for unit tests only; tests/api asks a real API server the same questions.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from twinvault_core.errors import UnavailableError
from twinvault_kube.client import KubeClient
from twinvault_kube.transport import Answer, error_of

Json = dict[str, Any]


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _lookup(obj: Json, path: str) -> Any:
    for part in path.split("."):
        obj = obj.get(part, {}) if isinstance(obj, dict) else {}
    return obj


class FakeApi:
    """``objects`` by (collection path, name). ``requests`` is every call as "METHOD path".

    ``down`` True: no connection. ``trouble`` may answer a call in the server's stead.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.requests: list[str] = []
        self.down = False
        self.trouble: Callable[[str, str, Json], tuple[int, str] | None] | None = None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._history: list[tuple[int, str, str, Json]] = []
        self._changed = asyncio.Condition()
        self.forgotten_before = 0

    def client(self) -> KubeClient:
        return KubeClient(self)

    async def close(self) -> None:
        """Of the client; what is stored stays."""

    def writes(self) -> list[str]:
        return [line for line in self.requests if not line.startswith("GET ")]

    async def put(self, collection: str, obj: Json) -> Json:
        """Create or replace as an administrator would, spec and status alike."""
        name = obj["metadata"]["name"]
        known = self.objects.get((collection, name))
        body = copy.deepcopy(obj)
        meta = body["metadata"]
        generation = 1
        if known is None:
            meta.setdefault("uid", f"uid-{next(self._uids)}")
        else:
            meta["uid"] = known["metadata"]["uid"]
            generation = known["metadata"]["generation"] + (known.get("spec") != body.get("spec"))
        meta["generation"] = generation
        return await self._store(collection, body, "ADDED" if known is None else "MODIFIED")

    async def delete(self, collection: str, name: str) -> None:
        known = self.objects[(collection, name)]
        if known["metadata"].get("finalizers"):
            body = copy.deepcopy(known)
            body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            await self._store(collection, body, "MODIFIED")
        else:
            await self._remove(collection, name)

    def forget_history(self) -> None:
        """Watches from older versions are answered 410 from now on."""
        self.forgotten_before = next(self._versions)

    async def _store(self, collection: str, body: Json, event: str) -> Json:
        version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(version)
        meta = body["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            self.objects[(collection, meta["name"])] = body
            await self._remove(collection, meta["name"])
            return body
        self.objects[(collection, meta["name"])] = body
        await self._announce(version, collection, event, body)
        return body

    async def _remove(self, collection: str, name: str) -> None:
        body = copy.deepcopy(self.objects.pop((collection, name)))
        version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(version)
        await self._announce(version, collection, "DELETED", body)

    async def _announce(self, version: int, collection: str, event: str, body: Json) -> None:
        self._history.append((version, collection, event, copy.deepcopy(body)))
        async with self._changed:
            self._changed.notify_all()

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        path, query, sent = self._receive(method, target, body)
        if self.trouble and (answer := self.trouble(method, path, sent)):
            return _status(*answer, "told to")
        status = path.endswith("/status")
        collection, name = self._split(path.removesuffix("/status"))
        return await self._answer(method, collection, name, status, sent, query)

    async def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        path, query, _ = self._receive("GET", target, None)
        if self.trouble and (answer := self.trouble("GET", path, {})):
            raise error_of(_status(*answer, "told to"))
        since = int(query["resourceVersion"])
        if since < self.forgotten_before:
            raise error_of(_status(410, "Expired", "too old"))
        async for line in self._events(path, query, since):
            yield line

    def _receive(self, method: str, target: str, body: bytes | None) -> tuple[str, Json, Json]:
        if self.down:
            raise UnavailableError("no answer from the API server: connection refused")
        parts = urlsplit(target)
        self.requests.append(f"{method} {parts.path}")
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        return parts.path, query, json.loads(body) if body else {}

    def _split(self, path: str) -> tuple[str, str]:
        parts = path.strip("/").split("/")
        names = 3 if parts[0] == "apis" else 2
        if "namespaces" in parts:
            names += 2
        collection = "/" + "/".join(parts[: names + 1])
        return collection, parts[names + 1] if len(parts) > names + 1 else ""

    async def _answer(
        self, method: str, collection: str, name: str, status: bool, body: Json, query: Json
    ) -> Answer:
        if method == "GET" and not name:
            return self._list(collection, query)
        if method == "POST":
            if (collection, body["metadata"]["name"]) in self.objects:
                return _status(409, "AlreadyExists", "it exists")
            return _answer(201, await self.put(collection, body))
        known = self.objects.get((collection, name))
        if known is None:
            return _status(404, "NotFound", f"{name} not found")
        if method == "GET":
            return _answer(200, known)
        if method == "DELETE":
            uid = (body.get("preconditions") or {}).get("uid")
            if uid and uid != known["metadata"]["uid"]:
                return _status(409, "Conflict", "another uid")
            await self.delete(collection, name)
            return _answer(200, {})
        return await self._write(method, collection, known, status, body)

    async def _write(
        self, method: str, collection: str, known: Json, status: bool, body: Json
    ) -> Answer:
        meta = body.get("metadata") or {}
        for guard in ("resourceVersion", "uid"):
            if meta.get(guard) and meta[guard] != known["metadata"].get(guard):
                return _status(409, "Conflict", f"{guard} differs")
        after = merge_patch(known, body) if method == "PATCH" else {**known, **body}
        after["metadata"] = {**known["metadata"], **after["metadata"]}
        kept = "spec" if status else "status"
        if kept in known:
            after[kept] = known[kept]
        else:
            after.pop(kept, None)
        if {**after, "metadata": None} == {**known, "metadata": None} and after["metadata"].get(
            "finalizers"
        ) == known["metadata"].get("finalizers"):
            return _answer(200, known)
        after = copy.deepcopy(after)
        after["metadata"]["generation"] = known["metadata"].get("generation", 1) + (
            after.get("spec") != known.get("spec")
        )
        return _answer(200, await self._store(collection, after, "MODIFIED"))

    def _matches(self, obj: Json, query: Json) -> bool:
        labels = obj["metadata"].get("labels") or {}
        for part in filter(None, query.get("labelSelector", "").split(",")):
            key, _, value = part.partition("=")
            if key not in labels or (value and labels[key] != value):
                return False
        for part in filter(None, query.get("fieldSelector", "").split(",")):
            path, _, value = part.partition("=")
            if str(_lookup(obj, path)) != value:
                return False
        return True

    def _list(self, collection: str, query: Json) -> Answer:
        items = [
            obj
            for (where, _), obj in sorted(self.objects.items())
            if where == collection and self._matches(obj, query)
        ]
        version = str(next(self._versions))
        return _answer(200, {"items": items, "metadata": {"resourceVersion": version}})

    async def _events(self, collection: str, query: Json, since: int) -> AsyncGenerator[bytes]:
        position = 0
        while not self.down:
            while position < len(self._history):
                version, where, event, obj = self._history[position]
                position += 1
                if version > since and where == collection and self._matches(obj, query):
                    yield json.dumps({"type": event, "object": obj}).encode() + b"\n"
            async with self._changed:
                if position == len(self._history) and not self.down:
                    await self._changed.wait()
        raise UnavailableError("no answer from the API server: connection lost")

    async def set_down(self, down: bool) -> None:
        self.down = down
        async with self._changed:
            self._changed.notify_all()


def _answer(code: int, body: Json) -> Answer:
    return Answer(code, "", json.dumps(body).encode())


def _status(code: int, reason: str, message: str) -> Answer:
    return _answer(code, {"reason": reason, "message": message, "code": code})
