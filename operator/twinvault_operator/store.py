"""What the operator knows of one kind: parsed objects by name, with indexes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from twinvault_kube.client import Json
from twinvault_kube.kinds import Kind

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REMEMBERED_DEAD = 4096


@dataclass(frozen=True)
class _Entry(Generic[T]):
    uid: str
    version: int
    value: T


class Store(Generic[T]):
    """The newest known version of each object; fed by watches, by lists and by our own writes.

    Three writers may tell of one object in any order, so versions decide:
    1. a version that is not newer than the known one of the same uid is ignored;
    2. an object whose deletion was seen never comes back (its uid is remembered);
    3. a deletion removes only the very object (uid) that it is about.
    """

    def __init__(
        self,
        kind: Kind,
        parse: Callable[[Json], T],
        indexes: Mapping[str, Callable[[T], Iterable[str]]] | None = None,
    ) -> None:
        self.kind = kind
        self._parse = parse
        self._entries: dict[str, _Entry[T]] = {}
        self._dead: OrderedDict[str, None] = OrderedDict()
        self._index_keys = dict(indexes or {})
        self._indexes: dict[str, dict[str, set[str]]] = {name: {} for name in self._index_keys}
        self.on_change: Callable[[str, T | None, T | None], None] = lambda *_: None
        """Called with a name, what the object was and what it is; None stands for "not there"."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> T | None:
        entry = self._entries.get(name)
        return None if entry is None else entry.value

    def names(self) -> list[str]:
        return sorted(self._entries)

    def values(self) -> list[T]:
        """All objects, sorted by name."""
        return [self._entries[name].value for name in sorted(self._entries)]

    def find(self, index: str, key: str) -> list[T]:
        """Objects with that key in the named index, sorted by name."""
        names = self._indexes[index].get(key, ())
        return [self._entries[name].value for name in sorted(names)]

    def knows(self, obj: Mapping[str, Any]) -> bool:
        """Whether this version, a newer one or the end of the object was taken in before."""
        meta = obj["metadata"]
        known = self._entries.get(meta["name"])
        stale = known is not None and int(meta["resourceVersion"]) <= known.version
        return stale or meta.get("uid", "") in self._dead

    def put(self, obj: Mapping[str, Any]) -> None:
        """Take in one version of an object, from wherever it comes."""
        if self.knows(obj):
            return
        meta = obj["metadata"]
        name, uid, version = meta["name"], meta.get("uid", ""), int(meta["resourceVersion"])
        try:
            value = self._parse(dict(obj))
        except (KeyError, ValueError, TypeError) as error:
            logger.error("%s %s cannot be read: %r", self.kind.kind, name, error)
            return
        self._set(name, _Entry(uid, version, value))

    def removed(self, obj: Mapping[str, Any]) -> None:
        """Take in that this very object is gone."""
        meta = obj["metadata"]
        self._forget(meta["name"], meta.get("uid", ""))

    def gone(self, name: str, uid: str) -> None:
        """The API server itself said that it has no object of this name and uid."""
        self._forget(name, uid)

    def replace_all(self, items: Iterable[Mapping[str, Any]], version: str) -> None:
        """Take in a whole list: what it lacks, and is not newer than it, is gone."""
        listed = set()
        for item in items:
            listed.add(item["metadata"]["name"])
            self.put(item)
        for name in self._entries.keys() - listed:
            entry = self._entries[name]
            if entry.version <= int(version):
                self._forget(name, entry.uid)

    def _forget(self, name: str, uid: str) -> None:
        self._dead[uid] = None
        while len(self._dead) > _REMEMBERED_DEAD:
            self._dead.popitem(last=False)
        known = self._entries.get(name)
        if known is not None and known.uid == uid:
            self._set(name, None)

    def _set(self, name: str, entry: _Entry[T] | None) -> None:
        before = self._entries.pop(name, None)
        if before is not None:
            self._unindex(name, before.value)
        if entry is not None:
            self._entries[name] = entry
            for index, keys in self._index_keys.items():
                for key in keys(entry.value):
                    self._indexes[index].setdefault(key, set()).add(name)
        self.on_change(name, before.value if before else None, entry.value if entry else None)

    def _unindex(self, name: str, value: T) -> None:
        for index, keys in self._index_keys.items():
            for key in keys(value):
                names = self._indexes[index].get(key, set())
                names.discard(name)
                if not names:
                    self._indexes[index].pop(key, None)
