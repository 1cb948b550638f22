"""Kubernetes Events: what happened to an object, for ``kubectl describe``. Best effort."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from twinvault_core.errors import AlreadyExistsError, TwinvaultError

from .client import Json, KubeClient
from .kinds import EVENTS

logger = logging.getLogger(__name__)

CLUSTER_EVENT_NAMESPACE = "default"
"""Where Events about cluster-scoped objects live."""
MAX_MESSAGE_CHARACTERS = 1024


@dataclass(frozen=True)
class EventSource:
    component: str
    instance: str


class EventRecorder:
    """Writes one Event object for each distinct (object, reason, message) and counts repeats."""

    def __init__(self, client: KubeClient, source: EventSource) -> None:
        self._client = client
        self._source = source

    async def record(self, obj: Json, reason: str, message: str, *, warning: bool = False) -> None:
        """Never raises for an unreachable API server: an Event is not worth failing for."""
        meta = obj["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = "\0".join((meta.get("uid", ""), reason, message, self._source.component))
        name = f"{meta['name'][:180]}.{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        namespace = meta.get("namespace") or CLUSTER_EVENT_NAMESPACE
        body = self._body(obj, name, reason, message, warning, now)
        try:
            # Most things happen once: a look before each would double the calls.
            await self._client.create(EVENTS, body, namespace)
        except AlreadyExistsError:
            await self._count_again(name, namespace, now)
        except TwinvaultError as error:
            logger.info("event %s of %s not recorded: %s", reason, meta["name"], error.message)

    async def _count_again(self, name: str, namespace: str, now: str) -> None:
        try:
            known = await self._client.get(EVENTS, name, namespace)
            patch = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": now}
            await self._client.patch(EVENTS, name, patch, namespace=namespace)
        except TwinvaultError as error:
            logger.info("event %s not counted again: %s", name, error.message)

    def _body(
        self, obj: Json, name: str, reason: str, message: str, warning: bool, now: str
    ) -> Json:
        meta = obj["metadata"]
        involved = {
            "apiVersion": obj.get("apiVersion", ""),
            "kind": obj.get("kind", ""),
            "name": meta["name"],
            "uid": meta.get("uid", ""),
        }
        if meta.get("namespace"):
            involved["namespace"] = meta["namespace"]
        return {
            "metadata": {
                "name": name,
                "namespace": meta.get("namespace") or CLUSTER_EVENT_NAMESPACE,
            },
            "involvedObject": involved,
            "reason": reason,
            "message": message[:MAX_MESSAGE_CHARACTERS],
            "type": "Warning" if warning else "Normal",
            "source": {"component": self._source.component, "host": self._source.instance},
            "reportingComponent": self._source.component,
            "reportingInstance": self._source.instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
