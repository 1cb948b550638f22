"""Failures of DRBD's tools as types, each with what a person, or the agent, does next."""

from __future__ import annotations

import re

from twinvault_core.errors import ErrorCode, TwinvaultError

from .runner import CommandError, Failure

_NUMBER = re.compile(r"(?:State change failed|Failure): \((-?\d+)\) ?([^\n]*)")

# Numbers of the kernel's enum drbd_state_rv and drbd_ret_code, the same in 8.4 and 9.
_KNOWN: dict[int, tuple[ErrorCode, str]] = {
    -1: (ErrorCode.FAILED_PRECONDITION, "the other node is primary; wait until it is demoted"),
    -2: (
        ErrorCode.FAILED_PRECONDITION,
        "no replica with whole data is in reach; connect the other node, or wait for the resync",
    ),
    -7: (
        ErrorCode.UNAVAILABLE,
        "the other node is not in reach and the record does not allow to go on without it; bring"
        " back the link or the Kubernetes API and try again",
    ),
    -8: (ErrorCode.BUSY, "a resync is running; try again when it is done"),
    -10: (ErrorCode.FAILED_PRECONDITION, "the other node refused; see its kernel log"),
    -11: (ErrorCode.FAILED_PRECONDITION, "the local disk is not attached; see the kernel log why"),
    -12: (ErrorCode.IN_USE, "something still has the device open; end the pod that uses it"),
    -15: (ErrorCode.FAILED_PRECONDITION, "the volume is not connected to its other replica"),
    -16: (ErrorCode.FAILED_PRECONDITION, "the local disk is inconsistent; let it resync first"),
    -18: (ErrorCode.BUSY, "another change of state is under way; try again"),
    -19: (ErrorCode.BUSY, "both nodes change the state at once; try again"),
    127: (ErrorCode.NOT_FOUND, "the volume is not up on this node"),
    130: (ErrorCode.BUSY, "the volume grows when the resync is done; try again then"),
    158: (ErrorCode.NOT_FOUND, "the volume is not up on this node"),
}


class DrbdError(TwinvaultError):
    """DRBD refused; ``number`` is its own error number, None when the tool did not get so far."""

    def __init__(self, message: str, code: ErrorCode, number: int | None) -> None:
        super().__init__(message, code)
        self.number = number


def describe_failure(what: str, error: CommandError) -> TwinvaultError:
    """The typed form of a failed ``drbdsetup``, ``drbdadm`` or ``drbdmeta``."""
    if error.failure is Failure.MISSING:
        return DrbdError(
            f"{what}: {error.argv[0]} is missing; install drbd-utils in the image of the agent",
            ErrorCode.FAILED_PRECONDITION,
            None,
        )
    if error.failure is Failure.TIMEOUT:
        return DrbdError(
            f"{what} did not end in time; DRBD waits for its disk or its peer. See the state of"
            f" the VolumeReplica and the node's kernel log. ({error.message})",
            ErrorCode.TIMEOUT,
            None,
        )
    found = _NUMBER.search(error.message)
    number = int(found[1]) if found else None
    code, advice = _KNOWN.get(number or 0, (error.code, "see the node's kernel log"))
    said = found[2].strip() if found else error.message
    return DrbdError(f"{what} was refused: {said}; {advice}", code, number)
