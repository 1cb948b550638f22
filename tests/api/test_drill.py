"""Drills: the operator as a process, a real API server with its eviction API, and a Kubernetes
(controller, scheduler, attacher, kubelet) that is played by the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import (
    OperatorProcess,
    Rig,
    add_kube_node,
    condition,
    remove_everything,
)
from tests.api.replicating_agent import Link, ReplicatingAgent, remove_users
from tests.api.test_replication import Sites
from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.names import TAINT_DRILL
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient

pytestmark = [
    pytest.mark.api,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NODES = ("east-1", "west-1")
BUDGETS = kinds.Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", namespaced=True)
EVERY_SECONDS = 0.05


@dataclass
class Kubernetes:
    """Keeps one pod a volume running, where it likes to be as long as taints allow it.

    ``made``: UIDs of all pods so far. ``controller``: whether anybody would make another one.
    """

    sites: Sites
    homes: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    seen_closed: set[str] = field(default_factory=set)
    controller: bool = True
    stopped: bool = False

    async def add(self, volume: str, node: str) -> None:
        pv = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "csi.twinvault.io", "volumeHandle": volume},
            "claimRef": {"namespace": "default", "name": f"claim-{volume}"},
        }
        body = {"metadata": {"name": f"pv-{volume}"}, "spec": pv}
        await self.sites.client.create(kinds.PERSISTENT_VOLUMES, body)
        self.homes[volume] = node

    async def run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            for volume in self.homes:
                if not self.stopped:
                    with suppress(TwinvaultError):
                        await self._look(volume)

    async def _look(self, volume: str) -> None:
        client, name = self.sites.client, f"pod-{volume}"
        try:
            pod = await client.get(kinds.PODS, name, "default")
        except NotFoundError:
            await self._start(volume, name)
            return
        node = pod["spec"]["nodeName"]
        agent = self.sites.agents[node]
        if pod["metadata"].get("deletionTimestamp"):
            agent.used.discard(volume)
            await self._end(volume, pod, node)
            return
        found = await client.get(kinds.VOLUMES, volume)
        if not found["spec"].get("publishedTo"):
            await client.patch(kinds.VOLUMES, volume, {"spec": {"publishedTo": [node]}})
            return
        primary = found["status"]["replication"]["primary"]
        if found["spec"]["publishedTo"] == [node] == [primary] and not agent.silent:
            agent.used.add(volume)
            ready = {"type": "Ready", "status": "True"}
            status = {"phase": "Running", "conditions": [ready]}
            await client.patch_status(kinds.PODS, name, status, namespace="default")

    async def _start(self, volume: str, name: str) -> None:
        free = [n for n in NODES if not await self.sites_closed(n)]
        home = self.homes[volume]
        if not free:
            return
        node = home if home in free else free[0]
        owner = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "name": volume,
            "uid": f"uid-{volume}",
            "controller": True,
        }
        metadata: dict[str, Any] = {"name": name, "namespace": "default", "labels": {"app": volume}}
        if self.controller:
            metadata["ownerReferences"] = [owner]
        claim = {"claimName": f"claim-{volume}"}
        spec = {
            "nodeName": node,
            "containers": [{"name": "main", "image": "none"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": claim}],
        }
        made = await self.sites.client.create(
            kinds.PODS, {"metadata": metadata, "spec": spec}, "default"
        )
        self.made.append(made["metadata"]["uid"])

    async def sites_closed(self, node: str) -> bool:
        obj = await self.sites.client.get(kinds.NODES, node)
        taints = (obj.get("spec") or {}).get("taints") or ()
        if any(t["key"] == TAINT_DRILL for t in taints):
            self.seen_closed.add(node)
        return any(t["effect"] in ("NoSchedule", "NoExecute") for t in taints)

    async def _end(self, volume: str, pod: Json, node: str) -> None:
        """As kubelet and the attacher: unmounted, then unpublished, then gone."""
        client = self.sites.client
        replica = await client.get(kinds.VOLUME_REPLICAS, f"{volume}.{node}")
        report = replica["status"].get("replication") or {}
        if replica["status"].get("inUse") or report.get("role") == "Primary":
            return
        await client.patch(kinds.VOLUMES, volume, {"spec": {"publishedTo": None}})
        meta = pod["metadata"]
        await client.delete(
            kinds.PODS, meta["name"], namespace="default", uid=meta["uid"], grace_seconds=0
        )


@pytest.fixture
async def sites(api_server: ApiServer, kube: KubeClient, tmp_path: Path) -> AsyncIterator[Sites]:
    await _clean(kube)
    link = Link()
    agents = {name: ReplicatingAgent(kube, name, link=link) for name in NODES}
    rig = Rig(kube, dict(agents), api_server.kubeconfig, tmp_path)
    for name in NODES:
        await add_kube_node(kube, name, site=name.partition("-")[0])
        # Put on by the API server; the controller that takes it off is not there.
        await kube.patch(kinds.NODES, name, {"spec": {"taints": None}})
    tasks = [asyncio.create_task(agent.run()) for agent in agents.values()]
    for cluster in ("east", "west"):
        await rig.add_cluster(cluster)
    try:
        yield Sites(rig, link, agents)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _clean(kube)


async def _clean(kube: KubeClient) -> None:
    for budget in (await kube.list(BUDGETS, namespace="default"))[0]:
        await kube.delete(BUDGETS, budget["metadata"]["name"], namespace="default")
    await remove_users(kube)
    await remove_everything(kube)


@pytest.fixture
async def operator(sites: Sites) -> AsyncIterator[OperatorProcess]:
    process = sites.rig.operator()
    process.start()
    try:
        yield process
        assert '"exception"' not in process.log(), process.log()
    finally:
        process.stop()


@pytest.fixture
async def kubernetes(sites: Sites, operator: OperatorProcess) -> AsyncIterator[Kubernetes]:
    """Two volumes with pods, one at each site, both in sync."""
    played = Kubernetes(sites)
    await sites.add_pair()
    for volume, node in (("his", "east-1"), ("emr", "west-1")):
        await sites.add_volume(volume, node.partition("-")[0])
        await played.add(volume, node)
    task = asyncio.create_task(played.run())
    try:
        yield played
    finally:
        played.stopped = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_used(kubernetes: Kubernetes) -> None:
    for volume, node in kubernetes.homes.items():
        await kubernetes.sites.rig.wait(
            kinds.VOLUME_REPLICAS,
            f"{volume}.{node}",
            lambda r: bool((r.get("status") or {}).get("inUse")),
            f"the pod of {volume}",
        )


async def ask(sites: Sites, *volumes: str, **more: Any) -> None:
    """One drill, now."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    drill = {"runAt": now, "volumes": list(volumes), "holdSeconds": 0, **more}
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", {"spec": {"drill": drill}})


