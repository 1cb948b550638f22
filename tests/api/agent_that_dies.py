"""Runs the agent and kills it, as a power cut of the process would, at the n-th step of its work.

Usage: agent_that_dies.py N [AFTER]. Steps are counted from the start, or from the first one named
AFTER.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from twinvault_engine import steps
from twinvault_engine.agent.main import main


class Killer:
    """Counts the steps of all threads; prints each one, so that a failing test shows the last."""

    def __init__(self, number: int, after: str) -> None:
        self._number, self._after = number, after
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        with self._lock:
            if self._after:
                if name == self._after:
                    self._after = ""
                return
            self._count += 1
            os.write(2, f"step {self._count}: {name}\n".encode())
            if self._count == self._number:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    steps.install(Killer(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
    main()
