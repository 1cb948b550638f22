"""What a fault can do to the lab, and how all of it is undone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from e2e.faults.node_programs import (
    FILL,
    FILLER,
    HOG,
    HUNTER,
    HUNTER_READY,
    KERNEL_MARK,
    MEMORY,
    SIGNAL,
)
from e2e.faults.plan import DELAY_SECONDS, RunPlan
from e2e.faults.scene import CLAIMS, NAMESPACE, PODS, Scene
from e2e.faults.sight import Sight
from e2e.lab import faults as lab_faults
from e2e.lab.api import Lab, LabNode
from e2e.lab.command import CommandError
from e2e.lab.config import LOCATIONS
from e2e.lab.exec_channel import ExecError
from e2e.lab.network import pairs
from e2e.lab.progress import WaitError, together, wait_until
from e2e.workload import volume_snapshot

AGENT = "twinvault-agent"
OPERATOR = "twinvault-operator"
KUBELET = "kubelet"
HELPER = "fence-peer"
SLOW_STOPPED_SECONDS, SLOW_RUNNING_SECONDS = 0.8, 0.2
GROWTH_BYTES = 16 << 20
SNAPSHOT = "during-fault"
LEFT_MEMORY_KIB = 24 << 10
RECLAIMED_PAGES = 5000
MISSED_BYTES = 96 << 20
_DATA = "/var/lib/postgresql/data"


@dataclass
class Ground:
    """One run's surroundings. ``primary``: the node of the database when the run began."""

    lab: Lab
    scene: Scene
    plan: RunPlan
    primary: str
    secondary: str
    struck_at: float = 0.0
    api_away: bool = False
    eyes: Sight | None = None
    hit: bool | None = None
    """Whether the fault met the state that it is about; None where there is none to miss."""
    seen: str = ""
    """What that state was, or what was there instead."""
    leaders: dict[str, str] = field(default_factory=dict)
    asked_bytes: dict[str, int] = field(default_factory=dict)
    """Claim -> size that was asked for."""
    filesystem_bytes: int = 0
    snapshots_taken: bool = False
    _failed_disks: set[str] = field(default_factory=set)
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def strike(self) -> None:
        """The fault begins now: what comes after is measured from here."""
        self.struck_at = time.time()

    def saw(self, what: str) -> None:
        self.hit, self.seen = True, what

    def missed(self, what: str) -> None:
        self.hit, self.seen = False, what

    @property
    def sight(self) -> Sight:
        assert self.eyes is not None, "this run does not look at the volume's course"
        return self.eyes

    @property
    def share(self) -> float:
        """Where in its course the fault strikes, 0 to 1: the seed's delay says it."""
        return self.plan.delay_seconds / DELAY_SECONDS[1]

    def node(self, name: str) -> LabNode:
        return self.lab.node(name)

    def site_of(self, node: str) -> str:
        return self.node(node).plan.location.name

    def pause(self) -> None:
        """Between the two parts of a fault."""
        time.sleep(self.plan.delay_seconds)

    def cut_link(self) -> None:
        self.lab.link(self.site_of(self.primary), self.site_of(self.secondary)).cut()

    def isolate(self, node: str) -> None:
        """The node's site reaches neither the other site nor the API's majority."""
        for location in LOCATIONS:
            if location.name != self.site_of(node):
                self.lab.link(self.site_of(node), location.name).cut()

    def freeze_api(self) -> None:
        """Every API server takes connections and answers nothing."""
        self.api_away = True
        for location in LOCATIONS:
            self.lab.site(location.name).freeze_api_server()

    def fail_disk(self, node: str) -> None:
        self._failed_disks.add(node)
        self.node(node).fail_disk()

    def slow_api(self) -> None:
        """Every API server is stopped four fifths of the time."""

        def stutter() -> None:
            sites = [self.lab.site(location.name) for location in LOCATIONS]
            while not self._ending.is_set():
                for site in sites:
                    site.freeze_api_server()
                self._ending.wait(SLOW_STOPPED_SECONDS)
                for site in sites:
                    site.thaw_api_server()
                self._ending.wait(SLOW_RUNNING_SECONDS)

        self.background(stutter)

    def background(self, act: Callable[[], None]) -> None:
        """Run beside the fault until it is healed."""
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        self._threads.append(thread)

    def signal(self, node: str, program: str, number: str) -> int:
        """Send a signal to every process of the program on a node; how many there were."""
        script = SIGNAL.replace("PROGRAM", program).replace("SIGNAL", number)
        return self.node(node).exec("sh", "-c", script).check().text.count("told")

    def require_signal(self, node: str, program: str, number: str) -> None:
        """As ``signal``; WaitError when there was no such process: the fault did not happen."""
        count = self.signal(node, program, number)
        if not count:
            raise WaitError(f"there is no process {program} at {node} to be sent {number}")
        self.saw(f"{count} {program} sent {number}")

    def kill_program(self, program: str, nodes: Sequence[str]) -> None:
        """At all these nodes; WaitError when it ran at none of them."""
        killed = sum(self.signal(node, program, "KILL") for node in nodes)
        if not killed:
            raise WaitError(f"there is no process {program} at {', '.join(nodes)} to kill")
        self.saw(f"{killed} {program} killed")

    def hunt(self, node: str, program: str, seconds: float) -> None:
        """Kill the program as soon as it starts, again and again, from now on."""

        def chase() -> None:
            argv = ("python3", "-", program, str(seconds))
            try:
                done = self.node(node).exec(
                    *argv, stdin=HUNTER.encode(), timeout_seconds=seconds + 20
                )
                killed = int(done.check().text)
            except ExecError as error:
                self.missed(f"the hunter for {program}: {error}")
            else:
                (self.saw if killed else self.missed)(f"{killed} {program} killed")

        self.background(chase)
        wait_until(
            f"the hunter for {program}",
            lambda: not self.node(node).exec("test", "-e", HUNTER_READY).returncode,
            timeout_seconds=20,
            interval_seconds=0.05,
        )

    def fill_pool(self, node: str) -> None:
        self.node(node).exec("sh", "-c", FILL, timeout_seconds=120).check()

    def write_much(self, count_bytes: int = MISSED_BYTES) -> None:
        """Change so much of the database's volume, in a file beside the database."""
        name = f"{_DATA}/fault-ballast"
        argv = ("dd", "if=/dev/urandom", f"of={name}", "bs=1M", f"count={count_bytes >> 20}")
        words = ("exec", PODS["rows"], "--", *argv, "conv=fsync")
        self.scene.kubectl(*words, timeout_seconds=90)

    def press_memory(self, node: str, seconds: float) -> None:
        """Take all memory of the node but a little, so that it has to reclaim what it needs."""

        def press() -> None:
            run = self.node(node).exec
            argv = ("python3", "-", str(LEFT_MEMORY_KIB), str(seconds))
            try:
                before = _numbers(run("sh", "-c", MEMORY).check().text)
                done = run(*argv, stdin=HOG.encode(), timeout_seconds=seconds + 60)
                after = _numbers(run("sh", "-c", MEMORY).check().text)
            except ExecError as error:
                self.missed(f"memory of {node}: {error}")
                return
            scanned = sum(after[n] - before[n] for n in ("pgscan_kswapd", "pgscan_direct"))
            told = (
                f"{done.text.strip() or '?'} MiB held of {before['MemAvailable:'] >> 10} available,"
                f" {scanned} pages looked at for reclaim,"
                f" {after['oom_kill'] - before['oom_kill']} ended by the OOM killer"
            )
            (self.saw if scanned >= RECLAIMED_PAGES else self.missed)(told)

        self.background(press)

    def mark_kernel_logs(self) -> None:
        """What the nodes' kernels say from now on is this fault's."""
        for node in self.lab.nodes:
            text = f"{KERNEL_MARK} {self.plan.seed}"
            node.exec("sh", "-c", f"echo '{text}' > /dev/kmsg").check()

    def send_away(self) -> None:
        """As kubectl drain of the primary does to our pods, without waiting."""
        self.lab.kubectl("cordon", self.primary)
        pods = (PODS[service] for service in self.scene.services)
        self.scene.kubectl("delete", "pod", *pods, "--wait=false")

    def observe_filesystem_bytes(self) -> int:
        """Size of the database's filesystem as its pod sees it."""
        words = ("exec", PODS["rows"], "--", "df", "-B1", "--output=size", _DATA)
        return int(self.scene.kubectl(*words).split()[-1])

    def grow_volumes(self) -> None:
        self.filesystem_bytes = self.observe_filesystem_bytes()
        for name in CLAIMS.values():
            claim = self.scene.get(f"pvc/{name}")
            size = int(self.volume_size(claim["spec"]["volumeName"])) + GROWTH_BYTES
            self.asked_bytes[name] = size
            patch = {"spec": {"resources": {"requests": {"storage": str(size)}}}}
            self.scene.kubectl("patch", "pvc", name, "--type=merge", "-p", json.dumps(patch))

    def volume_size(self, volume: str) -> str:
        path = "jsonpath={.spec.sizeBytes}"
        return self.lab.kubectl("get", "volumes.twinvault.io", volume, "-o", path)

    def take_snapshots(self) -> None:
        items = [volume_snapshot(f"{SNAPSHOT}-{name}", name) for name in CLAIMS.values()]
        body = {"apiVersion": "v1", "kind": "List", "items": items}
        self.snapshots_taken = True
        self.scene.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def heal(self) -> None:
        """Undo whatever any fault does. May be repeated; nothing is undone twice."""
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=120)
        for one, other in pairs():
            self.lab.link(one.name, other.name).heal()
        for location in LOCATIONS:
            if lab_faults.is_dark(location):
                self.lab.site(location.name).start()
            self.lab.site(location.name).thaw_api_server()
        self.api_away = False
        together([partial(self._heal_node, node) for node in self.lab.nodes])
        self._heal_objects()

    def _heal_node(self, node: LabNode) -> None:
        if node.name in self._failed_disks:
            # A disk is exchanged with the node switched off; the filesystem on it is shut anyway.
            node.kill()
        if node.is_running():
            node.thaw()
        else:
            node.start()
        self.signal(node.name, AGENT, "CONT")
        node.exec("sh", "-c", f"rm -f {FILLER}").check()

    def _heal_objects(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                for node in self.lab.nodes:
                    self.lab.kubectl("uncordon", node.name, timeout_seconds=20)
            except CommandError:
                # The API server has just been thawed, or its site has just got power.
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return

    def remove_snapshots(self) -> None:
        """Those of ``take_snapshots``, after they were looked at."""
        if self.snapshots_taken:
            snapshots = [f"{SNAPSHOT}-{name}" for name in CLAIMS.values()]
            words = ("delete", "volumesnapshot", *snapshots, "--ignore-not-found")
            self.lab.kubectl("-n", NAMESPACE, *words, timeout_seconds=90)
            self.snapshots_taken = False


def _numbers(text: str) -> dict[str, int]:
    """Of lines NAME NUMBER."""
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if words}
