"""The test's end of ``inside.py``: an engine in a kernel, called like an object."""

from __future__ import annotations

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
        reading, self._writing = os.pipe()
        self._input = os.fdopen(reading, "rb")
        self._received = b""
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._count = 0
        self.errors = bytearray()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            exec_channel.stream_in_node(
                self.node,
                ["python3", "/run/host/python/inside.py"],
                stdin=self._input,
                env=ENVIRONMENT,
                timeout_seconds=LIFE_SECONDS,
                is_alive=lambda: node.is_running(self._kernels.settings, self.node),
                on_stdout=self._take,
                on_stderr=self.errors.extend,
            )
        except exec_channel.ExecError as error:
            self.errors.extend(str(error).encode())
        finally:
            self._input.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RuntimeError(f"the engine ended: {self.errors.decode()}"))

    def _take(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            self._waiting.pop(said["number"]).set_result(said)

    def begin(self, method: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Start a call; ``finish`` it later."""
        self._count += 1
        future: Future[dict[str, Any]] = Future()
        self._waiting[self._count] = future
        line = json.dumps([self._count, method, arguments])
        os.write(self._writing, line.encode() + b"\n")
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
        return self._kernels.sh(self.node, script)

    def kill(self) -> None:
        """End the engine as SIGKILL would; the kernel below goes on."""
        os.close(self._writing)
        self._kernels.sh(self.node, "for p in /proc/[0-9]*; do if grep -aq inside.py $p/cmdline"
                         " 2>/dev/null && [ ${p#/proc/} != $$ ]; then kill -KILL ${p#/proc/};"
                         " fi; done")  # fmt: skip
        self._thread.join(20)

    def close(self) -> None:
        os.close(self._writing)
        self._thread.join(5)
