"""The fault runs' services, as benches use them: writing and in sync before each round; whatever a
round broke is mended at the end, however that comes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.lab_bench import METRO, Row, require_classes
from e2e.deploy import get_json
from e2e.faults.__main__ import set_stable_seconds
from e2e.faults.acknowledged import ROWS, Pause, find_longest_pause
from e2e.faults.ground import Ground
from e2e.faults.observer import Observer
from e2e.faults.plan import WARM_SECONDS, RunPlan
from e2e.faults.runner import SERVE_SECONDS, Trial
from e2e.faults.scene import NAMESPACE, PODS, Scene
from e2e.faults.settled import SETTLE_SECONDS
from e2e.faults.timeline import choose_moments_of, choose_phases
from e2e.faults.watch import Watch
from e2e.lab.api import Lab
from e2e.lab.progress import step, wait_until

STABLE_SECONDS = 10
"""Of the pair, meanwhile: what a node waits that came back."""
GO_ON_SECONDS = 120.0
_MOVE_SECONDS = 120.0
_TELL_SECONDS = 1.0
"""The watch tells a change a moment after it happened."""


@dataclass
class WritingServices:
    lab: Lab
    trial: Trial

    @property
    def observer(self) -> Observer:
        return self.trial.observer

    def begin(self, number: int, name: str) -> Ground:
        """All is in sync and writing, and has been for a time that the round's number chooses:
        the fault meets every part of the intervals of Leases and pings.
        """
        trial = self.trial
        trial.wait_settled(SETTLE_SECONDS)
        trial.wait_writing(time.time(), SERVE_SECONDS)
        self.observer.forget(time.time() - 1.0)
        trial.watch.forget()
        time.sleep(random.Random(f"{name} {number}").uniform(*WARM_SECONDS))
        primary = trial.scene.node_of(trial.scene.services[0])
        other = next(node.name for node in self.lab.nodes if node.name != primary)
        return self.ground(primary, other)

    def ground(self, primary: str = "", secondary: str = "") -> Ground:
        nothing = RunPlan(0, "bench", 0.0, 0.0, 0.0)
        return Ground(self.lab, self.trial.scene, nothing, primary, secondary)

    def wait_going_on(self, ground: Ground) -> None:
        """Until writes go on; what was under way when the fault came is no sign."""
        self.trial.wait_writing(max(time.time(), ground.struck_at + 1.0), GO_ON_SECONDS)

    def measure_pause(self, stream: str, since: float, until: float = 0.0) -> Pause:
        """The longest one of a stream's writer between two seconds of time.time(); until now."""
        return find_longest_pause(self.observer.times(stream), since, until or time.time())

    def measure_phases(self, ground: Ground, service: str, end: float) -> dict[str, float]:
        """Phase -> seconds after the strike."""
        time.sleep(_TELL_SECONDS)
        trial = self.trial
        moments = trial.watch.moments(ground.struck_at)
        mine = choose_moments_of(moments, trial.scene.volume(service), PODS[service])
        return choose_phases(mine, ground.struck_at, end)

    def cycle_pod(self, ground: Ground, service: str, *, away: bool) -> Row:
        """The pod ends and starts anew: at the other node as in a drain, or where it was. Its
        writer's pause and the phases.
        """
        old = self._pod(service)
        stays_off = ground.primary if away else ground.secondary
        try:
            self.lab.kubectl("cordon", stays_off)
            ground.strike()
            self.trial.scene.kubectl("delete", "pod", PODS[service], "--wait=false")
            wait_until(
                f"a new {PODS[service]} on a node",
                lambda: self._pod(service) not in (old, ("", "")),
                timeout_seconds=_MOVE_SECONDS,
                explain=lambda: f"last seen: {self._pod(service)}",
            )
            self.wait_going_on(ground)
        finally:
            self.lab.kubectl("uncordon", stays_off)
        pause = self.measure_pause(service, ground.struck_at)
        phases = self.measure_phases(ground, service, pause.end)
        return {"pause": round(pause.seconds, 3), "to": self._pod(service)[1], "phases": phases}

    def _pod(self, service: str) -> tuple[str, str]:
        """Uid and node as last told; empty while there is none, or it has no node yet."""
        for pod in self.trial.watch.latest("Pod"):
            if pod["metadata"]["name"] == PODS[service] and pod["spec"].get("nodeName"):
                return pod["metadata"]["uid"], pod["spec"]["nodeName"]
        return "", ""

    def lease_seconds(self) -> int:
        """How long a node may be silent before it counts as lost."""
        name = get_json(self.lab, f"storageclass/{METRO}")["parameters"]["replicationPair"]
        pair = get_json(self.lab, f"replicationpair/{name}")
        return int(pair["spec"]["failover"]["leaseDurationSeconds"])


@contextmanager
def writing_services(lab: Lab, *services: str) -> Iterator[WritingServices]:
    """New services on volumes of the class twinvault-metro, writing, in sync."""
    require_classes(lab, METRO)
    scene = Scene(lab, METRO, services or (ROWS,))
    with Observer(lab) as observer, Watch(lab, NAMESPACE) as watch:
        writing = WritingServices(lab, Trial(lab, scene, observer, watch, replicated=True))
        # What is undone last was done first; each is undone although another one fails.
        with ExitStack() as undoing:
            undoing.callback(set_stable_seconds, lab, METRO, None)
            undoing.callback(scene.remove)
            undoing.callback(_mend, writing)
            with step("services that write"):
                set_stable_seconds(lab, METRO, STABLE_SECONDS)
                scene.remove()
                scene.ensure()
                scene.wait_ready(SERVE_SECONDS)
                writing.trial.wait_settled()
                writing.trial.wait_writing(time.time(), SERVE_SECONDS)
            yield writing


def _mend(writing: WritingServices) -> None:
    with step("mending the lab"):
        writing.ground().heal()
