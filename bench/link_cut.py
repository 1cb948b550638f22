"""How long a writer waits when the link between the sites is cut.

One writer on a replicated volume in its pod, one beside it on bare DRBD with the same settings but
no fencing, which goes on as soon as DRBD itself has found the link lost: what our writer waits
longer is the question to the API server and its answer. Both meet the same cuts.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.bare_config import DONT_CARE
from bench.bare_drbd import Bare, bare_resource
from bench.figures import divide, print_figure, summarize
from bench.lab_bench import Row, parse_rounds, run_bench, run_rounds
from bench.writing_services import GO_ON_SECONDS, WritingServices, writing_services
from e2e.faults import scene
from e2e.faults.acknowledged import BLOCKS
from e2e.faults.observer import PORT
from e2e.lab.api import Lab
from e2e.lab.exec_channel import ExecError

ROUNDS = 20
GOAL_SECONDS = 2.0
FLOOR_SECONDS = 1.4
"""ping-int 1 s and ping-timeout 0.3 s, as measured on bare kernels."""
BARE = "bare"
_HOLD_SECONDS = 2.0
_LIFE_SECONDS = 3 * 3600.0
_PID_FILE = "/run/twinvault-bench-writer"


@contextmanager
def bare_writer(lab: Lab, bare: Bare) -> Iterator[None]:
    """The program of the pod, on the bare device in its node."""
    script = f'echo $$ > {_PID_FILE}; exec python3 -u - "$0"'
    argv = (
        "env", f"STREAM={BARE}", f"OBSERVER={lab.observer_address(bare.primary.name)}",
        f"OBSERVER_PORT={PORT}", "sh", "-c", script, bare.device,
    )  # fmt: skip
    program = (scene.PROGRAMS / "blocks.py").read_bytes()

    def write() -> None:
        # Its end by the signal below is no error; a writer that fails is heard no more.
        with suppress(ExecError):
            bare.primary.exec(*argv, stdin=program, timeout_seconds=_LIFE_SECONDS)

    thread = threading.Thread(target=write, name="bare writer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop = f"[ -e {_PID_FILE} ] && kill $(cat {_PID_FILE}); rm -f {_PID_FILE}"
        bare.primary.exec("sh", "-c", stop)
        thread.join(timeout=20)


def run_round(writing: WritingServices, bare: Bare, number: int) -> Row:
    bare.wait_in_sync()
    ground = writing.begin(number, "link cut")
    try:
        ground.strike()
        ground.cut_link()
        writing.wait_going_on(ground)
        writing.observer.wait_heard(BARE, ground.struck_at + 1.0, GO_ON_SECONDS)
        time.sleep(_HOLD_SECONDS)
        cut = {s: writing.measure_pause(s, ground.struck_at).seconds for s in (BLOCKS, BARE)}
    finally:
        healed_at = time.time()
        writing.lab.link("east", "west").heal()
    writing.trial.wait_settled()
    healed = writing.measure_pause(BLOCKS, healed_at).seconds
    return {
        "replicated": round(cut[BLOCKS], 3),
        "bare": round(cut[BARE], 3),
        "at_heal": round(healed, 3),
        "in_sync_after": round(time.time() - healed_at, 1),
    }


def bench(lab: Lab) -> int:
    rounds = parse_rounds(__doc__, ROUNDS)
    with writing_services(lab, BLOCKS) as writing:
        scene_ = writing.trial.scene
        volume, node = scene_.volume(BLOCKS), scene_.node_of(BLOCKS)
        with bare_resource(lab, volume, node, fencing=DONT_CARE) as bare, bare_writer(lab, bare):
            writing.observer.wait_heard(BARE, time.time(), 60)
            done = run_rounds(rounds, lambda number: run_round(writing, bare, number))
    if done.rows:
        ours = summarize([row["replicated"] for row in done.rows])
        floor = summarize([row["bare"] for row in done.rows])
        print_figure(
            "link_cut",
            figure=ours,
            compared_with=floor,
            ratio=divide(ours, floor, "p50", "p95", "max"),
            goal=f"p95 <= {GOAL_SECONDS} s; DRBD's own detection takes {FLOOR_SECONDS} s",
            details={
                "missed": ours["p95"] > GOAL_SECONDS,
                "at_heal": summarize([row["at_heal"] for row in done.rows]),
                "in_sync_after": summarize([row["in_sync_after"] for row in done.rows]),
                "unit": "seconds without an acknowledgement; compared: bare DRBD, no fencing",
                **done.details(),
            },
        )
    return done.exit_code


if __name__ == "__main__":
    sys.exit(run_bench(bench))
