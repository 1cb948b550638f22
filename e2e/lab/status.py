"""`status`: what runs, what it takes, and which faults are set."""

from __future__ import annotations

import json
from collections.abc import Sequence

from e2e.lab import admin, cluster, controlplane, faults, network, node, process
from e2e.lab.command import CommandError
from e2e.lab.config import LOCATIONS, Location, Settings
from e2e.lab.state import is_claimed


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def describe(settings: Settings) -> str:
    """The whole text of `status`."""
    if not is_claimed(settings) or not all(network.exists(one) for one in LOCATIONS):
        return "the lab is down; start it with: python -m e2e.lab up"
    rows = [["WHERE", "WHAT", "STATE", "MEMORY MiB"]]
    for location in LOCATIONS:
        rows += _location_rows(settings, location)
    rows += _node_rows(settings)
    total = sum(int(row[3]) for row in rows[1:] if row[3].isdigit())
    links = [
        [f"{one.name} - {other.name}", str(fault)]
        for (one, other), fault in faults.observe_faults(settings).items()
    ]
    return "\n\n".join(
        [
            format_table(rows),
            f"all together: {total} MiB",
            format_table([["LINK", "STATE"], *links]),
        ]
    )


def _location_rows(settings: Settings, location: Location) -> list[list[str]]:
    run_dir = settings.location_dir(location)
    dark = faults.is_dark(location)
    rows = [[location.name, "(power)", "cut", "-"]] if dark else []
    for name in process.names(run_dir):
        memory = process.memory_mib(name, run_dir)
        state = "stopped" if memory is None else "runs"
        if name == controlplane.API_SERVER and memory is not None:
            ready = controlplane.is_api_server_ready(settings, location)
            state = "ready" if ready else "runs, not ready"
        ends = process.count_ends(name, run_dir)
        if ends and memory is not None:
            state += f" (ended {ends} times)"
        rows.append([location.name, name, state, "-" if memory is None else str(memory)])
    return rows


def _node_rows(settings: Settings) -> list[list[str]]:
    try:
        output = admin.kubectl(settings, "get", "nodes", "-o", "json", timeout_seconds=10)
        items = json.loads(output)["items"]
    except CommandError:
        items = []
    ready = {item["metadata"]["name"]: cluster.is_ready(item) for item in items}
    rows = []
    for one in settings.nodes:
        if not node.is_running(settings, one):
            rows.append([one.location.name, f"node {one.name}", "stopped", "-"])
            continue
        state = {True: "Ready", False: "NotReady", None: "runs, not registered"}
        memory = str(node.memory_mib(settings, one))
        told = state[ready.get(one.name)]
        rows.append([one.location.name, f"node {one.name}", told, memory])
    return rows
