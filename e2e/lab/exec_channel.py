"""Runs commands inside a node over its management interface.

The other end is ``inside/exec_server.py``, which tells the protocol. It needs nothing
of Kubernetes and no bridge of the lab, so it works while kubelet is dead and while
links are cut.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from e2e.lab.config import Node
from e2e.lab.node_files import EXEC_PORT

_CHUNK_BYTES = 1 << 16
_ALIVE_CHECK_SECONDS = 0.5
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

Sink = Callable[[bytes], object]


class ExecError(Exception):
    """The command could not be run, or its end was not seen."""


class ExecTimeoutError(ExecError):
    """The command, or the node, did not answer in time."""


@dataclass(frozen=True)
class Completed:
    """What a command in a node left: exit code (negative: signal) and its output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    def check(self) -> Completed:
        """Self if the exit code is 0; ExecError with the last of its output if not."""
        if self.returncode:
            said = (self.stdout + self.stderr).decode("utf-8", "replace")[-2000:]
            raise ExecError(f"{' '.join(self.argv)}: exit code {self.returncode}\n{said}")
        return self


def run_in_node(
    node: Node,
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float,
    is_alive: Callable[[], bool] = lambda: True,
) -> Completed:
    """Run ``argv`` as root in the node and collect its output.

    Raises ExecTimeoutError when the node cannot be reached or the command does not
    end in time (it is killed then), ExecError when it cannot be started, or as soon as
    ``is_alive`` says that the node has ended.
    """
    out, err = bytearray(), bytearray()
    code = stream_in_node(
        node,
        argv,
        stdin=stdin,
        env=env,
        timeout_seconds=timeout_seconds,
        is_alive=is_alive,
        on_stdout=out.extend,
        on_stderr=err.extend,
    )
    return Completed(tuple(argv), code, bytes(out), bytes(err))


def stream_in_node(
    node: Node,
    argv: Sequence[str],
    *,
    stdin: bytes | BinaryIO | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float,
    is_alive: Callable[[], bool] = lambda: True,
    on_stdout: Sink,
    on_stderr: Sink,
) -> int:
    """Like run_in_node, but output goes to the sinks as it comes; the exit code.

    ``stdin`` may be a file, which is read as the command takes it.
    """
    deadline = time.monotonic() + timeout_seconds
    request = {"argv": list(argv), "env": dict(env or {}), "timeout_seconds": timeout_seconds}
    try:
        with connect_in_namespace(
            node.location.namespace,
            (str(node.management_network[2]), EXEC_PORT),
            timeout_seconds=min(timeout_seconds, 5),
        ) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            _start_sending(connection, stdin)
            sinks = {b"o": on_stdout, b"e": on_stderr}
            return _receive(connection, deadline, sinks, is_alive)
    except TimeoutError as error:
        raise ExecTimeoutError(
            f"{node.name}: `{' '.join(argv)}` not finished after {timeout_seconds:g} s "
            "(is the node started and thawed?)"
        ) from error
    except OSError as error:
        raise ExecError(f"{node.name}: cannot run `{' '.join(argv)}`: {error}") from error


def connect_in_namespace(
    namespace: str, address: tuple[str, int], *, timeout_seconds: float
) -> socket.socket:
    """A TCP connection made from inside a network namespace of the lab."""
    connection = _socket_in_namespace(namespace, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_seconds)
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
    except OSError:
        connection.close()
        raise
    return connection


def listen_in_namespace(namespace: str, address: tuple[str, int]) -> socket.socket:
    """A bound UDP socket inside a network namespace of the lab."""
    bound = _socket_in_namespace(namespace, socket.SOCK_DGRAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _socket_in_namespace(namespace: str, kind: socket.SocketKind) -> socket.socket:
    """A socket belongs to the namespace of the thread that makes it, so a short-lived thread
    enters the namespace; ours never leaves its own.
    """
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def make() -> None:
        try:
            _enter_namespace(namespace)
            made.append(socket.socket(socket.AF_INET, kind))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]


def _enter_namespace(namespace: str) -> None:
    with Path(f"/run/netns/{namespace}").open("rb") as handle:
        if _libc.setns(handle.fileno(), _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter {namespace}: {os.strerror(code)}")


def _start_sending(connection: socket.socket, stdin: bytes | BinaryIO | None) -> None:
    """Send standard input beside the receiving, so that neither blocks the other."""

    def send() -> None:
        try:
            if isinstance(stdin, bytes):
                connection.sendall(stdin)
            elif stdin is not None:
                while data := os.read(stdin.fileno(), _CHUNK_BYTES):
                    connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the command ended without reading it all; its exit code tells

    if stdin:
        threading.Thread(target=send, daemon=True).start()
    else:
        connection.shutdown(socket.SHUT_WR)


def _receive(
    connection: socket.socket,
    deadline: float,
    sinks: Mapping[bytes, Sink],
    is_alive: Callable[[], bool],
) -> int:
    received = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            # The server ends the command at the same deadline; leave it a moment.
            remaining = deadline + 1 - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            if not selector.select(min(remaining, _ALIVE_CHECK_SECONDS)):
                # A node whose power was cut closes no connection.
                if not is_alive():
                    raise ConnectionError("the node ended while the command ran")
                continue
            data = connection.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionError("the node closed the channel before the command ended")
            received += data
            code = _take_frames(received, sinks)
            if code is not None:
                return code


def _take_frames(received: bytearray, sinks: Mapping[bytes, Sink]) -> int | None:
    while len(received) >= 5:
        kind = bytes(received[:1])
        (length,) = struct.unpack(">I", received[1:5])
        if len(received) < 5 + length:
            return None
        payload = bytes(received[5 : 5 + length])
        del received[: 5 + length]
        if kind == b"x":
            return _exit_code(json.loads(payload))
        sinks[kind](payload)
    return None


def _exit_code(result: dict[str, object]) -> int:
    error = result.get("error")
    if error == "timeout":
        raise TimeoutError
    code = result.get("code")
    if not isinstance(code, int):
        raise OSError(str(error))
    return code
