"""Print figures: one JSON object a line. A bench that fails is told and the rest goes on.

python -m bench                      every one
python -m bench rto link_cut --rounds 5
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from e2e import deploy
from e2e.lab.api import Lab
from e2e.lab.cli import FAILURES
from e2e.lab.progress import say

FULL_ROUNDS = 20
CLEAN_UP_SECONDS = 600.0
"""A bench that is asked to end gives sites their power back and removes its volumes."""


@dataclass(frozen=True)
class Bench:
    """``counted``: takes ``--rounds``. ``deadline_seconds``: for up to 20 of them."""

    name: str
    told: str
    deadline_seconds: float = 1800.0
    counted: bool = False


BENCHES = (
    Bench("local_io", "a volume against a raw file"),
    Bench("snapshot_stall", "how long a snapshot stalls a writer"),
    Bench("storm", "50 claims at once"),
    Bench("footprint", "memory and CPU at rest, with and without replicated volumes"),
    Bench("sync_path", "replicated writes against bare DRBD and one replica", 1800, True),
    Bench("link_cut", "pause of a writer when the link is cut", 3600, True),
    Bench("switchover", "pause of PostgreSQL when its node is drained", 3600, True),
    Bench("rto", "power cut of a site to the first row at the other one", 7200, True),
    Bench("resync", "bytes moved by a resync, and a writer beside it", 3600, True),
)


def parse_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    listed = "\n".join(f"  {bench.name:16}{bench.told}" for bench in BENCHES)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"{__doc__}\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="BENCH")
    parser.add_argument("--rounds", type=int, default=0, help="of those that repeat a fault")
    parser.add_argument("--no-deploy", action="store_true", help="take what is installed")
    given = parser.parse_args(words)
    known = {bench.name: bench for bench in BENCHES}
    for name in given.names:
        if name not in known:
            parser.error(f"there is no bench {name}; there are {', '.join(known)}")
    given.chosen = [known[name] for name in given.names] or list(BENCHES)
    if given.rounds < 0:
        parser.error("--rounds is the number of rounds, at least 1")
    if given.rounds and not any(bench.counted for bench in given.chosen):
        parser.error(f"{', '.join(given.names)}: no rounds to count")
    return given


def choose_deadline_seconds(bench: Bench, rounds: int) -> float:
    return bench.deadline_seconds * max(1.0, rounds / FULL_ROUNDS if bench.counted else 1.0)


def run_one(bench: Bench, rounds: int) -> int:
    """Exit code of the bench; it is asked to end at its deadline, or when a person does."""
    argv = [sys.executable, "-m", f"bench.{bench.name}"]
    deadline_seconds = choose_deadline_seconds(bench, rounds)
    if rounds and bench.counted:
        argv += ["--rounds", f"{rounds}"]
    # A session of its own: Ctrl-C reaches us alone, and it gets one signal, not a second one while
    # it cleans up.
    process = subprocess.Popen(argv, start_new_session=True)
    try:
        return process.wait(deadline_seconds)
    except subprocess.TimeoutExpired:
        say(f"bench: {bench.name} is not over after {deadline_seconds:g} s; it is ended")
        process.send_signal(signal.SIGINT)
        return _wait_end(process)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        _wait_end(process)
        raise


def _wait_end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(CLEAN_UP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        say("bench: it did not clean up; `python3 -m e2e.lab up` mends the lab")
        return 1


def prepare() -> None:
    """The chart and the two sites are in the lab."""
    lab = Lab()
    deploy.install_chart(lab)
    deploy.apply_example(lab, "two-sites.yaml")
    deploy.wait_sites(lab)


def main() -> int:
    given = parse_options()
    # Also when a shell started us in the background, with Ctrl-C ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    failed = []
    try:
        if not given.no_deploy:
            prepare()
        for bench in given.chosen:
            say(f"bench: {bench.name}")
            if run_one(bench, given.rounds) != 0:
                failed.append(bench.name)
    except FAILURES as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    if failed:
        say(f"bench: failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
