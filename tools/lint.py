"""Every check that needs no running system, side by side, with the output of those that fail."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "kube", "engine", "operator", "csi")
DEADLINE_SECONDS = 300


@dataclass(frozen=True)
class Check:
    name: str
    command: Sequence[str]


@dataclass(frozen=True)
class Outcome:
    check: Check
    passed: bool
    seconds: float
    output: str


def checks() -> list[Check]:
    """The checks, slowest first, so that two cores finish soonest."""
    python = sys.executable
    return [
        Check("mypy", (python, "-m", "mypy", *PACKAGES, "e2e/lab", "e2e/faults", "tools", "bench")),
        Check("import-linter", (str(Path(python).parent / "lint-imports"), "--no-cache")),
        Check("chart", (python, "tools/lint_chart.py")),
        Check("protos", (python, "tools/generate_protos.py", "--check")),
        Check("crds", (python, "tools/sync_crds.py", "--check")),
        Check("ruff", (python, "-m", "ruff", "check", ".")),
        Check("format", (python, "-m", "ruff", "format", "--check", ".")),
        Check("shellcheck", ("sh", "-c", "git ls-files '*.sh' '.ci/run' | xargs shellcheck")),
    ]


def run(check: Check) -> Outcome:
    started = time.monotonic()
    try:
        done = subprocess.run(
            check.command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        passed, output = done.returncode == 0, done.stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        passed, output = False, f"{error}\n"
    return Outcome(check, passed, time.monotonic() - started, output)


def main() -> int:
    failed = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for outcome in pool.map(run, checks()):
            word = "ok" if outcome.passed else "FAILED"
            print(f"lint: {outcome.check.name:14} {word} ({outcome.seconds:.1f} s)", flush=True)
            if not outcome.passed:
                failed += 1
                print(outcome.output, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
