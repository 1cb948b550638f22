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

from bench.engine_rig import GIB, MIB, NAME_PREFIX, Load, add_arguments, fill, make_rig, run_fio
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


def measure(
    raw: Path, volume: Path, size_bytes: int, seconds: float, turns: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
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


def measure_here(given: argparse.Namespace) -> list[dict[str, Any]]:
    size = given.size_mib * MIB
    with make_rig(given.pool, given.directory, 4 * size + GIB) as rig:
        name = f"{NAME_PREFIX}volume"
        raw = rig.pool_root / f"{name}.raw"
        try:
            volume = rig.make_volume(name, size + size // 4) / "file"
            for target in (raw, volume):
                fill(target, size)
            return measure(raw, volume, size, given.seconds, given.turns)
        finally:
            raw.unlink(missing_ok=True)


def collect(rows: list[dict[str, Any]], where: str) -> dict[str, Any]:
    return {
        "figure": {row["load"]: row["volume_iops"] for row in rows},
        "compared_with": {row["load"]: row["raw_iops"] for row in rows},
        "ratio": {row["load"]: row["ratio"] for row in rows},
        "missed": [f"{where}: {row['load']}" for row in rows if not row["met"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=512)
    given = parser.parse_args()
    found = {"here" if given.here else "host": collect(measure_here(given), "host")}
    if not given.here:
        from bench.in_node import run_in_node

        arguments = ("--seconds", f"{given.seconds}", "--turns", f"{given.turns}")
        inside = run_in_node("bench.local_io", (*arguments, "--size-mib", f"{given.size_mib}"))
        found["node"] = {
            **{key: inside[key]["here"] for key in ("figure", "compared_with", "ratio")},
            "missed": [text.replace("host", "node") for text in inside["details"]["missed"]],
        }
    print_figure(
        "local_io",
        figure={where: one["figure"] for where, one in found.items()},
        compared_with={where: one["compared_with"] for where, one in found.items()},
        ratio={where: one["ratio"] for where, one in found.items()},
        goal=f">= {GOAL_DEEP} at QD >= 16, >= {GOAL_QD1} at QD1",
        details={
            "missed": [text for one in found.values() for text in one["missed"]],
            "unit": "operations a second",
            "compared": "raw O_DIRECT file in the pool's own XFS, turn by turn",
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
