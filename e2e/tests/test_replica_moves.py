"""Replicas that are removed, added and moved while a pod writes.

Removing and adding needs one node at each site. Moving needs a spare one at the site of the second
replica: ``TWINVAULT_LAB_NODES_PER_SITE=2``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.deploy import get_json, wait_seen
from e2e.lab.api import Lab
from e2e.tests.test_replication import (
    METRO,
    checksum,
    cordoned,
    images,
    in_sync,
    move,
    node_of,
    wait_in_sync,
    wait_unused,
    write,
)
from e2e.workload import DATA_PATH, Namespace, Object, claim, pod

pytestmark = pytest.mark.e2e

VOLUMES = "volumes.twinvault.io"
REPLICAS = "volumereplicas.twinvault.io"
PAIRS = "replicationpairs.twinvault.io"
STORAGE_NODES = "storagenodes.twinvault.io"
LOG = f"{DATA_PATH}/beats"


@pytest.fixture
def metro(namespace: Namespace) -> Namespace:
    classes = get_json(namespace.lab, "storageclasses")["items"]
    if METRO not in {c["metadata"]["name"] for c in classes}:
        pytest.skip(f"class {METRO} is not enabled in this chart")
    return namespace


def start(metro: Namespace) -> tuple[Object, str]:
    """A pod with a replicated volume in sync: the pod's manifest, the volume."""
    body = pod("app", "data")
    metro.apply(claim("data", "320Mi", storage_class=METRO), body)
    metro.wait_pod("app", timeout_seconds=180)
    volume = metro.volume_of("data")
    wait_in_sync(metro.lab, volume)
    return body, volume


def members(lab: Lab, volume: str) -> list[str]:
    status = get_json(lab, VOLUMES, volume).get("status", {})
    return sorted((status.get("placement") or {}).get("nodes") or ())


def replicas(lab: Lab, volume: str) -> set[str]:
    found = get_json(lab, REPLICAS)["items"]
    return {r["spec"]["nodeName"] for r in found if r["spec"]["volume"] == volume}


def patch(lab: Lab, kind: str, name: str, spec: dict[str, Any]) -> None:
    lab.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))


def wait_members(lab: Lab, volume: str, nodes: set[str], timeout_seconds: float = 120) -> None:
    """The record's members and the objects agree."""

    def probe() -> tuple[bool, str]:
        found = get_json(lab, VOLUMES, volume).get("status", {})
        told = [f"{c['type']}={c['status']} {c['message']}" for c in found.get("conditions", ())]
        now, held = set(members(lab, volume)), replicas(lab, volume)
        return now == held == nodes, f"members {now}, replicas {held}; {'; '.join(told)}"

    wait_seen(f"{volume} to be on {nodes}", probe, timeout_seconds=timeout_seconds)


@contextmanager
def beating(metro: Namespace) -> Iterator[None]:
    """A writer in the pod, one fsynced number after another; it must never end or skip one."""
    script = f"i=0; while :; do echo $i >> {LOG}; sync {LOG}; i=$((i+1)); sleep 0.1; done"
    run = f"rm -f {LOG}; ({script}) </dev/null >/dev/null 2>&1 & echo $! > /tmp/beats.pid"
    metro.shell("app", run)
    first = beats(metro)
    yield
    wait_seen(
        "the writer to go on",
        lambda: (beats(metro) > first + 20, f"{beats(metro)} numbers"),
        timeout_seconds=60,
    )
    metro.shell("app", "kill $(cat /tmp/beats.pid)")


def beats(metro: Namespace) -> int:
    """How many numbers there are; the last one proves that none is missing."""
    told = metro.shell("app", f"touch {LOG}; awk 'END {{print NR, $0}}' {LOG}").split()
    count = int(told[0])
    assert count == 0 or int(told[1]) == count - 1, "a number is missing"
    return count


def site_of(node: str) -> str:
    """The lab's nodes are called after their site."""
    return node.rpartition("-")[0]


def find_spare(lab: Lab, node: str) -> str:
    """Another node of the same site; skips the test when there is none."""
    found = [n.name for n in lab.nodes if site_of(n.name) == site_of(node) and n.name != node]
    if not found:
        pytest.skip("the site has no spare node: start the lab with TWINVAULT_LAB_NODES_PER_SITE=2")
    return found[0]


def pair_of(lab: Lab, volume: str) -> str:
    return str(get_json(lab, VOLUMES, volume)["spec"]["replicationPair"])


def test_the_second_replica_is_removed_and_added_again_while_the_pod_writes(
    metro: Namespace,
) -> None:
    lab = metro.lab
    body, volume = start(metro)
    home = node_of(metro, "app")
    pair, first = pair_of(lab, volume), write(metro, "app", "first")
    with beating(metro):
        patch(lab, VOLUMES, volume, {"replicationPair": None})
        wait_members(lab, volume, {home})
        assert in_sync(lab, volume) == {home}
        second = write(metro, "app", "second")
        patch(lab, VOLUMES, volume, {"replicationPair": pair})
        wait_in_sync(lab, volume, timeout_seconds=300)
    away = move(metro, body)
    assert away != home
    assert checksum(metro, "app", "first") == first
    assert checksum(metro, "app", "second") == second
    metro.kubectl("delete", "pod", "app", "--wait=true")
    wait_unused(lab, volume)
    if len(lab.nodes) == 2:
        assert len(images(lab, volume)) == 1


