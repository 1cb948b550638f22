"""Why something could not be done, as types.

``TwinvaultError`` is the root. Every error carries a ``code`` that processes exchange (the agent's
socket, conditions, CSI statuses) and a message that tells a person what to do next.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """The kinds of failure that processes tell one another apart by."""

    INVALID = "Invalid"
    OUT_OF_RANGE = "OutOfRange"
    """A size that cannot be: too large, smaller than what it is copied from, no room to grow."""
    NOT_FOUND = "NotFound"
    ALREADY_EXISTS = "AlreadyExists"
    """Something of that name exists and differs from what was asked for."""
    IN_USE = "InUse"
    """Refused because a pod, a mount or a device holds it."""
    FAILED_PRECONDITION = "FailedPrecondition"
    NO_SPACE = "NoSpace"
    BUSY = "Busy"
    """The same object is being worked on; try again."""
    TIMEOUT = "Timeout"
    UNAVAILABLE = "Unavailable"
    """Whom we need does not answer now; try again."""
    NOT_IMPLEMENTED = "NotImplemented"
    DATA_AT_RISK = "DataAtRisk"
    """Going on could destroy data; a person must decide."""
    INTERNAL = "Internal"


RETRYABLE = frozenset(
    {ErrorCode.BUSY, ErrorCode.TIMEOUT, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
)


class TwinvaultError(Exception):
    """Root of all expected failures."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE


class InvalidError(TwinvaultError):
    """Bad input; nothing was changed."""

    code = ErrorCode.INVALID


class OutOfRangeError(InvalidError):
    """A size that cannot be; another size may be asked for."""

    code = ErrorCode.OUT_OF_RANGE


class NotFoundError(TwinvaultError):
    code = ErrorCode.NOT_FOUND


class AlreadyExistsError(TwinvaultError):
    code = ErrorCode.ALREADY_EXISTS


class InUseError(TwinvaultError):
    code = ErrorCode.IN_USE


class FailedPreconditionError(TwinvaultError):
    code = ErrorCode.FAILED_PRECONDITION


class NoSpaceError(TwinvaultError):
    code = ErrorCode.NO_SPACE


class BusyError(TwinvaultError):
    code = ErrorCode.BUSY


class DeadlineError(TwinvaultError):
    """A wait ran out; the message says what it waited for."""

    code = ErrorCode.TIMEOUT


class UnavailableError(TwinvaultError):
    code = ErrorCode.UNAVAILABLE


class NotImplementedYetError(TwinvaultError):
    code = ErrorCode.NOT_IMPLEMENTED


class DataAtRiskError(TwinvaultError):
    code = ErrorCode.DATA_AT_RISK
