"""Calls to the Kubernetes API: plain JSON objects in, plain JSON objects out, typed errors.

Configuration, credentials (rotated tokens too) and TLS are lightkube's; every call has a deadline.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import httpx2
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig

from twinvault_core.errors import TwinvaultError, UnavailableError

from .errors import error_from_status
from .kinds import Kind

Json = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
LIST_PAGE = 500

_LIMITS = httpx2.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=60.0)
# A site's power cut takes its API server without a word: an idle watch hears of it by keepalive
# after 5 + 3 x 2 s, a call in flight by the user timeout, instead of minutes later.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
]


class KubeClient:
    """One connection pool to the API server.

    ``timeout_seconds`` bounds each call that is not a watch. Errors: NotFoundError,
    AlreadyExistsError, ConflictError, InvalidError, ForbiddenError, ExpiredError,
    UnavailableError (no answer, 429, 5xx).
    """

    def __init__(self, http: httpx2.AsyncClient, *, timeout_seconds: float = 10.0) -> None:
        self._http = http
        self._timeout_seconds = timeout_seconds

    @classmethod
    def from_environment(cls, *, user_agent: str, timeout_seconds: float = 10.0) -> Self:
        """In a pod from its service account, elsewhere from $KUBECONFIG or ~/.kube/config."""
        config = KubeConfig.from_env().get()
        if config is None or config.user is None:
            raise UnavailableError(
                "no service account and no kubeconfig with a user: set KUBECONFIG"
            )
        verify = client_adapter.verify_cluster(
            config.cluster, config.user, config.abs_file, trust_env=False
        )
        http = httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=client_adapter.user_auth(config.user),
            transport=httpx2.AsyncHTTPTransport(
                verify=verify, trust_env=False, limits=_LIMITS, socket_options=_SOCKET_OPTIONS
            ),
            timeout=httpx2.Timeout(timeout_seconds),
            headers={"User-Agent": user_agent},
            trust_env=False,
        )
        return cls(http, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        await self._http.aclose()

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
        params = {key: value for key, value in params.items() if value}
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
        return await self._call("PUT", kind.path(namespace, meta["name"]) + subresource, body=body)

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
        return await self._call("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def apply_status(self, kind: Kind, obj: Mapping[str, Any], *, field_manager: str) -> Json:
        """Server-side apply of the status fields in ``obj`` that ``field_manager`` owns."""
        body = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        path = kind.path(None, obj["metadata"]["name"]) + "/status"
        params = {"fieldManager": field_manager, "force": "true"}
        return await self._call("PATCH", path, body=body, params=params, content_type=APPLY_PATCH)

    async def delete(
        self, kind: Kind, name: str, *, namespace: str | None = None, uid: str = ""
    ) -> None:
        """Ask for deletion (finalizers still run). With ``uid`` only that very object."""
        body = {"preconditions": {"uid": uid}} if uid else None
        await self._call("DELETE", kind.path(namespace, name), body=body)

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
        params = {key: value for key, value in params.items() if value}
        # A dead link is told by keepalive; nothing may come for long where nothing changes.
        timeout = httpx2.Timeout(self._timeout_seconds, read=window_seconds + 15.0)
        try:
            async with self._http.stream(
                "GET", kind.path(namespace), params=params, timeout=timeout
            ) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    raise _error_of(answer)
                async for line in answer.aiter_lines():
                    if line:
                        yield _parse_event(line)
        except httpx2.HTTPError as error:
            raise _unavailable(error, f"watching {kind.plural}") from error

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Json:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type} if content is not None else {}
        try:
            answer = await self._http.request(
                method, path, content=content, params=params, headers=headers
            )
        except httpx2.HTTPError as error:
            raise _unavailable(error, f"{method} {path}") from error
        if answer.status_code >= 400:
            raise _error_of(answer)
        decoded: Json = json.loads(answer.content)
        return decoded


def _unavailable(error: Exception, what: str) -> UnavailableError:
    return UnavailableError(
        f"no answer from the API server to {what}: {type(error).__name__} {error}"
    )


def _error_of(answer: httpx2.Response) -> TwinvaultError:
    try:
        status = json.loads(answer.content)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    message = str(status.get("message") or answer.reason_phrase)
    return error_from_status(answer.status_code, str(status.get("reason") or ""), message)


def _parse_event(line: str) -> tuple[str, Json]:
    event = json.loads(line)
    obj: Json = event["object"]
    if event["type"] == "ERROR":
        raise error_from_status(
            int(obj.get("code") or 500), str(obj.get("reason") or ""), str(obj.get("message") or "")
        )
    return str(event["type"]), obj
