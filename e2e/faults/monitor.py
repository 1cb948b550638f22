"""Looks on while a fault lasts: two primaries, and services that stand still in silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from e2e.faults.acknowledged import SERVICES
from e2e.faults.observer import Observer
from e2e.faults.roles import Side, describe_sides, find_double_primaries, parse_sides
from e2e.faults.scene import PODS
from e2e.faults.verdict import explain_silence, find_silent
from e2e.faults.watch import Watch
from e2e.lab.api import Lab, LabNode
from e2e.lab.exec_channel import ExecError

_INTERVAL_SECONDS = 0.7
_LOOK_SECONDS = 3.0


@dataclass
class Monitor:
    """A context around one run. ``api_away`` tells whether conditions can be expected to move."""

    lab: Lab
    observer: Observer
    watch: Watch
    volumes: Mapping[str, str]
    api_away: Callable[[], bool]
    problems: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    looks: int = 0
    resting: bool = False
    """The services are stopped on purpose: their silence means nothing."""
    _told_at: dict[str, float] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Monitor:
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        begun, back = time.time(), time.time()
        while not self._ending.wait(_INTERVAL_SECONDS):
            self._look_at_roles()
            if self.api_away() or self.resting:
                back = time.time()
            for service in SERVICES:
                since = max(begun, back, self.observer.last(service))
                self._look_at_service(service, since)

    def _look_at_roles(self) -> None:
        one, other = self.lab.nodes[0], self.lab.nodes[1]
        before, between, after = _sides(one), _sides(other), _sides(one)
        if before is None or between is None or after is None:
            return
        self.looks += 1
        found = find_double_primaries(before, between, after)
        line = "; ".join(describe_sides({one.name: after, other.name: between}))
        if line and (not self.log or not self.log[-1].endswith(line)):
            self.log.append(f"{time.time():.2f} {line}")
        self._tell(found)

    def _look_at_service(self, service: str, since: float) -> None:
        """``since``: when its silence began. What something explained does not count."""
        name, pod = self.volumes[service], PODS[service]
        volume = _find(self.watch.latest("Volume"), name)
        told = explain_silence(volume, _find(self.watch.latest("Pod"), pod))
        if told:
            self._told_at[service] = time.time()
        silent_seconds = time.time() - max(since, self._told_at.get(service, 0.0))
        problem = find_silent(service, silent_seconds)
        if problem and not any(p.startswith(f"{service}: nothing") for p in self.problems):
            self._tell([problem])

    def _tell(self, problems: list[str]) -> None:
        self.problems += [p for p in problems if p not in self.problems]


def _sides(node: LabNode) -> dict[int, Side] | None:
    """None when the node does not answer; nothing while it has no DRBD."""
    if not node.is_running():
        return {}
    try:
        done = node.exec("cat", "/proc/drbd", timeout_seconds=_LOOK_SECONDS)
    except ExecError:
        return None
    return parse_sides(done.text) if done.returncode == 0 else {}


def _find(objects: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((o for o in objects if o["metadata"]["name"] == name), None)
