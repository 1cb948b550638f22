"""The test's end of ``inside.py``: an engine in a kernel, called like an object.

Nothing here waits without a deadline: a call has ``CALL_SECONDS``, a command that the engine does
not take is an error at once, and when the engine ends every call that still waits is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from concurrent.futures import Future
from typing import Any

from e2e.lab import exec_channel, node
from e2e.lab.config import Node
from tests.uml.kernels import Kernels

START_SECONDS = 60.0
CALL_SECONDS = 40.0
LIFE_SECONDS = 1800.0
END_SECONDS = 20.0
ENVIRONMENT = {"PYTHONPATH": "/run/host/python", "PYTHONPYCACHEPREFIX": "/var/cache/python"}


class InsideError(Exception):
    """The engine refused; ``code`` is its ErrorCode."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Driver:
    """One engine in one kernel. ``seconds`` is how long the last call took inside."""

    def __init__(self, kernels: Kernels, where: Node) -> None:
        self.node = where
        self.seconds = 0.0
        self._kernels = kernels
        reading, writing = os.pipe()
        # A pipe that nobody reads any more must not hold up the test.
        os.set_blocking(writing, False)
        self._input = os.fdopen(reading, "rb")
        self._output = os.fdopen(writing, "wb", buffering=0)
        self._received = b""
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._count = 0
        self._ended = ""
        self.errors = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        why = "it ended"
        try:
            code = exec_channel.stream_in_node(
                self.node,
                ["python3", "/run/host/python/inside.py"],
                stdin=self._input,
                env=ENVIRONMENT,
                timeout_seconds=LIFE_SECONDS,
                is_alive=lambda: node.is_running(self._kernels.settings, self.node),
                on_stdout=self._take,
                on_stderr=self.errors.extend,
            )
            why = f"it ended with {code}"
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody may wait on for it
            why = f"{type(error).__name__}: {error}"
        finally:
            self._input.close()
            self._fail_all(why)

    def _fail_all(self, why: str) -> None:
        with self._lock:
            self._ended = why
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            future.set_exception(RuntimeError(self._describe_end()))

    def _describe_end(self) -> str:
        return f"no engine at {self.node.name}: {self._ended}\n{self.errors.decode()}"

    def _take(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            with self._lock:
                future = self._waiting.pop(said["number"], None)
            if future is not None:
                future.set_result(said)

    def begin(self, method: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Start a call; ``finish`` it later. RuntimeError when there is no engine (any more)."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError(self._describe_end())
            self._count += 1
            number = self._count
            self._waiting[number] = future
        line = json.dumps([number, method, arguments]).encode() + b"\n"
        try:
            written = self._output.write(line)
        except OSError as error:
            raise RuntimeError(f"{self._describe_end()}: {error}") from error
        if written != len(line):
            raise RuntimeError(f"the engine at {self.node.name} does not read its calls any more")
        return future

    def finish(self, future: Future[dict[str, Any]]) -> Any:
        try:
            said = future.result(CALL_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"no answer: {self.errors.decode()}\n{self._where()}") from None
        self.seconds = said["seconds"]
        if "error" in said:
            raise InsideError(said["error"], said["code"])
        return said["result"]

    def call(self, method: str, **arguments: Any) -> Any:
        """The result; InsideError when the engine refused."""
        return self.finish(self.begin(method, **arguments))

    def _where(self) -> str:
        """Where the engine's threads are now, and what waits in the kernel."""
        find = "grep -alx 'python3' /proc/[0-9]*/comm | cut -d/ -f3"
        script = f"""for p in $({find}); do
            grep -aq inside.py /proc/$p/cmdline || continue
            kill -USR1 $p; sleep 0.5; cat /run/inside.trace
        done
        for p in /proc/[0-9]*; do
            grep -q '^State:.D' $p/status 2>/dev/null || continue
            echo; tr '\\0' ' ' < $p/cmdline; cat $p/stack
        done; ps ax -o pid,stat,wchan:30,args | tail -40; cat /proc/drbd"""
        try:
            return self._kernels.sh(self.node, script)
        except exec_channel.ExecError as error:
            return f"the kernel does not answer either: {error}"

    def _hang_up(self) -> None:
        """Its standard input ends. Once: the number of a closed file may be another one's soon."""
        with contextlib.suppress(OSError):
            self._output.close()

    def kill(self) -> None:
        """End the engine as SIGKILL would; the kernel below goes on."""
        self._hang_up()
        self._kernels.sh(self.node, "for p in /proc/[0-9]*; do if grep -aq inside.py $p/cmdline"
                         " 2>/dev/null && [ ${p#/proc/} != $$ ]; then kill -KILL ${p#/proc/};"
                         " fi; done")  # fmt: skip
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"the engine at {self.node.name} was killed and does not end")

    def close(self) -> None:
        self._hang_up()
        self._thread.join(5)
