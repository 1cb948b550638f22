"""How long the engine call of a snapshot takes, and how long it stalls a running writer.

The image is fragmented on purpose to 1k, 10k and 100k extents. fio then writes 4 KiB at QD1 and
logs every latency; snapshots are taken meanwhile. Compared with the longest latency of the same
writer, for as long, without snapshots.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.engine_rig import (
    GIB,
    MIB,
    NAME_PREFIX,
    Load,
    Rig,
    add_arguments,
    fio_arguments,
    make_rig,
)
from bench.figures import print_figure

EXTENTS = (1_000, 10_000, 100_000)
GOAL_SECONDS = 0.1
SNAPSHOTS = 5
WRITER = Load("writer", "randwrite", "4k", 1)
VOLUME = f"{NAME_PREFIX}volume"
_STEP_BYTES = 8192


def fragment(rig: Rig, file: Path, extents: int) -> int:
    """Write single blocks into ``file``, none next to another, until the image has ``extents``
    extents; returns how many it has. What a database does over months.
    """
    block = b"\xa5" * 4096
    found = index = 0
    fd = os.open(file, os.O_WRONLY | os.O_CREAT)
    try:
        while found < extents:
            for _ in range(max(1, (extents - found) // 2)):
                os.pwrite(fd, block, index * _STEP_BYTES)
                index += 1
            os.fsync(fd)
            facts = rig.engine.observe_volume(rig.pool, VOLUME)
            assert facts is not None
            found = facts.extents
    finally:
        os.close(fd)
    return found


def longest_latency(rig: Rig, volume: Path, seconds: float, name: str) -> subprocess.Popen[str]:
    """A writer that logs each of its latencies to ``name``_clat.*.log."""
    argv = [
        *fio_arguments(volume / "writer", 16 * MIB, WRITER, seconds),
        f"--write_lat_log={rig.scratch / name}",
        "--log_avg_msec=0",
    ]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_longest(rig: Rig, name: str) -> float:
    """The longest complete latency in the log, in seconds."""
    [log] = rig.scratch.glob(f"{name}_lat.*.log")
    worst = max(int(line.split(",")[1]) for line in log.read_text().splitlines())
    log.unlink()
    return worst / 1e9


def measure(rig: Rig, extents: int, seconds: float) -> dict[str, Any]:
    size = max(GIB, 2 * extents * _STEP_BYTES)
    volume = rig.make_volume(VOLUME, size)
    found = fragment(rig, volume / "fragmented", extents)
    quiet = longest_latency(rig, volume, seconds, "quiet")
    quiet.communicate(timeout=seconds + 120)
    calm = read_longest(rig, "quiet")
    writer = longest_latency(rig, volume, seconds, "busy")
    time.sleep(1.0)
    calls = []
    for index in range(SNAPSHOTS):
        started = time.monotonic()
        rig.engine.ensure_snapshot(rig.pool, f"{NAME_PREFIX}snap-{index}", VOLUME, f"uid-{VOLUME}")
        calls.append(time.monotonic() - started)
        time.sleep(max(0.1, (seconds - 2.5) / SNAPSHOTS - calls[-1]))
    writer.communicate(timeout=seconds + 120)
    stall = read_longest(rig, "busy")
    for index in range(SNAPSHOTS):
        rig.engine.erase_snapshot(rig.pool, f"{NAME_PREFIX}snap-{index}")
    rig.drop_volume(VOLUME)
    row = {
        "extents": found,
        "call_seconds": round(statistics.median(calls), 4),
        "stall_seconds": round(stall, 4),
        "quiet_seconds": round(calm, 4),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def collect(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "figure": {count: row["stall_seconds"] for count, row in rows.items()},
        "compared_with": {count: row["quiet_seconds"] for count, row in rows.items()},
        "ratio": {c: round(r["stall_seconds"] / r["quiet_seconds"], 2) for c, r in rows.items()},
        "call_seconds": {count: row["call_seconds"] for count, row in rows.items()},
        "extents": {count: row["extents"] for count, row in rows.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with make_rig(given.pool, given.directory, 8 * GIB) as rig:
        rows = {str(count): measure(rig, count, given.seconds) for count in EXTENTS}
    found = {"here" if given.here else "host": collect(rows)}
    if not given.here:
        from bench.in_node import run_in_node

        inside = run_in_node("bench.snapshot_stall", ("--seconds", f"{given.seconds}"))
        parts = ("figure", "compared_with", "ratio")
        found["node"] = {key: inside[key]["here"] for key in parts}
        found["node"] |= {k: inside["details"][k]["here"] for k in ("call_seconds", "extents")}
    print_figure(
        "snapshot_stall",
        figure={where: one["figure"] for where, one in found.items()},
        compared_with={where: one["compared_with"] for where, one in found.items()},
        ratio={where: one["ratio"] for where, one in found.items()},
        goal=f"stall <= {GOAL_SECONDS} s at 1k extents",
        details={
            "call_seconds": {where: one["call_seconds"] for where, one in found.items()},
            "extents": {where: one["extents"] for where, one in found.items()},
            "missed": [w for w, one in found.items() if one["figure"]["1000"] > GOAL_SECONDS],
            "unit": "seconds, the longest latency of a 4k QD1 writer; compared: no snapshots",
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
