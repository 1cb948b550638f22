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

from bench.engine_rig import GIB, MIB, POOL, Load, Rig, add_arguments, fio_arguments, make_rig
from bench.figures import print_figure

EXTENTS = (1_000, 10_000, 100_000)
GOAL_SECONDS = 0.1
SNAPSHOTS = 5
WRITER = Load("writer", "randwrite", "4k", 1)
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
            facts = rig.engine.observe_volume(POOL, "volume")
            assert facts is not None
            found = facts.extents
    finally:
        os.close(fd)
    return found


def longest_latency(rig: Rig, volume: Path, seconds: float, name: str) -> subprocess.Popen[str]:
    """A writer that logs each of its latencies to ``name``_clat.*.log."""
    argv = [
        *fio_arguments(volume / "writer", 16 * MIB, WRITER, seconds),
        f"--write_lat_log={rig.root / name}",
        "--log_avg_msec=0",
    ]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_longest(rig: Rig, name: str) -> float:
    """The longest complete latency in the log, in seconds."""
    [log] = rig.root.glob(f"{name}_lat.*.log")
    worst = max(int(line.split(",")[1]) for line in log.read_text().splitlines())
    log.unlink()
    return worst / 1e9


def measure(rig: Rig, extents: int, seconds: float) -> dict[str, Any]:
    size = max(GIB, 2 * extents * _STEP_BYTES)
    volume = rig.make_volume("volume", size)
    found = fragment(rig, volume / "fragmented", extents)
    quiet = longest_latency(rig, volume, seconds, "quiet")
    quiet.communicate(timeout=seconds + 120)
    calm = read_longest(rig, "quiet")
    writer = longest_latency(rig, volume, seconds, "busy")
    time.sleep(1.0)
    calls = []
    for index in range(SNAPSHOTS):
        started = time.monotonic()
        rig.engine.ensure_snapshot(POOL, f"snap-{index}", "volume", "uid-volume")
        calls.append(time.monotonic() - started)
        time.sleep(max(0.1, (seconds - 2.5) / SNAPSHOTS - calls[-1]))
    writer.communicate(timeout=seconds + 120)
    stall = read_longest(rig, "busy")
    for index in range(SNAPSHOTS):
        rig.engine.erase_snapshot(POOL, f"snap-{index}")
    rig.drop_volume("volume")
    row = {
        "extents": found,
        "call_seconds": round(statistics.median(calls), 4),
        "stall_seconds": round(stall, 4),
        "quiet_seconds": round(calm, 4),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    with make_rig(given.device, given.directory, 8 * GIB) as rig:
        rows = {str(count): measure(rig, count, given.seconds) for count in EXTENTS}
    print_figure(
        "snapshot_stall",
        figure={count: row["stall_seconds"] for count, row in rows.items()},
        compared_with={count: row["quiet_seconds"] for count, row in rows.items()},
        ratio={c: round(r["stall_seconds"] / r["quiet_seconds"], 2) for c, r in rows.items()},
        goal=f"stall <= {GOAL_SECONDS} s at 1k extents",
        details={
            "call_seconds": {count: row["call_seconds"] for count, row in rows.items()},
            "extents": {count: row["extents"] for count, row in rows.items()},
            "missed": [c for c in ("1000",) if rows[c]["stall_seconds"] > GOAL_SECONDS],
            "unit": "seconds, the longest latency of a 4k QD1 writer; compared: no snapshots",
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
