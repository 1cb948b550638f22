"""Run modules of ours inside a node of the lab, as plain files."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.lab.api import Lab, LabNode
from e2e.lab.exec_channel import Completed

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("bench", "core/twinvault_core", "engine/twinvault_engine")
PLACE = "/run/twinvault-bench-source"
DEADLINE_SECONDS = 1200.0


def run_in_node(module: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What ``python3 -m <module> --here`` prints in the first node, its one JSON object.

    Nothing of it stays there.
    """
    node = Lab().nodes[0]
    with sources_in(node):
        print(f"bench: {module} in node {node.name}", file=sys.stderr, flush=True)
        words = ("--here", "--pool", _find_pool(node), *arguments)
        done = run_module(node, module, *words, timeout_seconds=DEADLINE_SECONDS)
    figure: dict[str, Any] = json.loads(done.text.splitlines()[-1])
    return figure


@contextmanager
def sources_in(node: LabNode) -> Iterator[None]:
    """The node has our sources meanwhile."""
    node.exec("mkdir", "-p", PLACE).check()
    try:
        node.exec("tar", "-x", "-C", PLACE, stdin=_pack(), timeout_seconds=120).check()
        yield
    finally:
        node.exec("rm", "-rf", PLACE).check()


def run_module(node: LabNode, module: str, *words: str, timeout_seconds: float) -> Completed:
    """``python3 -m module words`` with the sources that are there; ExecError when it fails."""
    return node.exec(
        "env", "-C", PLACE, "PYTHONPATH=.:core:engine", "PYTHONDONTWRITEBYTECODE=1",
        "python3", "-m", module, *words, timeout_seconds=timeout_seconds,
    ).check()  # fmt: skip


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
