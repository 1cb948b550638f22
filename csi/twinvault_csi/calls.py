"""Around every call: one log line, one metric, failures as gRPC codes, secrets never in a log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from twinvault_core.errors import TwinvaultError

from .pb import csi_pb2
from .status import CODES

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Context = grpc.aio.ServicerContext
    Interceptor = grpc.aio.ServerInterceptor

logger = logging.getLogger(__name__)

FALLBACK_SECONDS = 60.0
"""How long a call without a deadline of its own may wait."""
MAX_MESSAGE_CHARACTERS = 2000
"""gRPC sends the message in a header, which has a limit."""

Observe = Callable[[str, str, float], None]
"""Told the method, the name of the gRPC code and the seconds that a call took."""

_ID_FIELDS = ("name", "volume_id", "snapshot_id", "source_volume_id", "node_id")
# protoc writes no better type for an extension.
_SECRET: Any = csi_pb2.csi_secret
# Asked all the time. The provisioner asks GetCapacity for each class and node after each volume.
_QUIET = frozenset(
    {"Probe", "GetPluginInfo", "GetPluginCapabilities", "GetCapacity", "NodeGetVolumeStats"}
)
_QUIET_SUFFIX = "GetCapabilities"


def wait_seconds(context: Context) -> float:
    """How long the call may wait so that its own explanation still reaches the caller."""
    left = context.time_remaining()
    if left is None or left > 24 * 3600:
        return FALLBACK_SECONDS
    return max(0.01, left - min(0.5, left / 2))


def describe_request(message: Message) -> dict[str, Any]:
    """The fields of ``message`` for a log, without any that the CSI proto marks as secret."""
    out: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[_SECRET]:
            out[field.name] = "(stripped)"
        elif field.message_type is None:
            out[field.name] = list(value) if field.is_repeated else value
        elif field.message_type.GetOptions().map_entry:
            out[field.name] = dict(value)
        elif field.is_repeated:
            out[field.name] = [describe_request(item) for item in value]
        else:
            out[field.name] = describe_request(value)
    return out


class CallInterceptor(Interceptor):
    """Turns TwinvaultError into its gRPC code and tells of each call exactly once."""

    def __init__(self, observe: Observe | None = None) -> None:
        self._observe = observe

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method.rpartition("/")[2]

        async def call(request: Message, context: Context) -> Message:
            return await self._call(handler.unary_unary, method, request, context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _call(
        self, behaviour: Any, method: str, request: Message, context: Context
    ) -> Message:
        started = time.monotonic()
        try:
            response: Message = await behaviour(request, context)
        except TwinvaultError as error:
            code, message = CODES[error.code], error.message
        except asyncio.CancelledError:
            self._tell(method, request, "CANCELLED", "the caller gave up", started)
            raise
        except NotImplementedError:
            # What the generated base class does for a call that we do not advertise.
            code, message = grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented"
        except Exception as error:
            logger.exception("%s failed in a way that nobody foresaw", method)
            code = grpc.StatusCode.INTERNAL
            message = f"{type(error).__name__}; the log of this process has the details"
        else:
            self._tell(method, request, "OK", "", started)
            return response
        self._tell(method, request, code.name, message, started)
        await context.abort(code, message[:MAX_MESSAGE_CHARACTERS])
        raise AssertionError("abort always raises")

    def _tell(self, method: str, request: Message, code: str, message: str, started: float) -> None:
        seconds = time.monotonic() - started
        if self._observe is not None:
            self._observe(method, code, seconds)
        quiet = code == "OK" and (method in _QUIET or method.endswith(_QUIET_SUFFIX))
        level = logging.DEBUG if quiet else logging.INFO if code == "OK" else logging.WARNING
        if not logger.isEnabledFor(level):
            return
        # None of the fields that name something is a secret.
        extra: dict[str, Any] = {
            key: value for key in _ID_FIELDS if (value := getattr(request, key, ""))
        }
        # "name" is an attribute of every log record.
        if "name" in extra:
            extra["caller_name"] = extra.pop("name")
        if logger.isEnabledFor(logging.DEBUG):
            extra["request"] = describe_request(request)
        extra |= {"method": method, "code": code, "seconds": round(seconds, 4)}
        logger.log(level, "%s %s%s", method, code, f": {message}" if message else "", extra=extra)
