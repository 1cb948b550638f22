"""I/O of a staged volume against a raw O_DIRECT file on the same disk, with fio.

Volume: ext4 on a loop device on an image in the pool's XFS. Raw: a file in that XFS, opened
O_DIRECT. Short turns on each side alternate, so that both meet the same weather; the ratio is of
the medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from bench.engine_rig import GIB, MIB, Load, add_arguments, fill, make_rig, run_fio
from bench.figures import print_figure

LOADS = (
    Load("randread 4k QD1", "randread", "4k", 1),
    Load("randwrite 4k QD1", "randwrite", "4k", 1),
    Load("randread 4k QD32", "randread", "4k", 32),
    Load("randwrite 4k QD32", "randwrite", "4k", 32),
    Load("randrw 16k QD16", "randrw", "16k", 16),
    Load("read 1M QD16", "read", "1M", 16),
    Load("write 1M QD16", "write", "1M", 16),
)
GOAL_DEEP, GOAL_QD1 = 0.9, 0.6


def operations_per_second(job: dict[str, Any]) -> float:
    return float(job["read"]["iops"]) + float(job["write"]["iops"])


def measure(raw: Path, volume: Path, size_bytes: int, seconds: float, turns: int) -> list[Any]:
    rows = []
    for load in LOADS:
        results: dict[str, list[float]] = {"raw": [], "volume": []}
        for _ in range(turns):
            for side, target in (("raw", raw), ("volume", volume)):
                job = run_fio(target, size_bytes, load, seconds)
                results[side].append(operations_per_second(job))
        ours, theirs = (statistics.median(results[side]) for side in ("volume", "raw"))
        goal = GOAL_QD1 if load.depth == 1 else GOAL_DEEP
        ratio = round(ours / theirs, 3)
        rows.append(
            {"load": load.name, "volume_iops": round(ours), "raw_iops": round(theirs),
             "ratio": ratio, "goal": goal, "met": ratio >= goal}
        )  # fmt: skip
        print(f"{load.name}: {ours:.0f} / {theirs:.0f} = {ratio}", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=512)
    given = parser.parse_args()
    size = given.size_mib * MIB
    with make_rig(given.device, given.directory, 4 * size + GIB) as rig:
        raw = rig.pool_root / "raw"
        volume = rig.make_volume("volume", size + size // 4) / "file"
        for target in (raw, volume):
            fill(target, size)
        rows = measure(raw, volume, size, given.seconds, given.turns)
    print_figure(
        "local_io",
        figure={row["load"]: row["volume_iops"] for row in rows},
        compared_with={row["load"]: row["raw_iops"] for row in rows},
        ratio={row["load"]: row["ratio"] for row in rows},
        goal=f">= {GOAL_DEEP} at QD >= 16, >= {GOAL_QD1} at QD1",
        details={
            "missed": [row["load"] for row in rows if not row["met"]],
            "unit": "operations a second",
            "compared": "raw O_DIRECT file in the same XFS",
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
