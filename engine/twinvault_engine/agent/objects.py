"""Writing what was found into the API: only when it differs, never to another object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from twinvault_core.errors import NotFoundError
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.informer import Informer
from twinvault_kube.kinds import Kind

from .status import differs

logger = logging.getLogger(__name__)


def timestamp() -> str:
    """Now, as Kubernetes writes it: RFC 3339 in UTC to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StatusWriter:
    """Status of one kind whose only writer is this agent."""

    def __init__(
        self, client: KubeClient, kind: Kind, informer: Informer, clock: Callable[[], str]
    ) -> None:
        self._client, self._kind, self._informer = client, kind, informer
        self.clock = clock

    async def write(self, obj: Json, wanted: Mapping[str, Any]) -> Json:
        """The object with ``wanted`` in its status; one call, or none when nothing changes.

        NotFoundError when it is gone, ConflictError when another object has its name now.
        """
        if not differs(obj.get("status") or {}, wanted):
            return obj
        meta = obj["metadata"]
        answer = await self._client.patch_status(self._kind, meta["name"], wanted, uid=meta["uid"])
        self._informer.saw(answer)
        return answer

    async def try_write(self, obj: Json, wanted: Mapping[str, Any]) -> Json | None:
        """As ``write``; None when that object is gone, which is no failure: the watch tells."""
        try:
            return await self.write(obj, wanted)
        except (NotFoundError, ConflictError) as error:
            logger.info(
                "status of %s %s not written: %s",
                self._kind.kind,
                obj["metadata"]["name"],
                error.message,
            )
            return None


async def remove_finalizer(
    client: KubeClient, kind: Kind, obj: Json, finalizer: str
) -> Json | None:
    """Take ``finalizer`` off by compare-and-swap; None when the object is gone already."""
    current = obj
    while finalizer in (current["metadata"].get("finalizers") or ()):
        meta = current["metadata"]
        left = [name for name in meta["finalizers"] if name != finalizer]
        try:
            return await client.patch(
                kind,
                meta["name"],
                {"metadata": {"finalizers": left}},
                resource_version=meta["resourceVersion"],
                uid=meta["uid"],
            )
        except NotFoundError:
            return None
        except ConflictError:
            try:
                current = await client.get(kind, meta["name"])
            except NotFoundError:
                return None
            if current["metadata"]["uid"] != meta["uid"]:
                return None
    return current
