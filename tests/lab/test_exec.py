"""Commands in a node: both ends of the exec channel, over a real socket and real processes."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.lab.exec_channel import _receive, _start_sending
from e2e.lab.inside.exec_server import serve


@contextmanager
def serving() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(theirs,))
    thread.start()
    try:
        with ours:
            yield ours
    finally:
        thread.join(timeout=10)
    assert not thread.is_alive(), "the server must not outlive its client"


def run(
    *argv: str,
    stdin: bytes | None = None,
    timeout_seconds: float = 20,
    is_alive: Callable[[], bool] = lambda: True,
) -> tuple[int, bytes, bytes]:
    out, err = bytearray(), bytearray()
    request = {"argv": argv, "timeout_seconds": timeout_seconds}
    with serving() as connection:
        connection.sendall(json.dumps(request).encode() + b"\n")
        _start_sending(connection, stdin)
        deadline = time.monotonic() + timeout_seconds
        sinks = {b"o": out.extend, b"e": err.extend}
        code = _receive(connection, deadline, sinks, is_alive)
    return code, bytes(out), bytes(err)


def test_output_errors_and_exit_code_arrive_apart() -> None:
    assert run("sh", "-c", "echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")


def test_a_signal_is_a_negative_exit_code() -> None:
    assert run("sh", "-c", "kill -9 $$")[0] == -9


def test_large_input_comes_back_whole() -> None:
    data = os.urandom(1 << 16) * 50
    assert run("cat", stdin=data) == (0, data, b"")


def test_a_command_may_ignore_its_input() -> None:
    assert run("true", stdin=b"x" * (1 << 20))[0] == 0


def test_a_daemon_that_keeps_the_output_open_does_not_hold_the_command() -> None:
    code, out, _ = run("sh", "-c", "sleep 5 & echo done")
    assert (code, out) == (0, b"done\n")


def test_a_missing_program_is_named() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        run("no-such-program")


def test_a_command_is_killed_at_its_deadline(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        run("sh", "-c", f"echo $$ > {pid_file}; sleep 60", timeout_seconds=0.5)
    assert is_gone(int(pid_file.read_text()))


def test_a_dead_node_ends_the_command_before_its_deadline() -> None:
    with pytest.raises(ConnectionError, match="the node ended"):
        run("sleep", "3", is_alive=lambda: False)


def is_gone(pid: int) -> bool:
    """Whether the process disappears soon: it is reaped by a thread of the server."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False
