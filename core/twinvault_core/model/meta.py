"""What every object has: its name, its identity and its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
"""A Kubernetes object as the API server sends it."""


@dataclass(frozen=True)
class Meta:
    name: str
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deleting: bool = False
    finalizers: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    creation_timestamp: str = ""
    namespace: str = ""

    @classmethod
    def parse(cls, obj: Object) -> Meta:
        """From an object's ``metadata``; KeyError when it has no name."""
        meta = obj["metadata"]
        return cls(
            name=meta["name"],
            uid=meta.get("uid") or "",
            resource_version=meta.get("resourceVersion") or "",
            generation=meta.get("generation") or 0,
            deleting=bool(meta.get("deletionTimestamp")),
            finalizers=frozenset(meta.get("finalizers") or ()),
            labels=dict(meta.get("labels") or {}),
            annotations=dict(meta.get("annotations") or {}),
            creation_timestamp=meta.get("creationTimestamp") or "",
            namespace=meta.get("namespace") or "",
        )


def conditions_of(obj: Object) -> tuple[Mapping[str, Any], ...]:
    """``status.conditions`` of an object, as they are."""
    return tuple((obj.get("status") or {}).get("conditions") or ())
