"""What the CSI node service asks the agent over its unix socket: one JSON object a line each way.

A request is ``{"operation": NAME, "arguments": {...}}``, its answer ``{"result": {...}}`` or
``{"error": {"code": ErrorCode, "message": text}}``. Every operation may be repeated: a second
call finds what the first one did. The caller is checked by its peer credentials (uid 0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from .errors import ErrorCode, InvalidError, TwinvaultError

MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Stage:
    """Attach the volume; Filesystem: format it if blank and mount it at ``staging_path``.

    Answers ``{"devicePath": text}``.
    """

    operation: ClassVar[str] = "stage"
    volume_id: str
    staging_path: str
    volume_mode: str
    fs_type: str = ""
    mount_options: tuple[str, ...] = ()
    read_only: bool = False


@dataclass(frozen=True)
class Unstage:
    """Unmount ``staging_path`` and detach the volume. Answers ``{}``."""

    operation: ClassVar[str] = "unstage"
    volume_id: str
    staging_path: str


@dataclass(frozen=True)
class Publish:
    """Bind the staged filesystem, or the device of a Block volume, to ``target_path``. ``{}``.

    With ``single_writer`` FailedPrecondition when it is published at another target already.
    """

    operation: ClassVar[str] = "publish"
    volume_id: str
    staging_path: str
    target_path: str
    volume_mode: str
    mount_options: tuple[str, ...] = ()
    read_only: bool = False
    single_writer: bool = False


@dataclass(frozen=True)
class Unpublish:
    """Unmount ``target_path`` and remove it if it is empty; never recursively. ``{}``."""

    operation: ClassVar[str] = "unpublish"
    volume_id: str
    target_path: str


@dataclass(frozen=True)
class Stats:
    """Usage seen at ``path``.

    Answers ``{"volumeMode", "totalBytes", "usedBytes", "availableBytes", "totalInodes",
    "usedInodes", "availableInodes"}``; Block volumes have only ``totalBytes``.
    """

    operation: ClassVar[str] = "stats"
    volume_id: str
    path: str


@dataclass(frozen=True)
class Expand:
    """Grow the device and the filesystem at ``path`` to the size of the image, at least
    ``size_bytes`` (0: whatever it is). Answers ``{"sizeBytes": int}``.
    """

    operation: ClassVar[str] = "expand"
    volume_id: str
    path: str
    size_bytes: int = 0


@dataclass(frozen=True)
class NodeInfo:
    """Answers ``{"node": text, "storageCluster": text, "maxVolumes": int, "ready": bool}``."""

    operation: ClassVar[str] = "node_info"


Request = Stage | Unstage | Publish | Unpublish | Stats | Expand | NodeInfo

REQUESTS: Mapping[str, type[Request]] = {
    kind.operation: kind for kind in (Stage, Unstage, Publish, Unpublish, Stats, Expand, NodeInfo)
}


class AgentClient(Protocol):
    """How a caller reaches the agent; a test may stand in for the socket."""

    async def call(self, request: Request, *, timeout_seconds: float) -> Mapping[str, Any]:
        """The result; TwinvaultError as the agent said it, UnavailableError when it is away."""
        ...


def format_request(request: Request) -> bytes:
    """One line for the socket."""
    body = {"operation": request.operation, "arguments": asdict(request)}
    return json.dumps(body).encode() + b"\n"


def parse_request(line: bytes) -> Request:
    """InvalidError unless the line is a known operation with exactly its arguments' types."""
    try:
        body = json.loads(line)
        kind = REQUESTS[body["operation"]]
        arguments = dict(body.get("arguments") or {})
        if "mount_options" in arguments:
            arguments["mount_options"] = tuple(arguments["mount_options"])
        request = kind(**arguments)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidError(f"not a request that this agent knows: {error!r}") from error
    _check_types(request)
    return request


_TYPES: Mapping[str, type] = {
    "size_bytes": int,
    "read_only": bool,
    "single_writer": bool,
    "mount_options": tuple,
}


def _check_types(request: Request) -> None:
    for key, value in asdict(request).items():
        wanted = _TYPES.get(key, str)
        if type(value) is not wanted:
            raise InvalidError(f"{request.operation}: {key} is not a {wanted.__name__}")
        if isinstance(value, tuple) and not all(isinstance(item, str) for item in value):
            raise InvalidError(f"{request.operation}: {key} holds something that is not text")


def format_result(result: Mapping[str, Any]) -> bytes:
    return json.dumps({"result": dict(result)}).encode() + b"\n"


def format_error(error: TwinvaultError) -> bytes:
    body = {"error": {"code": error.code.value, "message": error.message}}
    return json.dumps(body).encode() + b"\n"


def parse_answer(line: bytes) -> Mapping[str, Any]:
    """The result of an answer line; raises TwinvaultError with the agent's code and message."""
    try:
        body = json.loads(line)
    except ValueError as error:
        raise TwinvaultError(f"the agent's answer is not JSON: {error}") from error
    if isinstance(body, dict) and isinstance(body.get("result"), dict):
        return dict(body["result"])
    failure = body.get("error") if isinstance(body, dict) else None
    if not isinstance(failure, dict):
        raise TwinvaultError("the agent's answer has neither a result nor an error")
    codes = {code.value for code in ErrorCode}
    code = failure.get("code")
    raise TwinvaultError(
        str(failure.get("message")), ErrorCode(code) if code in codes else ErrorCode.INTERNAL
    )
