"""Run one of the engine's benches inside a node of the lab, as plain files."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from e2e.lab.api import Lab, LabNode

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("bench", "core/twinvault_core", "engine/twinvault_engine")
PLACE = "/run/twinvault-bench-source"
DEADLINE_SECONDS = 1200.0


def run_in_node(module: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What ``python3 -m <module> --here`` prints in the first node, its one JSON object.

    Nothing of it stays there.
    """
    lab = Lab()
    node = lab.nodes[0]
    node.exec("mkdir", "-p", PLACE).check()
    try:
        node.exec("tar", "-x", "-C", PLACE, stdin=_pack(), timeout_seconds=120).check()
        print(f"bench: {module} in node {node.name}", file=sys.stderr, flush=True)
        return _run(node, module, arguments)
    finally:
        node.exec("rm", "-r", PLACE).check()


def _run(node: LabNode, module: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    done = node.exec(
        "env", "-C", PLACE, "PYTHONPATH=.:core:engine", "PYTHONDONTWRITEBYTECODE=1",
        "python3", "-m", module, "--here", "--pool", _find_pool(node), *arguments,
        timeout_seconds=DEADLINE_SECONDS,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{module} failed in node {node.name}: {said}")
    figure: dict[str, Any] = json.loads(done.text.splitlines()[-1])
    return figure


def _find_pool(node: LabNode) -> str:
    """Name of the node's first pool."""
    names = node.exec("ls", "/var/lib/twinvault/records/pools").check().text.split()
    if not names:
        raise RuntimeError(f"node {node.name} has no pool; apply examples/two-sites.yaml first")
    return sorted(names)[0].removesuffix(".json")


def _pack() -> bytes:
    """A tar of the sources, without caches."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for source in SOURCES:
            for path in sorted((ROOT / source).rglob("*.py")):
                tar.add(path, arcname=path.relative_to(ROOT).as_posix())
    return buffer.getvalue()