async def wait_pair(sites: Sites, what: str, **status: Any) -> Json:
    """The pair once the named fields of ``status.lastDrill`` are so."""

    def done(pair: Json) -> bool:
        last = (pair.get("status") or {}).get("lastDrill") or {}
        return all(last.get(key) == value for key, value in status.items())

    return await sites.rig.wait(kinds.REPLICATION_PAIRS, "metro", done, what)


async def wait_phase(sites: Sites, phase: str) -> Json:
    return await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: ((p.get("status") or {}).get("drill") or {}).get("phase") == phase,
        f"the drill to be {phase}",
    )


async def wait_open(kubernetes: Kubernetes) -> None:
    for node in NODES:
        await kubernetes.sites.rig.wait(
            kinds.NODES,
            node,
            lambda n: (
                not any(t["key"] == TAINT_DRILL for t in (n.get("spec") or {}).get("taints") or ())
            ),
            f"{node} to be open",
        )


async def test_volumes_of_both_sites_are_moved_and_come_back_and_the_time_is_told(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    sites = kubernetes.sites
    await wait_used(kubernetes)
    await ask(sites, "his", "emr")
    pair = await wait_pair(sites, "the drill to succeed", result="Succeeded")
    last = pair["status"]["lastDrill"]
    assert {v["volume"] for v in last["volumes"]} == {"his", "emr"}
    assert all(v["recoverySeconds"] > 0 and v["returnSeconds"] > 0 for v in last["volumes"])
    assert last["recoverySeconds"] == max(v["recoverySeconds"] for v in last["volumes"])
    assert condition(pair, "DrillSucceeded")["status"] == "True"
    assert kubernetes.seen_closed == set(NODES)
    await wait_open(kubernetes)
    assert len(kubernetes.made) == 6
    for volume, node in kubernetes.homes.items():
        found = await sites.wait_primary(volume, node)
        record = found["status"]["replication"]
        assert record["epoch"] == 3
        assert set(record["inSync"]) == set(NODES)
    metrics = await operator.get("/metrics")
    assert 'twinvault_drills_total{pair="metro",result="Succeeded"} 1.0' in metrics
    assert 'twinvault_drill_recovery_seconds{pair="metro",volume="his"}' in metrics
    assert 'twinvault_drill_last_success_timestamp_seconds{pair="metro"}' in metrics


async def test_a_drill_survives_the_operator_in_the_middle_of_each_phase(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    sites = kubernetes.sites
    await wait_used(kubernetes)
    await ask(sites, "his", holdSeconds=2)
    for phase in ("Leaving", "Away", "Returning"):
        await wait_phase(sites, phase)
        operator.kill()
        operator.start()
    await wait_pair(sites, "the drill to succeed", result="Succeeded")
    await wait_open(kubernetes)
    mine = len(kubernetes.made) - 1  # without the pod of emr
    assert mine == 3, "each pod was evicted once"


async def test_a_pod_that_nobody_would_start_again_is_never_evicted(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    kubernetes.controller = False
    await wait_used(kubernetes)
    before = list(kubernetes.made)
    await ask(kubernetes.sites, "his")
    pair = await wait_pair(kubernetes.sites, "the refusal", result="Refused")
    assert pair["status"]["lastDrill"]["reason"] == "NoController"
    assert "pod default/pod-his" in condition(pair, "DrillSucceeded")["message"]
    assert kubernetes.made == before
    assert not kubernetes.seen_closed


async def test_a_disruption_budget_has_the_last_word(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    sites = kubernetes.sites
    await wait_used(kubernetes)
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "his"}}}
    await sites.client.create(BUDGETS, {"metadata": {"name": "his"}, "spec": spec}, "default")
    before = list(kubernetes.made)
    await ask(sites, "his", deadlineSeconds=10)
    pair = await wait_pair(sites, "the end", result="Aborted")
    assert "cannot be evicted" in pair["status"]["lastDrill"]["message"]
    assert kubernetes.made == before
    await wait_open(kubernetes)


async def test_a_lost_node_ends_the_drill_and_the_failover_goes_its_way(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    sites = kubernetes.sites
    await wait_used(kubernetes)
    await ask(sites, "his", holdSeconds=600)
    await wait_phase(sites, "Away")
    sites.lose("west-1")
    pair = await wait_pair(sites, "the drill to be aborted", result="Aborted")
    assert pair["status"]["lastDrill"]["reason"] in ("NodeLost", "NotInSync", "LinkDown", "Frozen")
    await sites.wait_primary("his", "east-1")
    await wait_open(kubernetes)


async def test_a_schedule_is_planned_and_a_bad_one_is_told(
    kubernetes: Kubernetes, operator: OperatorProcess
) -> None:
    sites = kubernetes.sites
    drill = {"schedule": "0 2 * * sun", "volumes": ["his"]}
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", {"spec": {"drill": drill}})
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: bool((p.get("status") or {}).get("nextDrill")),
        "the plan",
    )
    assert pair["status"]["nextDrill"]["time"].endswith("T02:00:00.000Z")
    drill["schedule"] = "0 2 * * someday"
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", {"spec": {"drill": drill}})
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: condition(p, "DrillSucceeded").get("reason") == "InvalidSchedule",
        "the reason",
    )
    assert "someday" in condition(pair, "DrillSucceeded")["message"]
    assert not pair["status"].get("nextDrill")
