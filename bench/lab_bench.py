"""What benches on the lab share: one way to run, to count rounds, and to be interrupted."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from e2e.deploy import get_json
from e2e.lab.api import Lab, LabError
from e2e.lab.cli import FAILURES
from e2e.lab.progress import say

METRO = "twinvault-metro"
LOCAL = "twinvault-local"
FAILED, INTERRUPTED = 1, 130
_FAILURES_IN_A_ROW = 2

Row = dict[str, Any]


@dataclass
class Rounds:
    """What rounds gave. ``failed``: one line each; ``interrupted``: by a person."""

    rows: list[Row] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return INTERRUPTED
        return FAILED if self.failed else 0

    def details(self) -> dict[str, Any]:
        return {"rounds": self.rows, "failed": self.failed, "interrupted": self.interrupted}


def parse_rounds(description: str | None, default: int, words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=default)
    rounds: int = parser.parse_args(words).rounds
    if rounds < 1:
        parser.error("at least one round")
    return rounds


def run_rounds(count: int, act: Callable[[int], Row]) -> Rounds:
    """``act`` with 1, 2, ... ``count``. A round that fails is told and the next one begins; two in
    a row end the series, and so does a person: what was measured until then is kept.
    """
    done, in_a_row = Rounds(), 0
    for number in range(1, count + 1):
        try:
            row = act(number)
        except FAILURES as error:
            say(f"  round {number} of {count} FAILED: {error}")
            done.failed.append(f"round {number}: {error}")
            in_a_row += 1
            if in_a_row == _FAILURES_IN_A_ROW:
                break
        except KeyboardInterrupt:
            say(f"  interrupted in round {number} of {count}; cleaning up")
            done.interrupted = True
            break
        else:
            in_a_row = 0
            done.rows.append({"round": number, **row})
            say(f"  round {number} of {count}: {row}")
    return done


def run_bench(bench: Callable[[Lab], int]) -> int:
    """Exit code of the process. Asked to end, it ends as after Ctrl-C, and cleans up."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        lab = Lab()
        require_running(lab)
        return bench(lab)
    except FAILURES as error:
        say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("interrupted; `python3 -m e2e.lab up` mends the lab")
        return INTERRUPTED


def require_running(lab: Lab) -> None:
    """LabError when a node is not up."""
    off = [node.name for node in lab.nodes if not node.is_running()]
    if off:
        raise LabError(f"no power at {', '.join(off)}; bring the lab up: python3 -m e2e.lab up")


def require_classes(lab: Lab, *names: str) -> None:
    """LabError when a storage class, or the pair that it names, is not in the cluster."""
    found = {c["metadata"]["name"]: c for c in get_json(lab, "storageclasses")["items"]}
    for name in names:
        if name not in found:
            there = ", ".join(sorted(found)) or "none"
            raise LabError(
                f"the lab has no storage class {name} (it has {there}); run `python -m bench`"
                " without --no-deploy, which installs the chart"
            )
        pair = (found[name].get("parameters") or {}).get("replicationPair")
        pairs = {p["metadata"]["name"] for p in get_json(lab, "replicationpairs")["items"]}
        if pair and pair not in pairs:
            raise LabError(
                f"the lab has no ReplicationPair {pair} of class {name}; run"
                " `kubectl apply -f examples/two-sites.yaml`"
            )
