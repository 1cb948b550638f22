"""Bytes to the API server and back: connections, credentials, deadlines.

aiohttp is chosen for its parser in C: a request costs a third of what a parser in Python costs.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec
from yarl import URL

from twinvault_core.errors import TwinvaultError, UnavailableError

from .config import Config
from .errors import error_from_status

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 16
"""For calls. One more handshake costs both sides more than a short wait in the line."""
IDLE_CONNECTION_SECONDS = 60.0
TOKEN_SECONDS = 60.0
"""A token file is read again after that long: kubelet replaces it well before it expires."""
# A site's power cut takes its API server without a word: an idle watch hears of it by keepalive
# after 5 + 3 x 2 s, a call in flight by the user timeout, instead of minutes later.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
# aiohttp turns a bad certificate, a closed connection and a timeout into these.
_NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)


class Answer(NamedTuple):
    status: int
    reason: str
    body: bytes


class Transport(Protocol):
    """``target`` is path and query, already encoded. UnavailableError when no answer came."""

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        """One call within the deadline of the transport. ``repeatable``: it may be made twice at
        the same time, for it reads, or writes only what has not changed since it was read.
        """
        ...

    def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        """The pieces of a long answer to GET as they come; the typed error of a refusal.

        UnavailableError when nothing came for ``idle_seconds``.
        """
        ...

    async def close(self) -> None: ...


class HttpTransport:
    """Two pools: watches keep a connection each and never stand in the way of a call.

    ``timeout_seconds`` bounds a call from the wait for a connection to the last byte;
    ``server_name`` is what the certificate must say, where that is not the server's address.
    """

    def __init__(
        self, config: Config, *, user_agent: str, timeout_seconds: float, server_name: str = ""
    ) -> None:
        self._config, self._server_name = config, server_name or None
        self._timeout_seconds = timeout_seconds
        # Answers are small and the network is near: packing them costs more than it spares.
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._calls: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._token_read_at = 0.0
        self._read_token()

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        if self._calls is None:
            self._calls = self._session(
                MAX_CONNECTIONS, aiohttp.ClientTimeout(total=self._timeout_seconds)
            )
        url = URL(self._config.server + target, encoded=True)
        try:
            answer = await self._request(self._calls, method, url, headers, body)
            if answer.status == 401 and self._read_token():
                answer = await self._request(self._calls, method, url, headers, body)
        except _NO_ANSWER as error:
            raise unavailable(error, f"{method} {url.path}") from error
        return answer

    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        sent = {**self._authorized(), **headers}
        async with session.request(
            method,
            url,
            headers=sent,
            data=body,
            allow_redirects=False,
            server_hostname=self._server_name,
        ) as answer:
            return Answer(answer.status, answer.reason or "", await answer.read())

    async def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        if self._watches is None:
            self._watches = self._session(0, aiohttp.ClientTimeout(total=None))
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self._timeout_seconds, sock_read=idle_seconds
        )
        url = URL(self._config.server + target, encoded=True)
        try:
            async with self._watches.get(
                url, headers=self._authorized(), timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    if answer.status == 401:
                        self._read_token()
                    refusal = Answer(answer.status, answer.reason or "", await answer.read())
                    raise error_of(refusal)
                async for piece in answer.content.iter_any():
                    yield piece
        except _NO_ANSWER as error:
            raise unavailable(error, f"watch {url.path}") from error

    async def close(self) -> None:
        for session in (self._calls, self._watches):
            if session is not None:
                await session.close()

    def _session(self, limit: int, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        """Made at the first use: it belongs to the loop that is running then."""
        connector = aiohttp.TCPConnector(
            ssl=self._config.tls,
            limit=limit,
            keepalive_timeout=IDLE_CONNECTION_SECONDS,
            socket_factory=_open_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),
            trust_env=False,
        )

    def _authorized(self) -> dict[str, str]:
        if self._config.token_file and time.monotonic() - self._token_read_at > TOKEN_SECONDS:
            self._read_token()
        return self._authorization

    def _read_token(self) -> bool:
        """Whether it is another one than before."""
        before = getattr(self, "_authorization", None)
        self._token_read_at = time.monotonic()
        token = self._config.token
        if self._config.token_file is not None:
            token = _read_text(self._config.token_file) or token
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        return before != self._authorization


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise UnavailableError(f"cannot read the service account's token: {error}") from error


def _open_socket(address: Any) -> socket.socket:
    family, type_, protocol, _, _ = address
    opened = socket.socket(family, type_, protocol)
    for level, option, value in _SOCKET_OPTIONS:
        opened.setsockopt(level, option, value)
    return opened


def unavailable(error: Exception, what: str) -> UnavailableError:
    return UnavailableError(
        f"no answer from the API server to {what}: {type(error).__name__} {error}".rstrip()
    )


def error_of(answer: Answer) -> TwinvaultError:
    """What a refusal means; its Status, where there is one, tells more than the HTTP code."""
    status: Any = None
    with contextlib.suppress(ValueError):
        status = msgspec.json.decode(answer.body)
    if not isinstance(status, dict):
        status = {}
    message = str(status.get("message") or answer.reason)
    return error_from_status(answer.status, str(status.get("reason") or ""), message)
