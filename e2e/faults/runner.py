"""One run: a fault from the table, its cure, and the proof that nothing was lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from e2e.deploy import get_json, wait_seen
from e2e.faults.acknowledged import BLOCKS, ROWS, SERVICES, find_longest_pause
from e2e.faults.ground import Ground
from e2e.faults.monitor import Monitor
from e2e.faults.observer import Observer
from e2e.faults.plan import RunPlan
from e2e.faults.programs_facts import BLOCK_COUNT
from e2e.faults.result import RunResult
from e2e.faults.scene import PODS, Scene
from e2e.faults.settled import SETTLE_SECONDS, wait_settled
from e2e.faults.sight import Sight
from e2e.faults.table import Expectation, choose_expectation, find_fault
from e2e.faults.timeline import Moment, choose_phases
from e2e.faults.verdict import (
    Promises,
    choose_recovery,
    judge_course,
    shorten,
)
from e2e.faults.watch import Watch
from e2e.lab.api import Lab
from e2e.lab.cli import FAILURES
from e2e.lab.progress import WaitError, say, wait_until
from e2e.leftovers import find_leftovers

GO_ON_SECONDS = 60.0
MOVE_SECONDS = 60.0
SERVE_SECONDS = 180.0
ONSET_SECONDS = 3.0


@dataclass
class Trial:
    """What runs share: the lab, the services on it, and all that was ever promised."""

    lab: Lab
    scene: Scene
    observer: Observer
    watch: Watch
    replicated: bool
    promises: Promises = field(default_factory=lambda: Promises(BLOCK_COUNT))
    whole: frozenset[str] = frozenset()
    """What there is while the services are stopped and all is well."""

    @property
    def replicas(self) -> int:
        return 2 if self.replicated else 1

    def prepare(self) -> None:
        """New services that write, all in sync; what is there then is what may be left later."""
        self.scene.remove()
        # What earlier services were promised went with them.
        self.observer.forget(time.time())
        self.scene.ensure()
        self.scene.start()
        self.scene.wait_ready(SERVE_SECONDS)
        self.wait_settled()
        self.scene.stop()
        self.whole = find_leftovers(self.lab)
        self.scene.start()
        self.wait_writing(time.time(), SERVE_SECONDS)

    def wait_writing(self, since: float, timeout_seconds: float) -> None:
        for service in self.scene.services:
            self.observer.wait_heard(service, since, timeout_seconds)

    def wait_settled(self, timeout_seconds: float = SETTLE_SECONDS) -> None:
        """Until all nodes are well and the services' volumes are in sync everywhere."""
        volumes = {self.scene.volume(service) for service in self.scene.services}
        wait_settled(self.lab, volumes, self.replicas, timeout_seconds)

    def run(self, plan: RunPlan) -> RunResult:
        """Never raises for what a fault may cause: the result tells."""
        result = RunResult(seed=plan.seed, fault=plan.fault, replicated=self.replicated)
        begun = time.monotonic()
        self.watch.forget()
        primary = self.scene.node_of(ROWS)
        secondary = next(n.name for n in self.lab.nodes if n.name != primary)
        result.primary_before = primary
        volumes = {service: self.scene.volume(service) for service in SERVICES}
        ground = Ground(self.lab, self.scene, plan, primary, secondary)
        ground.eyes = self._sight(volumes[ROWS])
        since = time.time()
        with Monitor(
            self.lab, self.observer, self.watch, volumes, lambda: ground.api_away
        ) as monitor:
            for phase in (self._suffer, self._recover, self._prove):
                monitor.resting = phase == self._prove
                if not self._try(phase, ground, result):
                    break
            self._try(self._tidy, ground, result)
        result.problems += monitor.problems
        result.role_looks, result.roles = monitor.looks, monitor.log
        result.moments = self.watch.moments(since)
        self._measure(ground, result)
        result.seconds = round(time.monotonic() - begun, 1)
        return result

    def _try(
        self, phase: Callable[[Ground, RunResult], None], ground: Ground, result: RunResult
    ) -> bool:
        try:
            phase(ground, result)
        except FAILURES as error:
            result.problems.append(f"{phase.__name__.strip('_')}: {error}")
            return False
        return True

    def _sight(self, volume: str) -> Sight:
        device = get_json(self.lab, f"volumes.twinvault.io/{volume}").get("status", {})
        minor = (device.get("replicationDevice") or {}).get("minor", -1)
        return Sight(self.lab, self.watch, volume, minor)

    def _tidy(self, ground: Ground, result: RunResult) -> None:
        """What is kept until it was looked at, also when nobody came to look."""
        ground.remove_snapshots()

    def _suffer(self, ground: Ground, result: RunResult) -> None:
        """The fault, for as long as the plan says and until it was seen what must be seen."""
        fault = find_fault(ground.plan.fault)
        expectation = choose_expectation(fault, self.replicated)
        assert expectation is not None, f"{fault.name} does not apply"
        time.sleep(ground.plan.warm_seconds)
        try:
            fault.inject(ground)
            held_until = time.time() + ground.plan.hold_seconds
            went_on = self._wait_course(ground, expectation)
            time.sleep(max(0.0, held_until - time.time()))
            result.node_during = self._node_of_rows()
        finally:
            # Also when the fault could not be done whole: the next one needs a whole lab.
            result.healed_at = time.time()
            ground.heal()
            result.hit, result.seen, result.leaders = ground.hit, ground.seen, ground.leaders
        result.problems += judge_course(
            expectation, went_on=went_on, before=ground.primary, after=result.node_during
        )

    def _wait_course(self, ground: Ground, expectation: Expectation) -> bool:
        """Whether both services go on while the fault lasts, at the other node if it must be."""
        if not expectation.goes_on:
            return False
        try:
            if expectation.moves:
                wait_until(
                    f"the database to leave {ground.primary}",
                    lambda: self._node_of_rows() not in ("", ground.primary),
                    timeout_seconds=MOVE_SECONDS,
                )
            # A second more: an acknowledgement under way when the fault came is no sign.
            self.wait_writing(max(time.time(), ground.struck_at + 1.0), GO_ON_SECONDS)
        except WaitError as error:
            say(f"  {error}")
            return False
        return True

    def _node_of_rows(self) -> str:
        """As last told by the API; '' while its pod has no node."""
        pods = [p for p in self.watch.latest("Pod") if p["metadata"]["name"] == PODS[ROWS]]
        return str(pods[0]["spec"].get("nodeName") or "") if pods else ""

    def _recover(self, ground: Ground, result: RunResult) -> None:
        """Writes go on, everything is in sync again."""
        self.wait_writing(time.time(), SERVE_SECONDS)
        self.wait_settled()
        result.settle_seconds = round(time.time() - result.healed_at, 2)
        result.primary_after = self.scene.node_of(ROWS)
        aftermath = find_fault(ground.plan.fault).aftermath
        if aftermath is not None:
            result.problems += aftermath(ground)
            result.seen = ground.seen
        ground.remove_snapshots()

    def _prove(self, ground: Ground, result: RunResult) -> None:
        """Stop the writers, compare images and leftovers, start them, ask for every number."""
        self.scene.stop()
        result.problems += shorten(self.promises.add(self.observer.heard()))
        self._measure(ground, result)
        self.observer.forget(time.time())
        result.problems += self._compare_images()
        result.problems += self._find_leftovers()
        self.scene.start()
        self.wait_writing(time.time(), SERVE_SECONDS)
        result.problems += shorten(self.promises.find_missing_rows(self.scene.dump_rows()))
        result.checked = self.promises.count

    def _compare_images(self) -> list[str]:
        problems = []
        for service in SERVICES:
            holders = self.scene.holders(service)
            if len(holders) != self.replicas:
                problems.append(f"{service}: replicas on {holders}, not {self.replicas}")
            sums = {node: self._checksum(service, node) for node in holders}
            if len(set(sums.values())) > 1:
                problems.append(f"{service}: the images differ: {sums}")
        for node in self.scene.holders(BLOCKS):
            missing = self.promises.find_missing_blocks(self.scene.dump_blocks(node))
            problems += [f"{node}: {text}" for text in shorten(missing)]
        return problems

    def _checksum(self, service: str, node: str) -> str:
        image = self.scene.image(service, node)
        # Direct: what lies on the disk, not what the node's page cache holds of it.
        script = f"dd if={image} bs=1M iflag=direct status=none | sha256sum"
        done = self.lab.node(node).exec("sh", "-c", script, timeout_seconds=180)
        return done.check().text.split()[0]

    def _find_leftovers(self) -> list[str]:
        extra: frozenset[str] = frozenset()

        def clean() -> tuple[bool, str]:
            nonlocal extra
            extra = find_leftovers(self.lab) - self.whole
            return not extra, "\n".join(sorted(extra))

        try:
            wait_seen("nothing to be left over", clean, timeout_seconds=60)
        except WaitError:
            return [f"left over: {line}" for line in sorted(extra)]
        return []

    def _measure(self, ground: Ground, result: RunResult) -> None:
        """Pauses and recovery of each service, from the fault to the end of what was heard."""
        if result.pauses or not ground.struck_at:
            return
        result.struck_at = ground.struck_at
        moments: list[Moment] = self.watch.moments(ground.struck_at)
        for service in SERVICES:
            times = self.observer.times(service)
            until = times[-1] if times else time.time()
            pause = find_longest_pause(times, ground.struck_at, until)
            result.pauses[service] = round(pause.seconds, 3)
            # Of the pauses that the fault began, not of one that its cure brought later.
            onset = find_longest_pause(times, ground.struck_at, ground.struck_at + ONSET_SECONDS)
            recovery = choose_recovery(onset, ground.struck_at)
            result.recoveries[service] = round(recovery, 3)
            if service == ROWS:
                result.phases = choose_phases(moments, ground.struck_at, onset.end)
