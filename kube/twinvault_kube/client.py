"""Calls to the Kubernetes API: plain JSON objects in, plain JSON objects out, typed errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Self
from urllib.parse import urlencode

import msgspec

from twinvault_core.errors import UnavailableError

from .config import observe_config
from .errors import error_from_status
from .kinds import PODS, Kind
from .spare import dial_spares
from .transport import HttpTransport, Transport, error_of

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
LIST_PAGE = 500


class KubeClient:
    """One connection pool to the API server.

    ``timeout_seconds`` bounds each call that is not a watch. Errors: NotFoundError,
    AlreadyExistsError, ConflictError, InvalidError, ForbiddenError, ExpiredError,
    UnavailableError (no answer, 429, 5xx).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def from_environment(cls, *, user_agent: str, timeout_seconds: float = 10.0) -> Self:
        """In a pod from its service account, elsewhere from $KUBECONFIG or ~/.kube/config."""
        return cls(
            HttpTransport(observe_config(), user_agent=user_agent, timeout_seconds=timeout_seconds)
        )

    @classmethod
    def urgent(cls, *, user_agent: str, timeout_seconds: float = 5.0) -> Self:
        """As ``from_environment``, for the few calls that decide who may write: another API server
        is asked when the usual one does not answer at once (module ``spare``).
        """
        config = observe_config()
        return cls(dial_spares(config, user_agent=user_agent, timeout_seconds=timeout_seconds))

    async def close(self) -> None:
        await self._transport.close()

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        return await self._call("GET", kind.path(namespace, name))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
    ) -> tuple[list[Json], str]:
        """All objects that match the selectors, and the resourceVersion of the list."""
        items: list[Json] = []
        params = {"labelSelector": labels, "fieldSelector": fields, "limit": str(LIST_PAGE)}
        while True:
            page = await self._call("GET", kind.path(namespace), params=params)
            items.extend(page.get("items") or ())
            token = page["metadata"].get("continue")
            if not token:
                return items, str(page["metadata"].get("resourceVersion", ""))
            params["continue"] = token

    async def create(
        self, kind: Kind, obj: Mapping[str, Any], namespace: str | None = None
    ) -> Json:
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return await self._call("POST", kind.path(namespace), body=body)

    async def replace(
        self, kind: Kind, obj: Mapping[str, Any], namespace: str | None = None
    ) -> Json:
        """Compare-and-swap of the whole object: ConflictError unless its resourceVersion is
        still the current one; an object without resourceVersion is refused.
        """
        return await self._put(kind, obj, namespace, "")

    async def replace_status(
        self, kind: Kind, obj: Mapping[str, Any], namespace: str | None = None
    ) -> Json:
        """Compare-and-swap of the status alone."""
        return await self._put(kind, obj, namespace, "/status")

    async def _put(
        self, kind: Kind, obj: Mapping[str, Any], namespace: str | None, subresource: str
    ) -> Json:
        meta = obj["metadata"]
        if not meta.get("resourceVersion"):
            raise ValueError(f"replacing {kind.kind} {meta['name']} without a resourceVersion")
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        path = kind.path(namespace, meta["name"]) + subresource
        return await self._call("PUT", path, body=body, repeatable=True)

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
        """JSON merge patch. With ``resource_version`` it is a compare-and-swap; with ``uid`` it
        never touches another object of the same name (ConflictError).
        """
        return await self._patch(kind, name, patch, namespace, resource_version, uid, "")

    async def patch_status(
        self,
        kind: Kind,
        name: str,
        status: Mapping[str, Any],
        *,
        namespace: str | None = None,
        resource_version: str = "",
        uid: str = "",
    ) -> Json:
        """JSON merge patch of ``status`` alone; lists are replaced whole."""
        return await self._patch(
            kind, name, {"status": status}, namespace, resource_version, uid, "/status"
        )

    async def _patch(
        self,
        kind: Kind,
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None,
        resource_version: str,
        uid: str,
        subresource: str,
    ) -> Json:
        body = dict(patch)
        guards = {"resourceVersion": resource_version, "uid": uid}
        guards = {key: value for key, value in guards.items() if value}
        if guards:
            body["metadata"] = {**body.get("metadata", {}), **guards}
        path = kind.path(namespace, name) + subresource
        return await self._call(
            "PATCH", path, body=body, content_type=MERGE_PATCH, repeatable=bool(resource_version)
        )

    async def apply_status(self, kind: Kind, obj: Mapping[str, Any], *, field_manager: str) -> Json:
        """Server-side apply of the status fields in ``obj`` that ``field_manager`` owns."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        path = kind.path(None, obj["metadata"]["name"]) + "/status"
        params = {"fieldManager": field_manager, "force": "true"}
        return await self._call("PATCH", path, body=body, params=params, content_type=APPLY_PATCH)

    async def delete(
        self,
        kind: Kind,
        name: str,
        *,
        namespace: str | None = None,
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for deletion (finalizers still run). With ``uid`` only that very object; with
        ``grace_seconds`` 0 a pod goes at once, whether its node answers or not.
        """
        body: Json = {"preconditions": {"uid": uid}} if uid else {}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        await self._call("DELETE", kind.path(namespace, name), body=body or None)

    async def evict(self, name: str, namespace: str, *, uid: str) -> None:
        """End that very pod if every PodDisruptionBudget allows it; UnavailableError (429) says
        which one does not, NotFoundError and ConflictError that it is gone.
        """
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        await self._call("POST", PODS.path(namespace, name) + "/eviction", body=body)

    async def watch(
        self,
        kind: Kind,
        resource_version: str,
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
        window_seconds: int = 240,
    ) -> AsyncIterator[tuple[str, Json]]:
        """Events (ADDED, MODIFIED, DELETED, BOOKMARK) since ``resource_version``.

        Ends by itself after ``window_seconds``: the caller watches again from the last version.
        ExpiredError when the version is gone: list again.
        """
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(window_seconds),
            "labelSelector": labels,
            "fieldSelector": fields,
        }
        # A dead link is told by keepalive; nothing may come for long where nothing changes.
        target = _format_target(kind.path(namespace), params)
        pieces = self._transport.stream(target, window_seconds + 15.0)
        async with aclosing(_split_lines(pieces)) as lines:
            async for line in lines:
                yield _parse_event(line)

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        repeatable: bool = False,
    ) -> Json:
        content = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content_type} if content is not None else {}
        answer = await self._transport.request(
            method,
            _format_target(path, params or {}),
            headers,
            content,
            repeatable=repeatable or method == "GET",
        )
        if answer.status >= 300:
            raise error_of(answer)
        decoded: Json = _decode(answer.body)
        return decoded


def _format_target(path: str, params: Mapping[str, str]) -> str:
    wanted = {key: value for key, value in params.items() if value}
    return f"{path}?{urlencode(wanted)}" if wanted else path


async def _split_lines(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Whole lines of the pieces of a stream; a last line that was cut off is no event."""
    begun: list[bytes] = []
    async with aclosing(pieces):
        async for piece in pieces:
            first, *others = piece.split(b"\n")
            begun.append(first)
            for other in others:
                line = b"".join(begun)
                if line:
                    yield line
                begun = [other]


def _decode(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except ValueError as error:
        raise UnavailableError(f"the API server's answer is not JSON: {error}") from error


def _parse_event(line: bytes) -> tuple[str, Json]:
    event = _decode(line)
    obj: Json = event["object"]
    if event["type"] == "ERROR":
        raise error_from_status(
            int(obj.get("code") or 500), str(obj.get("reason") or ""), str(obj.get("message") or "")
        )
    return str(event["type"]), obj
