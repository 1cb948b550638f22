"""`down`: every process, mount, loop device, namespace and file of the lab goes."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

from e2e.lab import network, process
from e2e.lab.command import run
from e2e.lab.config import LOCATIONS, Settings
from e2e.lab.progress import say, step, together
from e2e.lab.state import exclusive, is_claimed, observe_mounts, remove_state

_TIMEOUT_SECONDS = 30


def down(settings: Settings) -> None:
    """Remove what `up` made, except the cache. Safe when little or nothing is there."""
    with exclusive(settings), step("lab down"):
        end_processes(settings)
        if is_claimed(settings):
            for point in observe_mounts(settings.state):
                run(["umount", str(point)], timeout_seconds=_TIMEOUT_SECONDS)
            for device in observe_loops(settings.state):
                run(["losetup", "--detach", device], timeout_seconds=_TIMEOUT_SECONDS)
        end_strays()
        network.remove_network()
        remove_state(settings)


def end_processes(settings: Settings) -> None:
    """Kill every recorded process: their data goes too, so nothing is worth a goodbye."""
    state = settings.state
    directories = [state / location.name for location in LOCATIONS]
    # The directories, not the settings: there may have been more nodes before.
    directories += sorted((state / "nodes").glob("*"))
    recorded = [(name, directory) for directory in directories for name in process.names(directory)]
    for name, directory in recorded:
        process.signal(name, directory, signal.SIGKILL)
    together([partial(process.kill, *pair) for pair in recorded])


def end_strays() -> None:
    """End what else lives in the lab's namespaces, such as a forgotten port-forward."""
    for location in LOCATIONS:
        for pid in network.observe_processes(location):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                os.kill(pid, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue
            told = b" ".join(words).decode("utf-8", "replace").strip()[:100]
            if told:  # one without a command line was on its way out already
                say(f"  ended {pid} in {location.namespace}: {told}")


def observe_loops(directory: Path) -> list[str]:
    """Loop devices whose file lies below a directory."""
    argv = ["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]
    output = run(argv, timeout_seconds=_TIMEOUT_SECONDS)
    devices = json.loads(output)["loopdevices"] if output.strip() else []
    prefix = f"{directory.resolve()}/"
    return [one["name"] for one in devices if (one["back-file"] or "").startswith(prefix)]
