"""gRPC servers on unix sockets, and the life of a process until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc.aio

from twinvault_core.errors import InvalidError
from twinvault_kube.http_status import Health

from .calls import CallInterceptor, Observe

GRACE_SECONDS = 10.0
"""How long calls in flight may go on after SIGTERM."""
MAX_SOCKET_PATH_BYTES = 107
"""sun_path of Linux without its final zero byte."""


def parse_endpoint(endpoint: str) -> Path:
    """The path in ``unix:///path`` or ``unix:/path``; InvalidError for anything else."""
    path = endpoint.removeprefix("unix:")
    if not endpoint.startswith("unix:") or not path.startswith("/"):
        raise InvalidError(f"endpoint {endpoint!r} is not of the form unix:///path/to/socket")
    clean = "/" + path.lstrip("/")
    if len(clean.encode()) > MAX_SOCKET_PATH_BYTES:
        raise InvalidError(f"socket path {clean!r} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    return Path(clean)


def parse_metrics_address(environment: Mapping[str, str], default_port: int) -> tuple[str, int]:
    """Where /metrics, /healthz and /readyz are served; every address unless told otherwise."""
    text = environment.get("TWINVAULT_METRICS_PORT") or str(default_port)
    if not text.isdecimal() or int(text) > 65535:
        raise InvalidError(f"TWINVAULT_METRICS_PORT={text!r} is not a port")
    return environment.get("TWINVAULT_METRICS_ADDRESS") or "0.0.0.0", int(text)


async def serve(
    path: Path, add_services: Callable[[grpc.aio.Server], None], observe: Observe | None = None
) -> grpc.aio.Server:
    """A started server on ``path``; a socket that a dead process left there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        path.unlink()
    server = grpc.aio.server(interceptors=[CallInterceptor(observe)])
    add_services(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


def observe_socket(path: Path) -> Health:
    """Bad when somebody removed our socket: only a new process can mend that."""
    if path.is_socket():
        return Health(True, "serving")
    return Health(False, f"socket {path} is gone; restart this process")


async def wait_for_stop() -> None:
    """Until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


async def run_until_stop(*work: asyncio.Task[None]) -> None:
    """Until a signal comes; if one of ``work`` ends before, with its error."""
    stop = asyncio.create_task(wait_for_stop())
    done, _ = await asyncio.wait({stop, *work}, return_when=asyncio.FIRST_COMPLETED)
    for task in {stop, *work} - done:
        task.cancel()
    await asyncio.gather(*({stop, *work} - done), return_exceptions=True)
    for task in done:
        task.result()
