"""Runs commands in a node for the lab. Lives in the node; standard library only.

One TCP connection is one command. The client sends one JSON line
``{"argv": [...], "env": {...}, "timeout_seconds": 30}`` and then standard input to
its end of stream. The answer is frames of one type byte, a 4-byte big-endian length
and that many bytes: ``o`` standard output, ``e`` standard error, then one ``x`` with a
JSON object ``{"code": 0}`` or ``{"error": "..."}``. When the client goes away, or the time
is over, the command and its process group are killed.

It listens on the management address only, which exists nowhere outside the lab.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Any

CHUNK_BYTES = 1 << 16


def read_parameters() -> dict[str, str]:
    with Path("/run/host/node.env").open() as file:
        lines = [line.strip().partition("=") for line in file if "=" in line]
    return {name: value.strip('"') for name, _, value in lines}


def send_frame(connection: socket.socket, kind: bytes, data: bytes) -> None:
    connection.sendall(kind + struct.pack(">I", len(data)) + data)


def read_request(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The request and the first bytes of standard input that came along with it."""
    received = b""
    while b"\n" not in received:
        data = connection.recv(CHUNK_BYTES)
        if not data:
            raise ConnectionError("closed before a request came")
        received += data
    line, _, rest = received.partition(b"\n")
    return json.loads(line), rest


class Command:
    """One running command, its pipes pumped to and from the connection."""

    def __init__(
        self, connection: socket.socket, request: dict[str, Any], first_input: bytes
    ) -> None:
        self.connection = connection
        self.pending = first_input
        self.input_ended = False
        self.deadline = time.monotonic() + float(request["timeout_seconds"])
        self.process = subprocess.Popen(
            request["argv"],
            env={**os.environ, **request.get("env", {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.pipes: tuple[IO[bytes], ...] = (
            self.process.stdin,
            self.process.stdout,
            self.process.stderr,
        )
        os.set_blocking(self.process.stdin.fileno(), False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(connection, selectors.EVENT_READ, "client")
        self.selector.register(self.process.stdout, selectors.EVENT_READ, b"o")
        self.selector.register(self.process.stderr, selectors.EVENT_READ, b"e")

    def pump(self) -> dict[str, Any]:
        """Move bytes until both outputs have ended; the content of the last frame."""
        try:
            open_outputs = 2
            self.flush_input()
            while open_outputs:
                remaining = self.deadline - time.monotonic()
                if remaining <= 0:
                    return {"error": "timeout"}
                for key, _ in self.selector.select(min(remaining, 0.5)):
                    if key.data == "client":
                        self.read_client()
                    elif key.data == "stdin":
                        self.flush_input()
                    elif not self.forward(key):
                        open_outputs -= 1
                if self.process.poll() is not None and open_outputs:
                    open_outputs = self.drain()
            return {"code": self.wait()}
        finally:
            self.end()

    def forward(self, key: selectors.SelectorKey) -> bool:
        data = os.read(key.fd, CHUNK_BYTES)
        if not data:
            self.selector.unregister(key.fileobj)
            return False
        send_frame(self.connection, key.data, data)
        return True

    def drain(self) -> int:
        """The command has ended: take what is in the pipes now, do not wait for
        children that keep them open (a daemon started by a script)."""
        for key in list(self.selector.get_map().values()):
            if key.data in (b"o", b"e"):
                os.set_blocking(key.fd, False)
                try:
                    while self.forward(key):
                        pass
                except BlockingIOError:
                    pass
        return 0

    def read_client(self) -> None:
        data = self.connection.recv(CHUNK_BYTES)
        if data:
            self.pending += data
        else:
            self.input_ended = True
        # Standard input is read again only when the command has taken what it got.
        self.selector.unregister(self.connection)
        self.flush_input()

    def flush_input(self) -> None:
        stdin = self.pipes[0]
        if stdin.closed:
            return
        try:
            while self.pending:
                self.pending = self.pending[os.write(stdin.fileno(), self.pending) :]
        except BlockingIOError:
            if stdin not in self.selector.get_map():
                self.selector.register(stdin, selectors.EVENT_WRITE, "stdin")
            return
        except BrokenPipeError:
            self.pending, self.input_ended = b"", True
        if stdin in self.selector.get_map():
            self.selector.unregister(stdin)
        if self.input_ended:
            stdin.close()
        elif self.connection not in self.selector.get_map():
            self.selector.register(self.connection, selectors.EVENT_READ, "client")

    def wait(self) -> int:
        remaining = max(0.1, self.deadline - time.monotonic())
        return self.process.wait(remaining)

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            threading.Thread(target=self.process.wait, daemon=True).start()
        self.selector.close()
        for pipe in self.pipes:
            pipe.close()


def serve(connection: socket.socket) -> None:
    with connection:
        try:
            request, first_input = read_request(connection)
            try:
                result = Command(connection, request, first_input).pump()
            except (OSError, subprocess.TimeoutExpired) as error:
                result = {"error": str(error)}
            send_frame(connection, b"x", json.dumps(result).encode())
        except (OSError, ValueError):
            pass  # the client is gone; there is nobody to tell


def main() -> None:
    address, _, _ = read_parameters()["MANAGEMENT_ADDRESS"].partition("/")
    with socket.create_server((address, 7070), backlog=64) as server:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
