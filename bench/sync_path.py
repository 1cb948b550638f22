"""4k random writes on a replicated volume, on bare DRBD, and on a volume with one replica.

The replicated volume comes through CSI with its pod. Bare DRBD has the same settings, metadata,
activity log and kind of image in the same pools, made by hand. fio runs in the node on each device
in turns (A B, B A, ...), so that all meet the same weather; figures are medians of the turns. The
round trip between the sites is made longer by netem.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.bare_drbd import bare_resource
from bench.block_volumes import bench_namespace, fill_device, make_volume, run_fio_on
from bench.engine_rig import MIB, Load
from bench.figures import print_figure
from bench.lab_bench import LOCAL, METRO, require_classes, run_bench
from e2e.faults.settled import wait_settled
from e2e.lab.api import Lab, LabNode
from e2e.lab.progress import say, step

GOAL = 0.95
ROUND_TRIPS_MS = (0, 1, 5, 10)
DEPTHS = (1, 32)
SYNC, BARE, ALONE = "replicated", "bare", "unreplicated"
_VOLUME_MIB, _USED_MIB = 512, 256
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Turn:
    """One run of fio: ``round_trip_ms`` is what netem adds."""

    round_trip_ms: int
    depth: int
    side: str

    @property
    def case(self) -> str:
        return f"rtt {self.round_trip_ms} ms QD{self.depth}"


def plan_turns(turns: int) -> Iterator[Turn]:
    """Both sides of each case ``turns`` times, every second time in the other order. One replica
    does not feel the link: it has its turns where nothing is added.
    """
    for round_trip in ROUND_TRIPS_MS:
        for depth in DEPTHS:
            for number in range(turns):
                sides = [SYNC, BARE, ALONE] if round_trip == 0 else [SYNC, BARE]
                for side in reversed(sides) if number % 2 else sides:
                    yield Turn(round_trip, depth, side)


def choose_figures(job: dict[str, Any]) -> dict[str, float]:
    """Operations a second and latencies in milliseconds of fio's job that wrote."""
    latency = job["write"]["clat_ns"]["percentile"]
    return {
        "iops": float(job["write"]["iops"]),
        "p50_ms": latency["50.000000"] / 1e6,
        "p99_ms": latency["99.000000"] / 1e6,
    }


def summarize_turns(
    done: Sequence[tuple[Turn, dict[str, float]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Side -> case -> medians of its turns."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn, figures in done:
        found.setdefault(turn.side, {}).setdefault(turn.case, []).append(figures)
    return {
        side: {
            case: {key: round(statistics.median(f[key] for f in all_), 3) for key in all_[0]}
            for case, all_ in cases.items()
        }
        for side, cases in found.items()
    }


def choose_ratios(
    sides: dict[str, dict[str, dict[str, float]]], ours: str, theirs: str
) -> dict[str, float]:
    """Case -> operations a second of ours for each one of theirs, where both were measured."""
    mine, other = sides.get(ours, {}), sides.get(theirs, {})
    return {
        case: round(mine[case]["iops"] / other[case]["iops"], 3) for case in mine if case in other
    }


def measure(lab: Lab, seconds: float, turns: int) -> list[tuple[Turn, dict[str, float]]]:
    done: list[tuple[Turn, dict[str, float]]] = []
    with bench_namespace(lab, "sync") as space:
        with step("volumes"):
            synced = make_volume(space, "synced", METRO, _VOLUME_MIB)
            zone = synced.node.plan.location.name
            alone = make_volume(space, "alone", LOCAL, _VOLUME_MIB, zone=zone)
            wait_settled(lab, {synced.name}, 2)
        with bare_resource(lab, synced.name, synced.node.name) as bare:
            devices = {SYNC: synced.device, BARE: bare.device, ALONE: alone.device}
            with step("writing every block once"):
                for device in devices.values():
                    fill_device(synced.node, device, _USED_MIB * MIB)
            try:
                _run_turns(lab, synced.node, devices, plan_turns(turns), seconds, done)
            finally:
                lab.link("east", "west").heal()
    return done


def _run_turns(
    lab: Lab,
    node: LabNode,
    devices: dict[str, str],
    turns: Iterator[Turn],
    seconds: float,
    done: list[tuple[Turn, dict[str, float]]],
) -> None:
    round_trip = -1
    for turn in turns:
        if turn.round_trip_ms != round_trip:
            round_trip = turn.round_trip_ms
            lab.link("east", "west").netem(delay_ms=round_trip / 2)
            time.sleep(_SETTLE_SECONDS)
        load = Load(turn.case, "randwrite", "4k", turn.depth)
        device = devices[turn.side]
        figures = choose_figures(run_fio_on(node, device, _USED_MIB * MIB, load, seconds))
        told = f"{figures['iops']:.0f} IOPS, p99 {figures['p99_ms']:.2f} ms"
        say(f"  {turn.case} {turn.side}: {told}")
        done.append((turn, figures))


def bench(lab: Lab) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side of each case")
    given = parser.parse_args()
    require_classes(lab, METRO, LOCAL)
    sides = summarize_turns(measure(lab, given.seconds, given.rounds))
    ratios = choose_ratios(sides, SYNC, BARE)
    print_figure(
        "sync_path",
        figure=sides[SYNC],
        compared_with={BARE: sides[BARE], ALONE: sides[ALONE]},
        ratio={BARE: ratios, ALONE: choose_ratios(sides, SYNC, ALONE)},
        goal=f">= {GOAL} of bare DRBD",
        details={
            "missed": [case for case, ratio in ratios.items() if ratio < GOAL],
            "unit": "4k random writes a second, latencies in ms; ratios of operations a second",
            "turns": given.rounds,
            "seconds_of_a_turn": given.seconds,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_bench(bench))
