"""What the API server answers when it says no, as types."""

from __future__ import annotations

from twinvault_core.errors import (
    AlreadyExistsError,
    BusyError,
    ErrorCode,
    FailedPreconditionError,
    InvalidError,
    NotFoundError,
    TwinvaultError,
    UnavailableError,
)


class ConflictError(BusyError):
    """The object changed since it was read: read again and decide again."""


class ForbiddenError(FailedPreconditionError):
    """RBAC refuses; the chart's roles do not fit what the process does."""


class ExpiredError(UnavailableError):
    """A watch started from a version that is gone (410): list again."""


def error_from_status(status_code: int, reason: str, message: str) -> TwinvaultError:
    """The typed error for an answer of the API server (HTTP code, Status.reason, message)."""
    if status_code == 404:
        return NotFoundError(message)
    if status_code == 409:
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if status_code == 410:
        return ExpiredError(message)
    if status_code in (400, 422):
        return InvalidError(message)
    if status_code in (401, 403):
        return ForbiddenError(message)
    if status_code == 429 or status_code >= 500:
        return UnavailableError(message)
    return TwinvaultError(f"the API server answered {status_code}: {message}", ErrorCode.INTERNAL)
