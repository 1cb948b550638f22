"""Idle memory and CPU of each process of ours, from /proc inside the nodes: with what the lab has
now, and with replicated volumes in use that nobody writes to.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.block_volumes import bench_namespace, make_volume
from bench.figures import print_figure
from bench.lab_bench import METRO, require_classes, run_bench
from e2e.faults.settled import wait_settled
from e2e.lab.api import Lab, LabError
from e2e.lab.progress import say, step

IDLE_SECONDS = 60
REPLICATED = 4
_VOLUME_MIB = 64
_CALM_SECONDS = 15.0
"""Until what the new volumes set going is over."""
PROCESSES = (
    "twinvault-operator",
    "twinvault-csi-controller",
    "twinvault-agent",
    "twinvault-csi-node",
)
FOLLOWER = "drbdsetup"
"""The agent's child that tells it of DRBD's changes; its memory and time are the agent's."""
GOALS_MIB = {"operator": 120.0, "csi-controller": 80.0, "agent+csi-node": 120.0}

# Runs in the node with its own Python: one line a process.
_PROBE = r"""
import glob, os
for path in glob.glob("/proc/[0-9]*"):
    try:
        words = open(path + "/cmdline", "rb").read().split(b"\0")
        name = next((os.path.basename(w).decode() for w in words[:3]
                     if os.path.basename(w).startswith(b"twinvault-")), "")
        if os.path.basename(words[0]).startswith(b"drbdsetup") and words[1:2] == [b"events2"]:
            name = "drbdsetup"
        if not name:
            continue
        stat = open(path + "/stat").read().rsplit(")", 1)[1].split()
        pss = [l for l in open(path + "/smaps_rollup") if l.startswith(("Pss:", "Rss:"))]
        kib = {l.split(":")[0]: int(l.split()[1]) for l in pss}
        print(name, path[6:], int(stat[11]) + int(stat[12]), kib["Rss"], kib["Pss"])
    except (OSError, IndexError, KeyError):
        continue
"""


@dataclass(frozen=True)
class Sample:
    """One process: CPU in clock ticks since its start, memory in KiB."""

    name: str
    node: str
    pid: str
    ticks: int
    rss_kib: int
    pss_kib: int


def observe_processes(lab: Lab) -> list[Sample]:
    found = []
    for node in lab.nodes:
        text = node.exec("python3", "-c", _PROBE).check().text
        for line in text.splitlines():
            name, pid, ticks, rss, pss = line.split()
            found.append(Sample(name, node.name, pid, int(ticks), int(rss), int(pss)))
    return found


def measure(lab: Lab) -> list[dict[str, Any]]:
    """A row for each process that lives through the idle time."""
    before = {(s.node, s.pid): s for s in observe_processes(lab)}
    begun = time.monotonic()
    time.sleep(IDLE_SECONDS)
    after = observe_processes(lab)
    rows = choose_rows(before, after, time.monotonic() - begun)
    if not rows:
        raise LabError("no process of twinvault runs in the lab; run without --no-deploy")
    return rows


def choose_rows(
    before: dict[tuple[str, str], Sample], after: Sequence[Sample], seconds: float
) -> list[dict[str, Any]]:
    rows = []
    for sample in after:
        earlier = before.get((sample.node, sample.pid))
        if earlier is not None:
            cpu = (sample.ticks - earlier.ticks) / 100 / seconds * 100
            rows.append(
                {
                    "process": sample.name.removeprefix("twinvault-"),
                    "node": sample.node,
                    "rss_mib": round(sample.rss_kib / 1024, 1),
                    "pss_mib": round(sample.pss_kib / 1024, 1),
                    "cpu_percent": round(cpu, 2),
                }
            )
    return rows


def choose_worst(rows: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    """The largest of each kind of process over the nodes; what is on every node as one, with the
    agent's child.
    """
    worst: dict[str, float] = {}
    for row in rows:
        worst[str(row["process"])] = max(worst.get(str(row["process"]), 0.0), float(row[key]))
    both = sum(worst.get(name, 0.0) for name in ("agent", "csi-node", FOLLOWER))
    return {
        "operator": worst.get("operator", 0.0),
        "csi-controller": worst.get("csi-controller", 0.0),
        "agent+csi-node": round(both, 2),
    }


def measure_replicated(lab: Lab) -> list[dict[str, Any]]:
    with bench_namespace(lab, "footprint") as space:
        with step(f"{REPLICATED} replicated volumes"):
            names = {
                make_volume(space, f"rest-{number}", METRO, _VOLUME_MIB).name
                for number in range(REPLICATED)
            }
            wait_settled(lab, names, 2)
        time.sleep(_CALM_SECONDS)
        return measure(lab)


def bench(lab: Lab) -> int:
    require_classes(lab, METRO)
    say(f"  {IDLE_SECONDS} s with what there is")
    rows = measure(lab)
    replicated = measure_replicated(lab)
    parts = {"as found": rows, f"{REPLICATED} replicated volumes more": replicated}
    memory = {name: choose_worst(found, "rss_mib") for name, found in parts.items()}
    print_figure(
        "footprint",
        figure=memory,
        compared_with=GOALS_MIB,
        ratio={
            name: {key: round(found[key] / GOALS_MIB[key], 3) for key in GOALS_MIB}
            for name, found in memory.items()
        },
        goal="operator < 120 MiB, CSI controller < 80 MiB, agent with CSI node < 120 MiB,"
        " CPU < 1 % each",
        details={
            "cpu_percent": {n: choose_worst(found, "cpu_percent") for n, found in parts.items()},
            "processes": parts,
            "idle_seconds": IDLE_SECONDS,
            "unit": "MiB resident, the largest of each process over the nodes",
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_bench(bench))
