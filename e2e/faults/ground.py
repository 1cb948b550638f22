"""What a fault can do to the lab, and how all of it is undone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from e2e.faults.plan import RunPlan
from e2e.faults.scene import CLAIMS, NAMESPACE, PODS, Scene
from e2e.lab import faults as lab_faults
from e2e.lab.api import Lab, LabNode
from e2e.lab.command import CommandError
from e2e.lab.config import LOCATIONS
from e2e.lab.exec_channel import ExecError
from e2e.lab.network import pairs
from e2e.lab.progress import together
from e2e.workload import volume_snapshot

AGENT = "twinvault-agent"
OPERATOR = "twinvault-operator"
KUBELET = "kubelet"
HELPER = "fence-peer"
SLOW_STOPPED_SECONDS, SLOW_RUNNING_SECONDS = 0.8, 0.2
GROWTH_BYTES = 16 << 20
SNAPSHOT = "during-fault"

# Every process whose program or Python script has that name. A program that is not there now is
# waited for a moment when $1 says so.
_SIGNAL = r"""
for path in /proc/[0-9]*; do
  if tr '\0' ' ' < $path/cmdline 2>/dev/null |
      grep -qE '^([^ ]*python[^ ]* )?([^ ]*/)?PROGRAM( |$)'; then
    kill -SIGNAL ${path#/proc/} && echo told
  fi
done
"""
_HOG = """
import sys, time
free = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemAvailable"))
held = bytearray(int(free * 1024 * float(sys.argv[1])))
for place in range(0, len(held), 4096):
    held[place] = 1
time.sleep(float(sys.argv[2]))
"""
_FILLER = "/var/lib/twinvault/pools/*/fault-filler"
_FILL = """
for pool in /var/lib/twinvault/pools/*; do
  free=$(df --output=avail -B1 $pool | tail -1)
  fallocate -l $free $pool/fault-filler || true
  dd if=/dev/zero of=$pool/fault-filler bs=64k oflag=append conv=notrunc 2>/dev/null || true
done
"""


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
    _failed_disks: set[str] = field(default_factory=set)
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def strike(self) -> None:
        """The fault begins now: what comes after is measured from here."""
        self.struck_at = time.time()

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
        script = _SIGNAL.replace("PROGRAM", program).replace("SIGNAL", number)
        return self.node(node).exec("sh", "-c", script).check().text.count("told")

    def signal_everywhere(self, program: str, number: str) -> int:
        running = [node.name for node in self.lab.nodes if node.is_running()]
        return sum(self.signal(name, program, number) for name in running)

    def hunt(self, node: str, program: str, seconds: float) -> None:
        """Kill the program as soon as it starts, again and again, from now on."""
        loop = _SIGNAL.replace("PROGRAM", program).replace("SIGNAL", "KILL")
        script = f"end=$(($(date +%s) + {round(seconds)})); while [ $(date +%s) -lt $end ]; do"
        script += f"\n{loop}\nsleep 0.02\ndone"

        def chase() -> None:
            with suppress(ExecError):
                self.node(node).exec("sh", "-c", script, timeout_seconds=seconds + 20)

        self.background(chase)

    def fill_pool(self, node: str) -> None:
        self.node(node).exec("sh", "-c", _FILL, timeout_seconds=120).check()

    def press_memory(self, node: str, share: float, seconds: float) -> None:
        """Take a share of what memory the node has left, all of it touched."""

        def press() -> None:
            with suppress(ExecError):
                argv = ("python3", "-", str(share), str(seconds))
                run = self.node(node).exec
                run(*argv, stdin=_HOG.encode(), timeout_seconds=seconds + 60)

        self.background(press)

    def send_away(self) -> None:
        """As kubectl drain of the primary does to our pods, without waiting."""
        self.lab.kubectl("cordon", self.primary)
        pods = (PODS[service] for service in self.scene.services)
        self.scene.kubectl("delete", "pod", *pods, "--wait=false")

    def grow_volumes(self) -> None:
        for name in CLAIMS.values():
            claim = self.scene.get(f"pvc/{name}")
            size = int(self.volume_size(claim["spec"]["volumeName"])) + GROWTH_BYTES
            patch = {"spec": {"resources": {"requests": {"storage": str(size)}}}}
            self.scene.kubectl("patch", "pvc", name, "--type=merge", "-p", json.dumps(patch))

    def volume_size(self, volume: str) -> str:
        path = "jsonpath={.spec.sizeBytes}"
        return self.lab.kubectl("get", "volumes.twinvault.io", volume, "-o", path)

    def take_snapshots(self) -> None:
        items = [volume_snapshot(f"{SNAPSHOT}-{name}", name) for name in CLAIMS.values()]
        body = {"apiVersion": "v1", "kind": "List", "items": items}
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
        node.exec("sh", "-c", f"rm -f {_FILLER}").check()

    def _heal_objects(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                for node in self.lab.nodes:
                    self.lab.kubectl("uncordon", node.name, timeout_seconds=20)
                snapshots = [f"{SNAPSHOT}-{name}" for name in CLAIMS.values()]
                words = ("delete", "volumesnapshot", *snapshots, "--ignore-not-found")
                self.lab.kubectl("-n", NAMESPACE, *words, timeout_seconds=90)
            except CommandError:
                # The API server has just been thawed, or its site has just got power.
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
            else:
                return
