"""The one place that says which gRPC code a failure becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from grpc import StatusCode

from twinvault_core.errors import ErrorCode

CODES: Final[Mapping[ErrorCode, StatusCode]] = {
    ErrorCode.INVALID: StatusCode.INVALID_ARGUMENT,
    ErrorCode.OUT_OF_RANGE: StatusCode.OUT_OF_RANGE,
    ErrorCode.NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: StatusCode.ALREADY_EXISTS,
    ErrorCode.IN_USE: StatusCode.FAILED_PRECONDITION,
    ErrorCode.FAILED_PRECONDITION: StatusCode.FAILED_PRECONDITION,
    ErrorCode.DATA_AT_RISK: StatusCode.FAILED_PRECONDITION,
    ErrorCode.NO_SPACE: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.BUSY: StatusCode.ABORTED,
    ErrorCode.TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.UNAVAILABLE: StatusCode.UNAVAILABLE,
    ErrorCode.NOT_IMPLEMENTED: StatusCode.UNIMPLEMENTED,
    ErrorCode.INTERNAL: StatusCode.INTERNAL,
}
"""Every ErrorCode has its line; a test keeps it so.

Kubelet reads Aborted, DeadlineExceeded, Unavailable and ResourceExhausted of a stage as "may be
half done" and will unstage; after any other code it takes for granted that nothing is staged.
"""
