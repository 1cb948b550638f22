"""Waits until the world is as it was before any fault."""

from __future__ import annotations

from collections.abc import Iterable

from e2e.deploy import NAMESPACE, get_json, wait_seen
from e2e.faults.verdict import find_unsettled
from e2e.lab.api import Lab

SETTLE_SECONDS = 240.0


def wait_settled(
    lab: Lab, volumes: Iterable[str], replicas: int, timeout_seconds: float = SETTLE_SECONDS
) -> None:
    """Until all nodes and programs are well and each volume has so many replicas, all in sync;
    WaitError.
    """
    names = set(volumes)

    def settled() -> tuple[bool, str]:
        nodes = get_json(lab, "nodes")["items"]
        found = get_json(lab, "volumes.twinvault.io")["items"]
        mine = [volume for volume in found if volume["metadata"]["name"] in names]
        programs = get_json(lab, "-n", NAMESPACE, "deployments,daemonsets")["items"]
        problems = find_unsettled(nodes, mine, replicas, programs)
        return not problems, "\n".join(problems)

    wait_seen("everything to be well again", settled, timeout_seconds=timeout_seconds)
