"""Keep the chart's copies of the CRDs equal to crds/.

python tools/sync_crds.py           write the copies
python tools/sync_crds.py --check   exit 1 and name every copy that differs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "crds"
COPY = ROOT / "charts" / "twinvault" / "files" / "crds"


def observe_files(directory: Path) -> dict[str, bytes]:
    """Content of every CRD file in ``directory`` by file name."""
    return {path.name: path.read_bytes() for path in sorted(directory.glob("*.yaml"))}


def plan_sync(source: dict[str, bytes], copy: dict[str, bytes]) -> tuple[list[str], list[str]]:
    """Names to write and names to remove so that ``copy`` becomes ``source``."""
    stale = [name for name, content in source.items() if copy.get(name) != content]
    return stale, [name for name in copy if name not in source]


def apply_sync(source: dict[str, bytes], write: list[str], remove: list[str]) -> None:
    COPY.mkdir(parents=True, exist_ok=True)
    for name in write:
        (COPY / name).write_bytes(source[name])
    for name in remove:
        (COPY / name).unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep the chart's CRDs equal to crds/.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    arguments = parser.parse_args()
    source = observe_files(SOURCE)
    write, remove = plan_sync(source, observe_files(COPY))
    if not arguments.check:
        apply_sync(source, write, remove)
        return 0
    for name in write + remove:
        where = COPY.relative_to(ROOT) / name
        print(f"{where} is not equal to crds/{name}: run python tools/sync_crds.py")
    return 1 if write or remove else 0


if __name__ == "__main__":
    sys.exit(main())
