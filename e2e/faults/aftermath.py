"""What a fault must not leave undone: looked at when all is well again, before it is tidied."""

from __future__ import annotations

from collections.abc import Callable

from e2e.deploy import get_json, wait_seen
from e2e.faults.acknowledged import BLOCKS, ROWS
from e2e.faults.ground import GROWTH_BYTES, SNAPSHOT, Ground
from e2e.faults.judge import (
    describe_snapshot,
    find_size_problems,
    judge_move,
    judge_snapshot,
    parse_quantity,
)
from e2e.faults.node_programs import KERNEL_MARK, KERNEL_TROUBLE
from e2e.faults.scene import CLAIMS, PODS
from e2e.lab.progress import WaitError
from e2e.workload import DEVICE_PATH

END_SECONDS = 120.0
_DEVICE_SIZE = f"import os; print(os.lseek(os.open('{DEVICE_PATH}', os.O_RDONLY), 0, 2))"

Aftermath = Callable[[Ground], list[str]]


def check_growth(ground: Ground) -> list[str]:
    """The size that was asked for is there: both images, claim, and what the pod sees."""
    return _wait_none("the sizes that were asked for", lambda: _find_small(ground))


def _find_small(ground: Ground) -> list[str]:
    problems: list[str] = []
    replicas = get_json(ground.lab, "volumereplicas.twinvault.io")["items"]
    for service, name in CLAIMS.items():
        asked = ground.asked_bytes[name]
        claim = ground.scene.get(f"pvc/{name}")
        volume = get_json(ground.lab, f"volumes.twinvault.io/{claim['spec']['volumeName']}")
        sizes = {
            "claim": parse_quantity(claim["status"]["capacity"]["storage"]),
            "volume": volume.get("status", {}).get("sizeBytes", 0),
        }
        for replica in replicas:
            if replica["spec"]["volume"] == volume["metadata"]["name"]:
                node = replica["spec"]["nodeName"]
                sizes[f"replica at {node}"] = replica.get("status", {}).get("sizeBytes", 0)
                stat = ("stat", "-c", "%s", ground.scene.image(service, node))
                sizes[f"image at {node}"] = int(ground.node(node).exec(*stat).check().text)
        problems += find_size_problems(service, asked, sizes)
    argv = ("exec", PODS[BLOCKS], "--", "python3", "-c", _DEVICE_SIZE)
    device = int(ground.scene.kubectl(*argv))
    problems += find_size_problems(
        BLOCKS, ground.asked_bytes[CLAIMS[BLOCKS]], {"device in the pod": device}
    )
    # A filesystem needs some of what it grows by for itself: ext4 2 MiB of inodes for a new group.
    least = ground.filesystem_bytes + GROWTH_BYTES // 2
    found = ground.observe_filesystem_bytes()
    if found < least:
        problems.append(f"{ROWS}: the filesystem in the pod has {found} bytes, not {least}")
    return problems


def check_snapshots(ground: Ground) -> list[str]:
    """Each is ready, or failed and says why."""
    return _wait_none("the snapshots to end", lambda: _find_unended(ground))


def _find_unended(ground: Ground) -> list[str]:
    taken = get_json(ground.lab, "snapshots.twinvault.io")["items"]
    problems, told = [], []
    for name in CLAIMS.values():
        snapshot = ground.scene.get(f"volumesnapshot/{SNAPSHOT}-{name}")
        volume = ground.scene.get(f"pvc/{name}")["spec"]["volumeName"]
        mine = [s for s in taken if s["spec"]["volume"] == volume]
        problems += judge_snapshot(snapshot, mine)
        told.append(describe_snapshot(snapshot))
    if not problems:
        ground.seen += f"; {', '.join(told)}"
    return problems


def check_move(ground: Ground) -> list[str]:
    """A planned move fences, freezes and degrades nothing, and no write failed."""
    nodes = {node.name: _kernel_trouble(ground, node.name) for node in ground.lab.nodes}
    trouble = [f"{node}: {line}" for node, lines in nodes.items() for line in lines]
    volumes = {ground.scene.volume(service) for service in ground.scene.services}
    since = ground.struck_at
    seen = {kind: ground.sight.watch.states(kind, since) for kind in
            ("Volume", "VolumeReplica", "Node")}  # fmt: skip
    return trouble + judge_move(volumes, ground.primary, ground.secondary, seen)


def _kernel_trouble(ground: Ground, node: str) -> list[str]:
    script = KERNEL_TROUBLE.replace("BEGIN", f"{KERNEL_MARK} {ground.plan.seed}")
    return ground.node(node).exec("sh", "-c", script).check().text.splitlines()


def _wait_none(what: str, find: Callable[[], list[str]]) -> list[str]:
    problems: list[str] = []

    def none() -> tuple[bool, str]:
        nonlocal problems
        problems = find()
        return not problems, "; ".join(problems)

    try:
        wait_seen(what, none, timeout_seconds=END_SECONDS)
    except WaitError:
        return problems
    return []
