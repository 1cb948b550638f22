"""From the power cut of a site to the first row that PostgreSQL commits at the other one.

The database runs at the site that is cut off; after each round that site has its power back and all
is in sync again, so the next round cuts the other one. Compared with what no storage can avoid: the
time that a node may be silent, and the same pod deleted and started anew on its own node.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bench.figures import divide, print_figure, summarize, summarize_each
from bench.lab_bench import Rounds, Row, parse_rounds, run_bench, run_rounds
from bench.writing_services import WritingServices, writing_services
from e2e.deploy import get_json
from e2e.faults.acknowledged import ROWS
from e2e.faults.ground import Ground
from e2e.faults.runner import ONSET_SECONDS
from e2e.faults.timeline import FIRST_WRITE, split_phases
from e2e.faults.verdict import choose_recovery
from e2e.lab.api import Lab
from e2e.lab.progress import WaitError, say

ROUNDS = 20
RESTARTS = 3
GOAL_SECONDS, LEAST_SECONDS = 10.0, 15.0
_TOLD_SECONDS = 8.0


def run_round(writing: WritingServices, number: int) -> Row:
    ground = writing.begin(number, "rto")
    site = ground.site_of(ground.primary)
    say(f"  {site} loses its power")
    begun = time.monotonic()
    try:
        ground.strike()
        writing.lab.site(site).kill()
        writing.wait_going_on(ground)
        onset = writing.measure_pause(ROWS, ground.struck_at, ground.struck_at + ONSET_SECONDS)
        phases = writing.measure_phases(ground, ROWS, onset.end)
        now_at = writing.trial.scene.node_of(ROWS)
        told = wait_operators_phases(writing.lab, ground)
    finally:
        ground.heal()
    if now_at != ground.secondary:
        raise WaitError(f"the database runs on {now_at or 'no node'}, not on {ground.secondary}")
    return {
        "site": site,
        "rto": round(choose_recovery(onset, ground.struck_at), 3),
        "phases": phases,
        "took": split_phases(phases),
        "operator": told,
        "round_seconds": round(time.monotonic() - begun, 1),
    }


def wait_operators_phases(lab: Lab, ground: Ground) -> dict[str, float]:
    """What the operator tells in the pair's status of this failover; as far as it is over when it
    does not get to the end in time.
    """
    found: dict[str, float] = {}
    deadline = time.monotonic() + _TOLD_SECONDS
    while "total" not in found and time.monotonic() < deadline:
        time.sleep(0.5)
        pairs = get_json(lab, "replicationpairs")["items"]
        found = choose_operators_phases(pairs, ground.primary, ground.struck_at)
    return found


def choose_operators_phases(
    pairs: Sequence[Mapping[str, Any]], lost: str, struck_at: float
) -> dict[str, float]:
    """Phase -> seconds, each by itself, of the failover away from ``lost`` that was told since
    ``struck_at``, seconds of time.time(); nothing while there is none. A phase that no operator saw
    to its end has no figure.
    """
    for pair in pairs:
        last = pair.get("status", {}).get("lastFailover") or {}
        if last.get("from") != lost:
            continue
        # Told in whole seconds.
        if datetime.fromisoformat(last["time"]).timestamp() >= struck_at - 1.0:
            phases = last.get("phases", ())
            return {p["name"]: float(p["seconds"]) for p in phases if "seconds" in p}
    return {}


def restart(writing: WritingServices, number: int) -> Row:
    """The pod again on its own node: ending, being made, scheduled, started, first row."""
    ground = writing.begin(number, "restart")
    return writing.cycle_pod(ground, ROWS, away=False)


def print_all(done: Rounds, restarts: Rounds, lease_seconds: int) -> None:
    ours = summarize([row["rto"] for row in done.rows])
    again = [lease_seconds + row["pause"] for row in restarts.rows]
    floor = summarize(again) if again else {}
    print_figure(
        "rto",
        figure={
            "rto": ours,
            "after": summarize_each(row["phases"] for row in done.rows),
            "took": summarize_each(row["took"] for row in done.rows),
        },
        compared_with={"silence allowed and the pod restarted in place": floor},
        ratio=divide(ours, floor, "p50") if floor else {},
        goal=f"p95 <= {GOAL_SECONDS} s, {LEAST_SECONDS} s is the least that will do",
        details={
            "missed": ours["p95"] > GOAL_SECONDS,
            "operator": summarize_each(row["operator"] for row in done.rows),
            "lease_seconds": lease_seconds,
            "restarts": restarts.details(),
            "unit": f"seconds from SIGKILL to '{FIRST_WRITE}'; took: since the phase before",
            **done.details(),
        },
    )


def bench(lab: Lab) -> int:
    rounds = parse_rounds(__doc__, ROUNDS)
    with writing_services(lab, ROWS) as writing:
        restarts = run_rounds(min(RESTARTS, rounds), lambda number: restart(writing, number))
        if restarts.interrupted:
            return restarts.exit_code
        done = run_rounds(rounds, lambda number: run_round(writing, number))
        lease_seconds = writing.lease_seconds()
    if done.rows:
        print_all(done, restarts, lease_seconds)
    return done.exit_code or restarts.exit_code


if __name__ == "__main__":
    sys.exit(run_bench(bench))
