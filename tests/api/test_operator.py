"""The operator as a process against a real API server, with agents that live in the test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest

from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import (
    GIB,
    OperatorProcess,
    Rig,
    condition,
    has_reason,
    is_ready,
)
from twinvault_core import reasons
from twinvault_core.errors import InvalidError, NotFoundError
from twinvault_core.names import FINALIZER_VOLUME
from twinvault_kube import kinds
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError

pytestmark = [
    pytest.mark.api,
    # A TLS handshake that is given up is closed by the garbage collector: the HTTP library's doing.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def shared_operator(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One process for all tests that do not end it: it starts once and must survive them all."""
    directory = tmp_path_factory.mktemp("operator")
    process = OperatorProcess(api_server.kubeconfig, directory, "operator-shared")
    process.start()
    try:
        yield process
        log = process.log()
        assert '"exception"' not in log, log
    finally:
        assert process.stop() == 0


@pytest.fixture
def operator(rig: Rig, shared_operator: OperatorProcess) -> OperatorProcess:
    return shared_operator


async def _events(rig: Rig, name: str) -> set[str]:
    found = await rig.client.list(kinds.EVENTS, namespace="default")
    return {e["reason"] for e in found[0] if e["involvedObject"]["name"] == name}


async def test_the_whole_life_of_a_volume_leaves_nothing(
    rig: Rig, operator: OperatorProcess
) -> None:
    await rig.add_volume("life")
    volume = await rig.wait_ready("life")
    node = volume["status"]["replication"]["primary"]
    assert FINALIZER_VOLUME in volume["metadata"]["finalizers"]
    assert volume["status"]["replicas"][0]["node"] == node
    assert condition(volume, "Ready")["status"] == "True"
    await rig.client.patch(kinds.VOLUMES, "life", {"spec": {"sizeBytes": 2 * GIB}})
    grown = await rig.wait(
        kinds.VOLUMES, "life", lambda v: v["status"]["sizeBytes"] == 2 * GIB, "growth"
    )
    assert grown["status"]["summary"]["size"] == "2Gi"
    await rig.client.delete(kinds.VOLUMES, "life")
    await rig.wait_gone(kinds.VOLUMES, "life")
    assert await rig.all(kinds.VOLUME_REPLICAS) == []
    async with asyncio.timeout(10):
        while not {"Ready", "Expanding"} <= await _events(rig, "life"):
            await asyncio.sleep(0.1)


async def test_an_api_server_that_was_away_loses_no_work_and_no_node(
    api_server: ApiServer, rig: Rig, operator: OperatorProcess
) -> None:
    await rig.add_volume("old")
    await rig.wait_ready("old")
    rig.agents["east-1"].slow = rig.agents["west-1"].slow = {"half"}
    await rig.add_volume("half")
    await rig.wait(kinds.VOLUMES, "half", has_reason("Placed", reasons.CHOSEN), "placement")
    api_server.stop()
    await asyncio.sleep(8)
    await asyncio.to_thread(api_server.start)
    for agent in rig.agents.values():
        agent.slow = set()
        agent.look_again()
    await rig.wait_ready("half")
    await rig.add_volume("new")
    await rig.wait_ready("new")
    old = await rig.client.get(kinds.VOLUMES, "old")
    assert is_ready(old)
    assert reasons.NODE_LOST not in await _events(rig, "old")


async def test_writes_of_others_in_between_are_never_lost(
    rig: Rig, operator: OperatorProcess
) -> None:
    """A storm of conflicts: somebody writes to the Volume all the time."""
    stop = asyncio.Event()

    async def disturb(name: str) -> int:
        count = 0
        while not stop.is_set():
            with suppress(ConflictError, NotFoundError):
                patch = {"metadata": {"annotations": {"count": str(count)}}}
                await rig.client.patch(kinds.VOLUMES, name, patch)
                count += 1
            await asyncio.sleep(0.005)
        return count

    names = ["a", "b", "c"]
    for name in names:
        await rig.add_volume(name)
    tasks = [asyncio.create_task(disturb(name)) for name in names]
    for name in names:
        await rig.wait_ready(name)
    stop.set()
    counts = await asyncio.gather(*tasks)
    for name, count in zip(names, counts, strict=True):
        volume = await rig.client.get(kinds.VOLUMES, name)
        assert volume["metadata"]["annotations"]["count"] == str(count - 1)
        assert FINALIZER_VOLUME in volume["metadata"]["finalizers"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"sizeBytes": 0}, "sizeBytes"),
        ({"sizeBytes": 1024**2 + 1}, "multiple of 4096"),
        ({"sizeBytes": 2**62}, "sizeBytes"),
        ({"fsType": "ntfs"}, "ntfs"),
        ({"volumeMode": "Block", "fsType": "xfs"}, "no fsType"),
        ({"source": {}}, "source"),
    ],
)
async def test_the_schema_refuses_what_can_never_work(
    kube: KubeClient, spec: dict[str, object], words: str
) -> None:
    full = {"sizeBytes": GIB, "pool": "fast", **spec}
    with pytest.raises(InvalidError, match=words):
        await kube.create(kinds.VOLUMES, {"metadata": {"name": "bad"}, "spec": full})


