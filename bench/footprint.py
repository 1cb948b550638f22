"""Idle memory and CPU of each process of ours, from /proc inside the nodes."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench.figures import print_figure
from e2e.lab.api import Lab

IDLE_SECONDS = 60
PROCESSES = (
    "twinvault-operator",
    "twinvault-csi-controller",
    "twinvault-agent",
    "twinvault-csi-node",
)
GOALS_MIB = {"operator": 120.0, "csi-controller": 80.0, "agent+csi-node": 120.0}

# Runs in the node with its own Python: one line a process.
_PROBE = r"""
import glob, os
for path in glob.glob("/proc/[0-9]*"):
    try:
        words = open(path + "/cmdline", "rb").read().split(b"\0")
        name = next((os.path.basename(w).decode() for w in words[:3]
                     if os.path.basename(w).startswith(b"twinvault-")), "")
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


def main() -> int:
    lab = Lab()
    before = {(s.node, s.pid): s for s in observe_processes(lab)}
    begun = time.monotonic()
    time.sleep(IDLE_SECONDS)
    after = observe_processes(lab)
    seconds = time.monotonic() - begun
    rows: list[dict[str, Any]] = []
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
    if not rows:
        print(json.dumps({"error": "no process of twinvault runs in the lab"}))
        return 1
    worst: dict[str, float] = {}
    for row in rows:
        worst[str(row["process"])] = max(worst.get(str(row["process"]), 0.0), float(row["rss_mib"]))
    figure = {
        "operator": worst.get("operator"),
        "csi-controller": worst.get("csi-controller"),
        "agent+csi-node": round(worst.get("agent", 0) + worst.get("csi-node", 0), 1),
    }
    print_figure(
        "footprint",
        figure=figure,
        compared_with=GOALS_MIB,
        ratio={key: round((figure[key] or 0) / GOALS_MIB[key], 3) for key in GOALS_MIB},
        goal="operator < 120 MiB, CSI controller < 80 MiB, agent with CSI node < 120 MiB,"
        " CPU < 1 % each",
        details={"processes": rows, "idle_seconds": round(seconds, 1)},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
