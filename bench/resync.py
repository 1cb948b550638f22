"""What a resync moves for what was changed, and what a writer beside it feels.

The link is cut, blocks of a replicated volume are written anew (at random and in a row), the link
is made whole: the kernel's counters tell what went over it until both sides are equal. A second
time the same with a writer of small synced writes: its p99 before the cut and during the resync.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bench.bare_drbd import is_in_sync, observe_side
from bench.block_volumes import (
    BlockVolume,
    bench_namespace,
    fill_device,
    make_volume,
    read_program,
    rewrite_blocks,
)
from bench.engine_rig import MIB
from bench.figures import print_figure, summarize
from bench.lab_bench import METRO, Row, parse_rounds, require_classes, run_bench, run_rounds
from bench.resync_figures import (
    Counters,
    Latency,
    choose_within,
    compare_p99,
    count_moved,
    parse_counters,
    parse_latencies,
)
from e2e.deploy import get_json, wait_seen
from e2e.faults.roles import Side
from e2e.faults.settled import wait_settled
from e2e.lab.api import Lab
from e2e.lab.progress import WaitError, step, wait_until

ROUNDS = 3
GOAL_MOVED, GOAL_P99 = 1.2, 2.0
_VOLUME_MIB = 512
_RANDOM_REGION, _RANDOM, _ROW, _WRITER = 192 * MIB, 64 * MIB, 192 * MIB, 32 * MIB
CHANGED = _RANDOM + _ROW
_WRITER_OFFSET = _RANDOM_REGION + _ROW
_USED = _WRITER_OFFSET + _WRITER
_CALM_SECONDS, _WRITER_SECONDS = 10.0, 420.0
_ALONE_SECONDS, _RESYNC_SECONDS = 60.0, 240.0
_FEWEST_WRITES = 100
_LOOK_SECONDS = 0.2
_STOP = "/run/twinvault-bench-stop"
_STATISTICS = "cd /sys/class/net/vec0/statistics && cat tx_bytes rx_bytes"


@dataclass(frozen=True)
class Trial:
    lab: Lab
    volume: BlockVolume

    def observe_side(self) -> Side | None:
        return observe_side(self.volume.node, self.volume.minor)

    def observe_counters(self) -> Counters:
        run = self.volume.node.exec
        proc, interface = run("cat", "/proc/drbd"), run("sh", "-c", _STATISTICS)
        return parse_counters(proc.check().text, self.volume.minor, interface.check().text)

    def change_alone(self) -> None:
        """Cut the link, wait until the record lets the primary go on alone, write."""
        self.lab.link("east", "west").cut()
        wait_seen("the record to name one replica", self._is_alone, timeout_seconds=_ALONE_SECONDS)
        node, device = self.volume.node, self.volume.device
        rewrite_blocks(node, device, _RANDOM_REGION, _RANDOM)
        fill_device(node, device, _ROW, offset_bytes=_RANDOM_REGION)

    def _is_alone(self) -> tuple[bool, str]:
        status = get_json(self.lab, f"volumes.twinvault.io/{self.volume.name}").get("status", {})
        in_sync = (status.get("replication") or {}).get("inSync", [])
        return len(in_sync) == 1, f"in sync: {in_sync}"

    def heal(self) -> tuple[float, float]:
        """Make the link whole; when the resync began and ended, seconds of time.time()."""
        self.lab.link("east", "west").heal()
        begun = 0.0

        def over() -> bool:
            nonlocal begun
            side = self.observe_side()
            if side is not None and side.connection in ("SyncSource", "PausedSyncS"):
                begun = begun or time.time()
            return side is not None and is_in_sync(side)

        wait_until(
            "the resync",
            over,
            timeout_seconds=_RESYNC_SECONDS,
            interval_seconds=_LOOK_SECONDS,
            explain=lambda: f"last seen: {self.observe_side()}",
        )
        ended = time.time()
        return begun or ended, ended

    def restore(self) -> None:
        self.lab.link("east", "west").heal()
        wait_settled(self.lab, {self.volume.name}, 2)

    @contextmanager
    def writer(self, seconds: float) -> Iterator[Future[list[Latency]]]:
        """A writer beside the block; its latencies once the block is left."""
        node = self.volume.node
        node.exec("rm", "-f", _STOP).check()
        argv = (
            "python3", "-u", "-", self.volume.device, str(_WRITER_OFFSET), str(_WRITER),
            str(seconds), _STOP,
        )  # fmt: skip
        program = read_program("latency_writer.py")

        def write() -> list[Latency]:
            done = node.exec(*argv, stdin=program, timeout_seconds=seconds + 60)
            return parse_latencies(done.check().text)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(write)
            try:
                yield future
            finally:
                node.exec("touch", _STOP)
                wait_until("the writer to end", future.done, timeout_seconds=90)
                node.exec("rm", "-f", _STOP)


def run_round(trial: Trial) -> Row:
    try:
        quiet = _count_bytes(trial)
        trial.restore()
        beside = _measure_writer(trial)
    finally:
        trial.restore()
    return {**quiet, **beside}


def _count_bytes(trial: Trial) -> Row:
    trial.change_alone()
    before = trial.observe_counters()
    begun, ended = trial.heal()
    moved = count_moved(before, trial.observe_counters())
    return {
        "moved_mib": {key: round(value / MIB, 2) for key, value in moved.items()},
        "ratio": round(moved["moved"] / CHANGED, 3),
        "resync_seconds": round(ended - begun, 2),
    }


def _measure_writer(trial: Trial) -> Row:
    with trial.writer(_CALM_SECONDS) as calm:
        wait_until("the calm writer", calm.done, timeout_seconds=_CALM_SECONDS + 60)
    trial.change_alone()
    with trial.writer(_WRITER_SECONDS) as busy:
        time.sleep(1.0)
        begun, ended = trial.heal()
    during = choose_within(busy.result(), begun, ended)
    if len(during) < _FEWEST_WRITES:
        raise WaitError(
            f"only {len(during)} writes during a resync of {ended - begun:.1f} s: too few for a p99"
        )
    before = [one.seconds for one in calm.result()]
    return {
        "p99": compare_p99(before, during),
        "writes": {"before": len(before), "during": len(during)},
        "resync_beside_seconds": round(ended - begun, 2),
    }


def bench(lab: Lab) -> int:
    rounds = parse_rounds(__doc__, ROUNDS)
    require_classes(lab, METRO)
    with bench_namespace(lab, "resync") as space:
        with step("volume"):
            volume = make_volume(space, "data", METRO, _VOLUME_MIB)
            wait_settled(lab, {volume.name}, 2)
            fill_device(volume.node, volume.device, _USED)
        trial = Trial(lab, volume)
        done = run_rounds(rounds, lambda _: run_round(trial))
    if done.rows:
        _print(done.rows, done.details())
    return done.exit_code


def _print(rows: list[Row], details: Row) -> None:
    moved = [row["moved_mib"]["moved"] for row in rows]
    ratios = [row["ratio"] for row in rows]
    slower = [row["p99"]["ratio"] for row in rows]
    print_figure(
        "resync",
        figure={
            "moved_mib": summarize(moved),
            "p99_during_ms": summarize([row["p99"]["during_ms"] for row in rows]),
        },
        compared_with={
            "changed_mib": CHANGED / MIB,
            "p99_before_ms": summarize([row["p99"]["before_ms"] for row in rows]),
        },
        ratio={"moved": summarize(ratios), "p99": summarize(slower)},
        goal=f"moves <= {GOAL_MOVED} of what was changed, p99 <= {GOAL_P99} of before",
        details={
            "missed": [
                name
                for name, worst, goal in (
                    ("moved", max(ratios), GOAL_MOVED),
                    ("p99", max(slower), GOAL_P99),
                )
                if worst > goal
            ],
            "changed_at_random_mib": _RANDOM / MIB,
            "changed_in_a_row_mib": _ROW / MIB,
            **details,
        },
    )


if __name__ == "__main__":
    sys.exit(run_bench(bench))