async def test_a_volume_cannot_shrink_or_move_its_pool(rig: Rig, operator: OperatorProcess) -> None:
    await rig.add_volume("v")
    with pytest.raises(InvalidError, match="cannot shrink"):
        await rig.client.patch(kinds.VOLUMES, "v", {"spec": {"sizeBytes": GIB // 2}})
    with pytest.raises(InvalidError, match="immutable"):
        await rig.client.patch(kinds.VOLUMES, "v", {"spec": {"pool": "other"}})


async def test_a_volume_in_use_is_not_deleted(rig: Rig, operator: OperatorProcess) -> None:
    await rig.add_volume("used")
    volume = await rig.wait_ready("used")
    node = volume["status"]["replication"]["primary"]
    await rig.client.patch(kinds.VOLUMES, "used", {"spec": {"publishedTo": [node]}})
    await rig.client.delete(kinds.VOLUMES, "used")
    held = await rig.wait(
        kinds.VOLUMES, "used", lambda v: v["status"]["phase"] == "Deleting", "the deletion"
    )
    assert condition(held, "InUse")["reason"] == reasons.PUBLISHED
    replica = await rig.client.get(kinds.VOLUME_REPLICAS, f"used.{node}")
    assert not replica["metadata"].get("deletionTimestamp")
    await rig.client.patch(kinds.VOLUMES, "used", {"spec": {"publishedTo": []}})
    await rig.wait_gone(kinds.VOLUMES, "used")


async def test_a_full_pool_is_said_and_room_is_taken_as_soon_as_there_is_some(
    rig: Rig, operator: OperatorProcess
) -> None:
    await rig.add_volume("big", sizeBytes=90 * GIB, storageCluster="east")
    await rig.wait_ready("big")
    await rig.add_volume("more", sizeBytes=20 * GIB, storageCluster="east")
    refused = await rig.wait(
        kinds.VOLUMES, "more", has_reason("Placed", reasons.NO_CAPACITY), "the refusal"
    )
    assert "overProvisioningPercent" in condition(refused, "Placed")["message"]
    await rig.client.delete(kinds.VOLUMES, "big")
    await rig.wait_ready("more")


async def test_a_lost_node_is_given_up_by_name_only(rig: Rig, operator: OperatorProcess) -> None:
    await rig.add_volume("v", storageCluster="east")
    await rig.wait_ready("v")
    rig.agents["east-1"].silent = True
    await rig.wait(kinds.VOLUMES, "v", has_reason("Ready", reasons.NODE_LOST), "the loss")
    await rig.client.delete(kinds.VOLUMES, "v")
    waiting = await rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: "giveUp" in condition(v, "Ready").get("message", ""),
        "advice",
    )
    assert waiting["status"]["phase"] == "Deleting"
    with pytest.raises(InvalidError, match="name of its node"):
        patch = {"spec": {"giveUp": "west-1"}}
        await rig.client.patch(kinds.VOLUME_REPLICAS, "v.east-1", patch)
    patch = {"spec": {"giveUp": "east-1"}}
    await rig.client.patch(kinds.VOLUME_REPLICAS, "v.east-1", patch)
    await rig.wait_gone(kinds.VOLUMES, "v")


async def test_a_snapshot_is_taken_restored_cloned_and_outlives_its_volume(
    rig: Rig, operator: OperatorProcess
) -> None:
    await rig.add_volume("origin")
    node = (await rig.wait_ready("origin"))["status"]["replication"]["primary"]
    body = {"metadata": {"name": "snap"}, "spec": {"volume": "origin"}}
    await rig.client.create(kinds.SNAPSHOTS, body)

    def ready(snapshot: dict[str, dict[str, object]]) -> bool:
        return bool((snapshot.get("status") or {}).get("readyToUse"))

    snapshot = await rig.wait(kinds.SNAPSHOTS, "snap", ready, "the snapshot")
    assert snapshot["status"]["creationTime"]
    await rig.add_volume("clone", source={"volume": "origin"})
    await rig.wait_ready("clone")
    await rig.client.delete(kinds.VOLUMES, "origin")
    await rig.wait_gone(kinds.VOLUMES, "origin")
    await rig.add_volume("restored", source={"snapshot": "snap"})
    restored = await rig.wait_ready("restored")
    assert restored["status"]["replication"]["primary"] == node
    await rig.client.delete(kinds.SNAPSHOTS, "snap")
    await rig.wait_gone(kinds.SNAPSHOTS, "snap")


async def test_a_snapshot_of_a_missing_volume_says_so_and_can_be_deleted(
    rig: Rig, operator: OperatorProcess
) -> None:
    body = {"metadata": {"name": "none"}, "spec": {"volume": "nowhere"}}
    await rig.client.create(kinds.SNAPSHOTS, body)
    await rig.wait(
        kinds.SNAPSHOTS, "none", has_reason("Ready", reasons.VOLUME_MISSING), "the refusal"
    )
    await rig.client.delete(kinds.SNAPSHOTS, "none")
    await rig.wait_gone(kinds.SNAPSHOTS, "none")


async def test_deleting_everything_in_the_wrong_order_ends_cleanly(
    rig: Rig, operator: OperatorProcess
) -> None:
    """Clusters first, then the pair, snapshots and volumes: nothing stays behind."""
    spec = {"clusters": ["east", "west"], "mode": "Sync"}
    await rig.client.create(kinds.REPLICATION_PAIRS, {"metadata": {"name": "metro"}, "spec": spec})
    await rig.add_volume("paired", replicationPair="metro")
    await rig.add_volume("v")
    await rig.wait_ready("v")
    refused = await rig.wait(
        kinds.VOLUMES,
        "paired",
        has_reason("Placed", reasons.NO_REPLICATION),
        "the refusal",
    )
    assert condition(refused, "Ready")["status"] == "False"
    body = {"metadata": {"name": "snap"}, "spec": {"volume": "v"}}
    await rig.client.create(kinds.SNAPSHOTS, body)
    await rig.wait(
        kinds.SNAPSHOTS, "snap", lambda s: bool(s.get("status", {}).get("readyToUse")), "snap"
    )
    order = [
        (kinds.STORAGE_CLUSTERS, "east"),
        (kinds.STORAGE_CLUSTERS, "west"),
        (kinds.REPLICATION_PAIRS, "metro"),
        (kinds.VOLUMES, "v"),
        (kinds.VOLUMES, "paired"),
        (kinds.SNAPSHOTS, "snap"),
    ]
    for kind, name in order[:3]:
        await rig.client.delete(kind, name)
    await rig.wait(
        kinds.REPLICATION_PAIRS, "metro", has_reason("Ready", reasons.DELETING), "the pair to hold"
    )
    for kind, name in order[3:]:
        await rig.client.delete(kind, name)
    for kind, name in order:
        await rig.wait_gone(kind, name)
    assert await rig.all(kinds.STORAGE_NODES) == []
    assert await rig.all(kinds.VOLUME_REPLICAS) == []


async def test_a_node_selected_twice_stays_with_the_older_cluster(
    rig: Rig, operator: OperatorProcess
) -> None:
    await rig.wait(
        kinds.STORAGE_CLUSTERS, "east", has_reason("Ready", reasons.ALL_READY), "east to be ready"
    )
    await rig.add_cluster("late", {"site": "east"})
    late = await rig.wait(
        kinds.STORAGE_CLUSTERS, "late", has_reason("Degraded", reasons.OVERLAP), "the overlap"
    )
    assert "east-1 belongs to east" in condition(late, "Degraded")["message"]
    node = await rig.client.get(kinds.STORAGE_NODES, "east-1")
    assert node["spec"]["storageCluster"] == "east"


async def test_a_node_that_leaves_keeps_its_volumes(rig: Rig, operator: OperatorProcess) -> None:
    await rig.add_volume("v", storageCluster="east")
    await rig.wait_ready("v")
    await rig.client.patch(kinds.NODES, "east-1", {"metadata": {"labels": {"site": "north"}}})
    await rig.wait(
        kinds.STORAGE_CLUSTERS, "east", has_reason("Degraded", reasons.NODE_LEFT), "the warning"
    )
    await rig.client.delete(kinds.VOLUMES, "v")
    await rig.wait_gone(kinds.STORAGE_NODES, "east-1")


async def test_metrics_and_probes_answer(rig: Rig, operator: OperatorProcess) -> None:
    await rig.add_volume("v")
    await rig.wait_ready("v")
    metrics = await operator.get("/metrics")
    assert 'twinvault_volumes{phase="Ready"} 1.0' in metrics
    assert "twinvault_operator_leader 1.0" in metrics
    assert (await operator.get("/healthz")).startswith("HTTP/1.1 200")
    assert (await operator.get("/readyz")).startswith("HTTP/1.1 200")
    assert (await operator.get("/../etc")).startswith("HTTP/1.1 404")
