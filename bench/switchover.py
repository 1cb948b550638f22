"""How long PostgreSQL commits nothing when its node is drained.

The node is cordoned and the pod deleted, as `kubectl drain` does; it starts at the other site.
Compared in turns with the same pod deleted and started anew on its own node: what is more is the
move.
"""

from __future__ import annotations

import sys

from bench.figures import divide, print_figure, summarize, summarize_each
from bench.lab_bench import Row, parse_rounds, run_bench, run_rounds
from bench.writing_services import WritingServices, writing_services
from e2e.faults.acknowledged import ROWS
from e2e.faults.timeline import split_phases
from e2e.lab.api import Lab
from e2e.lab.progress import WaitError

ROUNDS = 10
GOAL_SECONDS = 5.0


def run_round(writing: WritingServices, number: int) -> Row:
    """The pod moves; then it is restarted where it is."""
    ground = writing.begin(number, "switchover")
    moved = writing.cycle_pod(ground, ROWS, away=True)
    if moved["to"] != ground.secondary:
        raise WaitError(f"the database runs on {moved['to']}, not on {ground.secondary}")
    ground = writing.begin(number, "restart")
    again = writing.cycle_pod(ground, ROWS, away=False)
    return {
        "moved": moved["pause"],
        "restarted": again["pause"],
        "phases": moved["phases"],
        "took": split_phases(moved["phases"]),
        "took_restarted": split_phases(again["phases"]),
    }


def bench(lab: Lab) -> int:
    rounds = parse_rounds(__doc__, ROUNDS)
    with writing_services(lab, ROWS) as writing:
        done = run_rounds(rounds, lambda number: run_round(writing, number))
    if done.rows:
        ours = summarize([row["moved"] for row in done.rows])
        floor = summarize([row["restarted"] for row in done.rows])
        print_figure(
            "switchover",
            figure={
                "pause": ours,
                "after": summarize_each(row["phases"] for row in done.rows),
                "took": summarize_each(row["took"] for row in done.rows),
            },
            compared_with={
                "pause": floor,
                "took": summarize_each(row["took_restarted"] for row in done.rows),
            },
            ratio=divide(ours, floor, "p50", "p95", "max"),
            goal=f"p95 <= {GOAL_SECONDS} s",
            details={
                "missed": ours["p95"] > GOAL_SECONDS,
                "unit": "seconds without a committed row; compared: restart on the same node",
                **done.details(),
            },
        )
    return done.exit_code


if __name__ == "__main__":
    sys.exit(run_bench(bench))
