"""`make demo-failover`: east loses its power while patients are being registered.

Prints when each part of the failover happened, proves that every acknowledged patient is at west,
gives east its power back and waits until all is in sync again.
"""

from __future__ import annotations

import sys
import time

from e2e import deploy
from e2e.faults.acknowledged import Pause, find_longest_pause
from e2e.faults.settled import wait_settled
from e2e.faults.timeline import choose_phases, describe_moments
from e2e.faults.watch import Watch
from e2e.hospital import Desk, Hospital
from e2e.lab import cluster
from e2e.lab.api import Lab
from e2e.lab.cli import FAILURES
from e2e.lab.progress import WaitError, say, step

LOST, LEFT = "east", "west"
KNOWN_PATIENTS = 100
MORE_PATIENTS = 20
SERVE_SECONDS = 120.0
SYNC_SECONDS = 300.0
_SHOWN = ("get", "replicationpairs,volumes.twinvault.io")


def main() -> int:
    lab = Lab()
    try:
        systems = prepare(lab)
        desk = Desk(systems[0], "failover-desk", LEFT)
        desk.close()
        desk.open()
        try:
            fail_over(lab, systems[0], desk)
            come_back(lab, systems)
        finally:
            desk.close()
    except FAILURES as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; `python3 -m e2e.lab up` gives every site its power back")
        return 130
    deploy.show(lab, *_SHOWN)
    return 0


def prepare(lab: Lab) -> list[Hospital]:
    """Both systems serve and are in sync; the first one runs at the site that will be lost."""
    cluster.up(lab.settings)
    deploy.install_chart(lab)
    deploy.apply_example(lab, "two-sites.yaml")
    deploy.wait_sites(lab)
    deploy.apply_example(lab, "active-active.yaml")
    systems = [Hospital(lab, system) for system in ("his", "emr")]
    for system in systems:
        with step(f"waiting for PostgreSQL of {system.namespace}"):
            system.wait_ready()
    wait_in_sync(lab, systems)
    if not systems[0].node().startswith(LOST):
        with step(f"moving {systems[0].namespace} to {LOST}"):
            _move(lab, systems[0])
        wait_in_sync(lab, systems)
    deploy.show(lab, *_SHOWN)
    return systems


def _move(lab: Lab, system: Hospital) -> None:
    """As kubectl drain does: it prefers to be at the site that the demo cuts off."""
    node = system.node()
    lab.kubectl("cordon", node)
    try:
        system.kubectl("delete", "pod", system.database_pod, "--wait=true", timeout_seconds=120)
        system.wait_ready()
    finally:
        lab.kubectl("uncordon", node)


def wait_in_sync(lab: Lab, systems: list[Hospital]) -> None:
    with step("waiting until both sites hold everything"):
        wait_settled(lab, {system.volume() for system in systems}, 2, SYNC_SECONDS)


def fail_over(lab: Lab, system: Hospital, desk: Desk) -> None:
    """Cut the power of the site under load; every patient promised until then is at the other."""
    desk.wait_acknowledged(len(desk.acknowledged()) + KNOWN_PATIENTS)
    with Watch(lab, system.namespace) as watch:
        time.sleep(1.0)  # until the watches have told what there is
        known = len(desk.acknowledged())
        cut_at = time.time()
        lab.site(LOST).kill()
        promised = desk.acknowledged()
        say(f"{LOST} has no power; {len(promised)} patients are promised, {known} before the cut")
        desk.wait_acknowledged(len(promised) + MORE_PATIENTS, SERVE_SECONDS)
        times = desk.acknowledged_at()
        pause = find_longest_pause(times, cut_at, times[-1])
        say(describe(watch, cut_at, pause))
    node = system.node()
    if not node.startswith(LEFT):
        raise WaitError(f"the database runs on {node}, not at {LEFT}")
    told = desk.check(promised).strip()
    say(f"every promised patient at {LEFT}: {told}")
    if f"checked {len(promised)}, missing 0, changed 0" not in told:
        raise WaitError(f"of {len(promised)} promised patients not all are there: {told}")


def describe(watch: Watch, cut_at: float, pause: Pause) -> str:
    """The course, and what the phases took, each from the cut of the power."""
    course = describe_moments(watch.moments(cut_at), cut_at)
    phases = choose_phases(watch.moments(cut_at), cut_at, pause.end)
    lines = ["", f"course, in seconds after {LOST} lost its power:", *course, "", "phases:"]
    lines += [f"{seconds:8.2f} s  {name}" for name, seconds in phases.items()]
    lines.append(f"no patient could be registered for {pause.seconds:.1f} s")
    return "\n".join(lines)


def come_back(lab: Lab, systems: list[Hospital]) -> None:
    with step(f"{LOST} has its power back"):
        lab.site(LOST).start()
    wait_in_sync(lab, systems)


if __name__ == "__main__":
    sys.exit(main())
