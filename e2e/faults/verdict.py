"""Whether the world is whole again, and whether what a run saw may be. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from e2e.faults.acknowledged import (
    BLOCKS,
    Acknowledgement,
    Pause,
    find_missing_blocks,
    find_missing_rows,
)
from e2e.faults.table import Expectation

STUCK_SECONDS = 60.0
_TELLING = {"Ready": "False", "Degraded": "True", "Progressing": "True"}


class Promises:
    """Every acknowledged write so far, by stream and number, with the run that it was told to.

    Of the blocks only those that the ring still holds, the newest ``blocks`` numbers.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self.by_stream: dict[str, dict[int, int]] = {}

    def add(self, acknowledged: Iterable[Acknowledgement]) -> list[str]:
        """Remember; told are numbers that two runs were promised: the second did not find the
        first's write, so that was lost, however well the disk looks afterwards.
        """
        problems = []
        for one in sorted(acknowledged, key=lambda a: a.at):
            numbers = self.by_stream.setdefault(one.stream, {})
            known = numbers.setdefault(one.number, one.run)
            if known != one.run:
                problems.append(f"{one.stream} {one.number} was acknowledged twice: lost between")
        ring = self.by_stream.get(BLOCKS, {})
        if len(ring) > 2 * self._blocks:
            newest = max(ring)
            kept = {n: run for n, run in ring.items() if n > newest - self._blocks}
            self.by_stream[BLOCKS] = kept
        return problems

    @property
    def count(self) -> int:
        return sum(len(numbers) for numbers in self.by_stream.values())

    def find_missing_rows(self, found: Mapping[str, Mapping[int, int]]) -> list[str]:
        rows = {stream: n for stream, n in self.by_stream.items() if stream != BLOCKS}
        return find_missing_rows(rows, found)

    def find_missing_blocks(self, found: Mapping[int, int]) -> list[str]:
        return find_missing_blocks(self.by_stream.get(BLOCKS, {}), found, self._blocks)


def find_unsettled(
    nodes: Iterable[Mapping[str, Any]],
    volumes: Iterable[Mapping[str, Any]],
    replicas: int,
    programs: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    """What is not as it was before any fault; ``replicas``: of each volume, all in sync.
    ``programs``: Deployments and DaemonSets, each of which must be there as often as it should.
    """
    problems = [text for program in programs for text in _find_missing(program)]
    for node in nodes:
        name = node["metadata"]["name"]
        if condition_status(node, "Ready") != "True":
            problems.append(f"node {name} is not Ready")
        if node["spec"].get("unschedulable"):
            problems.append(f"node {name} is cordoned")
        problems += [
            f"node {name} has the taint {taint['key']}" for taint in node["spec"].get("taints", ())
        ]
    for volume in volumes:
        name, status = volume["metadata"]["name"], volume.get("status", {})
        in_sync = (status.get("replication") or {}).get("inSync", [])
        if status.get("phase") != "Ready":
            problems.append(f"volume {name} is {status.get('phase')}")
        if condition_status(volume, "Degraded") == "True":
            problems.append(f"volume {name} is degraded: {tell_conditions(volume)}")
        if len(in_sync) < replicas:
            problems.append(f"volume {name} is in sync at {', '.join(in_sync) or 'no node'}")
    return problems


def _find_missing(program: Mapping[str, Any]) -> Iterator[str]:
    """A program without its standby would make the next fault two."""
    status, name = program.get("status", {}), program["metadata"]["name"]
    if program["kind"] == "DaemonSet":
        wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    else:
        wanted, ready = program["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    if ready < wanted:
        yield f"{name}: {ready} of {wanted} are ready"


def condition_status(obj: Mapping[str, Any], type_: str) -> str:
    for condition in obj.get("status", {}).get("conditions") or ():
        if condition["type"] == type_:
            return str(condition["status"])
    return "Unknown"


def tell_conditions(volume: Mapping[str, Any]) -> str:
    """What the volume says is wrong with it; '' when it says that all is well."""
    told = [
        f"{c['type']}={c['status']} {c['reason']}: {c['message']}"
        for c in volume.get("status", {}).get("conditions") or ()
        if _TELLING.get(c["type"]) == c["status"]
    ]
    return "; ".join(told)


def find_silent(service: str, silent_seconds: float) -> str:
    """The problem if the service stands still for a minute that nothing explains, else ''."""
    if silent_seconds <= STUCK_SECONDS:
        return ""
    return f"{service}: nothing acknowledged for {silent_seconds:.0f} s, and no condition says why"


def explain_silence(volume: Mapping[str, Any] | None, pod: Mapping[str, Any] | None) -> str:
    """The condition that says why nothing is acknowledged; '' when none does.

    That is the volume's own Ready=False. While the volume is Ready it is only a pod that does not
    run yet, on the node that may write or on none so far, by Kubernetes' reason. Degraded=True
    explains nothing: a degraded volume serves.
    """
    if volume is None:
        return ""
    for condition in volume.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "False":
            reason = condition.get("reason")
            return f"{reason}: {condition.get('message', '')}" if reason else ""
    if pod is None or condition_status(volume, "Ready") != "True":
        return ""
    record = volume.get("status", {}).get("replication") or {}
    node = pod["spec"].get("nodeName") or ""
    if node and record and record.get("primary") != node:
        return ""
    return tell_pod(pod)


def tell_pod(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run yet, with Kubernetes' reason; '' if it runs or nothing says why."""
    status = pod.get("status", {})
    containers = status.get("containerStatuses") or ()
    if containers and all("running" in c.get("state", {}) for c in containers):
        return ""
    told = [
        f"{c['reason']}: {c.get('message', '')}"
        for c in status.get("conditions") or ()
        if c["status"] == "False" and c.get("reason")
    ]
    for container in containers:
        waiting = container.get("state", {}).get("waiting") or {}
        if waiting.get("reason"):
            told.append(f"{waiting['reason']}: {waiting.get('message', '')}")
    return "; ".join(told)


def judge_course(
    expectation: Expectation,
    *,
    went_on: bool,
    before: str,
    after: str,
) -> list[str]:
    """Whether writes went on, and where; ``before`` and ``after`` are nodes of the database."""
    problems = []
    if expectation.goes_on and not went_on:
        problems.append(
            "nothing was acknowledged until the fault was healed; it should have gone on"
        )
    if expectation.moves is True and after == before:
        problems.append(f"the database should have moved from {before}")
    # '' while its pod is made anew: it may still come back to where it was.
    if expectation.moves is False and after not in ("", before):
        problems.append(f"the database moved from {before} to {after} without need")
    return problems


def shorten(problems: Sequence[str], shown: int = 12) -> list[str]:
    """The first ones, and how many more there are."""
    if len(problems) <= shown:
        return list(problems)
    return [*problems[:shown], f"... and {len(problems) - shown} more of that kind"]


def choose_percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; nan when there are no values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def choose_recovery(pause: Pause, struck_at: float) -> float:
    """Seconds from the fault to the first acknowledgement after the longest pause.

    0 when the pause ended before the fault.
    """
    return max(0.0, pause.end - struck_at)
