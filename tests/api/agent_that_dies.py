"""Runs the agent and kills it, as a power cut of the process would, at the n-th step of its work.

Usage: agent_that_dies.py N. Steps are counted from the first one whose name is not of the start.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

from twinvault_engine import steps
from twinvault_engine.agent.main import main

_COUNTER = itertools.count(1)


def die_at(number: int) -> None:
    """Count steps of all threads; print each one, so that a failing test shows the last."""

    def hook(name: str) -> None:
        count = next(_COUNTER)
        os.write(2, f"step {count}: {name}\n".encode())
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.install(hook)


if __name__ == "__main__":
    die_at(int(sys.argv[1]))
    main()
