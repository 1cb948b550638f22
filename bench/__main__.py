"""Print every figure: one JSON object a line. A bench that fails is told and the rest goes on."""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("local_io", "snapshot_stall", "storm", "footprint")
DEADLINE_SECONDS = 1800


def main() -> int:
    failed = []
    for name in BENCHES:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", f"bench.{name}"], timeout=DEADLINE_SECONDS, check=False
        )
        if done.returncode != 0:
            failed.append(name)
    if failed:
        print(f"bench: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
