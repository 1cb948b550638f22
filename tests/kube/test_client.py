"""Calls to the API server: what each answer means, and writes that never hit the wrong object."""

from __future__ import annotations

import pytest

from tests.kube.fake_api import FakeApi
from twinvault_core.errors import (
    AlreadyExistsError,
    InvalidError,
    NotFoundError,
    TwinvaultError,
    UnavailableError,
)
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import (
    ConflictError,
    ExpiredError,
    ForbiddenError,
    error_from_status,
)
from twinvault_kube.kinds import EVENTS, LEASES, VOLUMES, Kind


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (422, "Invalid", InvalidError),
        (400, "BadRequest", InvalidError),
        (401, "Unauthorized", ForbiddenError),
        (403, "Forbidden", ForbiddenError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (504, "Timeout", UnavailableError),
        (418, "Teapot", TwinvaultError),
    ],
)
def test_every_answer_has_its_own_type(code: int, reason: str, error: type[Exception]) -> None:
    assert type(error_from_status(code, reason, "because")) is error


async def test_an_unreachable_server_is_an_error_that_can_be_repeated(
    api: FakeApi, client: KubeClient
) -> None:
    api.down = True
    with pytest.raises(UnavailableError, match="no answer from the API server"):
        await client.get(VOLUMES, "v")


async def test_a_status_of_a_successor_is_never_written(api: FakeApi, client: KubeClient) -> None:
    first = await client.create(VOLUMES, {"metadata": {"name": "v"}, "spec": {}})
    await client.delete(VOLUMES, "v")
    await client.create(VOLUMES, {"metadata": {"name": "v"}, "spec": {}})
    with pytest.raises(ConflictError):
        await client.patch_status(VOLUMES, "v", {"phase": "Ready"}, uid=first["metadata"]["uid"])


async def test_replacing_without_a_version_is_refused(client: KubeClient) -> None:
    with pytest.raises(ValueError, match="resourceVersion"):
        await client.replace(VOLUMES, {"metadata": {"name": "v"}})


def test_names_never_leave_their_collection() -> None:
    with pytest.raises(ValueError, match="empty name"):
        VOLUMES.path(None, "")
    with pytest.raises(ValueError, match="namespace"):
        LEASES.path(None, "agent-x")
    assert EVENTS.path("default", "e") == "/api/v1/namespaces/default/events/e"
    assert Kind("g", "v1", "things", "Thing").path() == "/apis/g/v1/things"
