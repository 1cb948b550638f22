"""Everything that explains a failed run, in one directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from e2e.deploy import NAMESPACE as OURS
from e2e.faults.plan import RunPlan
from e2e.faults.result import RunResult
from e2e.faults.scene import NAMESPACE
from e2e.faults.timeline import describe_moments
from e2e.lab.api import Lab, LabNode
from e2e.lab.cli import FAILURES

DIRECTORY = Path(os.environ.get("TWINVAULT_FAULTS", "/var/tmp/twinvault-faults"))
_OBJECTS = (
    "volumes.twinvault.io,volumereplicas.twinvault.io,snapshots.twinvault.io,"
    "replicationpairs,storagenodes,nodes,volumeattachments,persistentvolumes"
)
_NODE = r"""
cat /proc/drbd 2>/dev/null; losetup -l; findmnt -l | grep -E 'twinvault|csi'; dmesg | tail -200
for log in /var/log/pods/twinvault-system_*/*/*.log; do echo "== $log"; tail -n 400 "$log"; done
"""


def write_evidence(lab: Lab, plan: RunPlan, result: RunResult) -> Path:
    """Writes what can be had; returns the directory. A part that fails holds its error instead."""
    directory = DIRECTORY / f"{plan.seed}-{plan.fault}"
    directory.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], str]] = {
        "result.json": result.to_json,
        "plan.txt": lambda: f"{plan!r}\n{plan}",
        "problems.txt": lambda: "\n".join(result.problems),
        "moments.txt": lambda: "\n".join(describe_moments(result.moments, result.struck_at)),
        "roles.txt": lambda: "\n".join(result.roles),
        "objects.yaml": lambda: lab.kubectl("get", _OBJECTS, "-o", "yaml"),
        "pods.yaml": lambda: lab.kubectl("-n", NAMESPACE, "get", "pods,pvc", "-o", "yaml"),
        "pods.txt": lambda: lab.kubectl("get", "pods", "-A", "-o", "wide"),
        "events.txt": lambda: lab.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp"),
        "leases.yaml": lambda: lab.kubectl("-n", OURS, "get", "leases", "-o", "yaml"),
    }
    for node in lab.nodes:
        parts[f"{node.name}.log"] = partial(_observe_node, node)
    for name, make in parts.items():
        try:
            text = make()
        except FAILURES as error:
            text = f"not to be had: {error}"
        (directory / name).write_text(text + "\n")
    return directory


def _observe_node(node: LabNode) -> str:
    return node.exec("sh", "-c", _NODE).text
