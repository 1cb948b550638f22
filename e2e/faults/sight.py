"""What is seen now of the database's volume: by it a fault waits for the moment to strike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from e2e.faults.acknowledged import ROWS
from e2e.faults.course import (
    choose_target,
    find_coming_step,
    find_growing_step,
    find_leaving_step,
    find_resync_share,
    find_taking_step,
)
from e2e.faults.roles import Side, parse_sides
from e2e.faults.scene import PODS
from e2e.faults.watch import Watch
from e2e.lab.api import Lab
from e2e.lab.exec_channel import ExecError
from e2e.lab.progress import WaitError

_LOOK_SECONDS = 0.02

Object = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """``volume``: the database's. Objects are as last told, also while no API server answers."""

    lab: Lab
    watch: Watch
    volume: str
    minor: int

    def record(self) -> Object:
        found = self._named("Volume", self.volume)
        return dict((found or {}).get("status", {}).get("replication") or {})

    def leaving_step(self, old: str) -> str:
        return find_leaving_step(old, self._volume(), self._replica(old), self._pod())

    def coming_step(self, new: str) -> str:
        return find_coming_step(
            new, self._volume(), self._replica(new), self._pod(), self._attached(new)
        )

    def growing_step(self, size_bytes: int) -> str:
        return find_growing_step(size_bytes, self._volume(), self._replicas())

    def taking_step(self) -> str:
        mine = [s for s in self.watch.latest("Snapshot") if s["spec"]["volume"] == self.volume]
        return find_taking_step(mine[-1] if mine else None)

    def snapshot_taken(self) -> bool:
        mine = [s for s in self.watch.latest("Snapshot") if s["spec"]["volume"] == self.volume]
        return any(s.get("status", {}).get("readyToUse") for s in mine)

    def grown(self, size_bytes: int) -> bool:
        return int((self._volume() or {}).get("status", {}).get("sizeBytes", 0)) >= size_bytes

    def side(self, node: str) -> Side | None:
        """The volume's DRBD device at a node; None while it has none or does not answer."""
        return parse_sides(self._proc_drbd(node)).get(self.minor)

    def resync_share(self, node: str) -> float | None:
        return find_resync_share(self._proc_drbd(node), self.minor)

    def wait(self, what: str, seen: Callable[[], object], timeout_seconds: float) -> None:
        """WaitError names ``what``. Looks often: what is waited for may be over soon."""
        deadline = time.monotonic() + timeout_seconds
        while not seen():
            if time.monotonic() > deadline:
                raise WaitError(f"the moment of the fault never came: {what}")
            time.sleep(_LOOK_SECONDS)

    def wait_step(
        self,
        steps: Sequence[str],
        find: Callable[[], str],
        share: float,
        timeout_seconds: float,
        over: Callable[[], bool] = lambda: False,
    ) -> str:
        """The step there is when the chosen one, or a later one, is seen; '' when ``over`` said
        first that there is nothing left to strike at. WaitError when neither came.
        """
        target, found = choose_target(steps, share), ""

        def reached() -> bool:
            nonlocal found
            found = find()
            return (found in steps and steps.index(found) >= target) or (not found and over())

        self.wait(f"none of {', '.join(steps[target:])}", reached, timeout_seconds)
        return found

    def _proc_drbd(self, node: str) -> str:
        try:
            return self.lab.node(node).exec("cat", "/proc/drbd", timeout_seconds=3).text
        except ExecError:
            return ""

    def _volume(self) -> Object | None:
        return self._named("Volume", self.volume)

    def _replicas(self) -> list[Object]:
        found = self.watch.latest("VolumeReplica")
        return [r for r in found if r["spec"]["volume"] == self.volume]

    def _replica(self, node: str) -> Object | None:
        return next((r for r in self._replicas() if r["spec"]["nodeName"] == node), None)

    def _pod(self) -> Object | None:
        return self._named("Pod", PODS[ROWS])

    def _attached(self, node: str) -> bool:
        return any(
            a["spec"]["nodeName"] == node and a.get("status", {}).get("attached")
            for a in self.watch.latest("VolumeAttachment")
            if a["spec"]["source"].get("persistentVolumeName") == self.volume
        )

    def _named(self, kind: str, name: str) -> Object | None:
        found = [o for o in self.watch.latest(kind) if o["metadata"]["name"] == name]
        return found[-1] if found else None