def test_a_removed_replicas_data_is_kept_when_a_person_wants_that(metro: Namespace) -> None:
    lab = metro.lab
    _, volume = start(metro)
    home = node_of(metro, "app")
    (away,) = set(members(lab, volume)) - {home}
    patch(lab, VOLUMES, volume, {"replicationPair": None, "removedReplica": "Keep"})
    wait_members(lab, volume, {home})

    def kept() -> tuple[bool, str]:
        status = get_json(lab, STORAGE_NODES, away).get("status", {})
        ids = [o["volume"] for o in status.get("orphans") or ()]
        return volume in ids, f"orphans of {away}: {ids}"

    wait_seen(f"{volume} to be an orphan on {away}", kept, timeout_seconds=120)
    patch(lab, STORAGE_NODES, away, {"eraseOrphans": [volume]})
    wait_seen(
        f"the orphan on {away} to be erased",
        lambda: (not kept()[0], kept()[1]),
        timeout_seconds=120,
    )


def test_a_volume_that_lives_alone_is_replicated_from_the_pods_next_start(
    metro: Namespace,
) -> None:
    """Nothing of DRBD is below it at first, so it takes effect when the pod has ended."""
    lab, body = metro.lab, pod("app", "data")
    # With 0 the API server forgets a pod before it has ended, and both would have the volume.
    body["spec"]["terminationGracePeriodSeconds"] = 1
    metro.apply(claim("data", "320Mi"), body)
    metro.wait_pod("app", timeout_seconds=180)
    volume, home = metro.volume_of("data"), node_of(metro, "app")
    before = write(metro, "app", "before")
    (pair,) = [p["metadata"]["name"] for p in get_json(lab, PAIRS)["items"]]
    patch(lab, VOLUMES, volume, {"replicationPair": pair})

    def waits() -> tuple[bool, str]:
        found = get_json(lab, VOLUMES, volume)["status"].get("conditions", ())
        told = {c["type"]: c["message"] for c in found}
        return "its pod has ended" in told.get("Degraded", ""), str(told)

    wait_seen("the volume to say what it waits for", waits, timeout_seconds=120)
    assert write(metro, "app", "meanwhile")
    others = [n.name for n in lab.nodes if n.name != home]
    with cordoned(lab, others[0]):
        metro.kubectl("delete", "pod", "app", "--wait=true")
        metro.apply(body)
        metro.wait_pod("app", timeout_seconds=180)
    wait_in_sync(lab, volume, timeout_seconds=300)
    assert checksum(metro, "app", "before") == before


def test_a_replica_moves_to_a_spare_node_while_the_pod_writes_and_a_pod_follows_it(
    metro: Namespace,
) -> None:
    lab = metro.lab
    body, volume = start(metro)
    home = node_of(metro, "app")
    (old,) = set(members(lab, volume)) - {home}
    spare = find_spare(lab, old)
    kept = write(metro, "app", "kept")
    patch(lab, STORAGE_NODES, old, {"evacuate": True})
    try:
        with beating(metro):
            wait_members(lab, volume, {home, spare}, timeout_seconds=300)
            wait_in_sync(lab, volume, timeout_seconds=300)
        with cordoned(lab, old):
            assert move(metro, body) == spare
        assert checksum(metro, "app", "kept") == kept
    finally:
        patch(lab, STORAGE_NODES, old, {"evacuate": None})


def test_a_replica_of_a_node_that_is_lost_for_good_moves_and_the_node_meets_nobody(
    metro: Namespace,
) -> None:
    lab = metro.lab
    _, volume = start(metro)
    home = node_of(metro, "app")
    (old,) = set(members(lab, volume)) - {home}
    spare = find_spare(lab, old)
    lab.node(old).kill()
    try:
        with beating(metro):
            patch(lab, STORAGE_NODES, old, {"lost": old})
            wait_members(lab, volume, {home, spare}, timeout_seconds=300)
            wait_in_sync(lab, volume, timeout_seconds=300)
    finally:
        lab.node(old).start()
        patch(lab, STORAGE_NODES, old, {"lost": None})

    def orphaned() -> tuple[bool, str]:
        status = get_json(lab, STORAGE_NODES, old).get("status", {})
        ids = [o["volume"] for o in status.get("orphans") or ()]
        return volume in ids, f"orphans of {old}: {ids}"

    wait_seen(f"{volume} to be told as left over on {old}", orphaned, timeout_seconds=300)
    assert members(lab, volume) == sorted({home, spare})
    assert in_sync(lab, volume) == {home, spare}
    patch(lab, STORAGE_NODES, old, {"eraseOrphans": [volume]})
