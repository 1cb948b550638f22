"""The node's agent over its unix socket: one connection a call, every call with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import MAX_LINE_BYTES, Request, format_request, parse_answer
from twinvault_core.errors import DeadlineError, UnavailableError


class AgentSocketClient:
    """Implements twinvault_core.agent_api.AgentClient."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def call(self, request: Request, *, timeout_seconds: float) -> Mapping[str, Any]:
        """The result; TwinvaultError as the agent said it, UnavailableError when it is away,
        DeadlineError when it did not answer in time (it goes on; a retry finds what it did).
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                line = await self._exchange(format_request(request))
        except TimeoutError:
            raise DeadlineError(
                f"waited {timeout_seconds:.1f} s for the agent to {request.operation}; it goes on,"
                " try again"
            ) from None
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"the agent of this node does not answer at {self._socket}: {error};"
                " see the log of its container"
            ) from error
        if not line.endswith(b"\n"):
            raise UnavailableError(
                f"the agent ended before it answered to {request.operation}; try again"
            )
        return parse_answer(line)

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=MAX_LINE_BYTES)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()
