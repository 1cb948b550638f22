"""Replicated volumes, switchover and failover: the operator as a process, a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import (
    NAMESPACE,
    OperatorProcess,
    Rig,
    add_kube_node,
    condition,
    has_reason,
    is_ready,
    remove_everything,
)
from tests.api.replicating_agent import (
    Link,
    ReplicatingAgent,
    add_pod,
    add_user,
    attach,
    remove_users,
)
from twinvault_core import reasons
from twinvault_core.errors import NotFoundError
from twinvault_core.names import TAINT_LOST
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient

pytestmark = [
    pytest.mark.api,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BOTH = {"east-1", "west-1"}


class Sites:
    """Both sites with a pair, one operator, and what a fault does to them."""

    def __init__(self, rig: Rig, link: Link, agents: dict[str, ReplicatingAgent]) -> None:
        self.rig, self.link, self.agents = rig, link, agents
        self.client = rig.client

    async def add_pair(self, **failover: Any) -> None:
        settings = {"leaseDurationSeconds": 3, "stableSeconds": 1, **failover}
        spec = {"clusters": ["east", "west"], "mode": "Sync", "failover": settings}
        body = {"metadata": {"name": "metro"}, "spec": spec}
        await self.client.create(kinds.REPLICATION_PAIRS, body)

    async def add_volume(self, name: str, at: str = "east") -> Json:
        await self.rig.add_volume(name, replicationPair="metro", storageCluster=at)
        return await self.rig.wait_ready(name)

    async def use(self, name: str, node: str) -> None:
        """A pod on ``node`` writes to it."""
        await add_user(self.client, name, node)
        await self.wait_primary(name, node)
        self.agents[node].used.add(name)
        await self.rig.wait(
            kinds.VOLUME_REPLICAS,
            f"{name}.{node}",
            lambda r: bool((r.get("status") or {}).get("inUse")),
            "the pod to use it",
        )

    async def wait_primary(self, name: str, node: str) -> Json:
        return await self.rig.wait(
            kinds.VOLUMES,
            name,
            lambda v: v["status"]["replication"]["primary"] == node,
            f"{node} to be primary of {name}",
        )

    def lose(self, node: str) -> None:
        """Power cut: its agent and the link are gone, its pods only look alive."""
        self.agents[node].silent = True
        self.link.up = False

    def bring_back(self, node: str) -> None:
        self.agents[node].used.clear()
        self.agents[node].silent = False
        self.link.up = True

    async def is_closed(self, node: str) -> bool:
        return is_tainted(await self.client.get(kinds.NODES, node))

    async def pods(self) -> set[str]:
        return {p["metadata"]["name"] for p in (await self.client.list(kinds.PODS))[0]}


@pytest.fixture
async def sites(api_server: ApiServer, kube: KubeClient, tmp_path: Path) -> AsyncIterator[Sites]:
    await remove_users(kube)
    await remove_everything(kube)
    link = Link()
    agents = {name: ReplicatingAgent(kube, name, link=link) for name in sorted(BOTH)}
    rig = Rig(kube, dict(agents), api_server.kubeconfig, tmp_path)
    for name in agents:
        await add_kube_node(kube, name, site=name.partition("-")[0])
    tasks = [asyncio.create_task(agent.run()) for agent in agents.values()]
    await rig.add_cluster("east")
    await rig.add_cluster("west")
    try:
        yield Sites(rig, link, agents)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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


def is_tainted(node: Json) -> bool:
    taints = (node.get("spec") or {}).get("taints") or ()
    return any(taint["key"] == TAINT_LOST for taint in taints)


def has_settings(replica: Json, **wanted: int) -> bool:
    settings = replica["spec"]["replication"]["settings"]
    return all(settings[name] == value for name, value in wanted.items())


def last_phases(pair: Json) -> dict[str, float | None]:
    last = (pair.get("status") or {}).get("lastFailover") or {}
    return {phase["name"]: phase.get("seconds") for phase in last.get("phases") or ()}


async def test_a_replicated_volume_lives_and_goes_without_leaving_anything(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    for name, at in (("his", "east"), ("emr", "west")):
        volume = await sites.add_volume(name, at)
        record = volume["status"]["replication"]
        assert record["primary"] == f"{at}-1"
        assert set(record["inSync"]) == BOTH
        assert volume["status"]["summary"]["inSync"] == "2/2"
    replicas = {
        r["metadata"]["name"]: r["spec"] for r in await sites.rig.all(kinds.VOLUME_REPLICAS)
    }
    assert len({spec["replication"]["port"] for spec in replicas.values()}) == 2
    assert replicas["his.west-1"]["role"] == "Secondary"
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: (p.get("status") or {}).get("volumes", {}).get("inSync") == 2,
        "the pair to count both",
    )
    assert condition(pair, "Ready")["status"] == "True"
    await sites.rig.client.delete(kinds.REPLICATION_PAIRS, "metro")
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", has_reason("Ready", reasons.DELETING), "the pair to stay"
    )
    for name in ("his", "emr"):
        await sites.client.delete(kinds.VOLUMES, name)
        await sites.rig.wait_gone(kinds.VOLUMES, name)
    await sites.rig.wait_gone(kinds.REPLICATION_PAIRS, "metro")
    assert await sites.rig.all(kinds.VOLUME_REPLICAS) == []
    leases = (await sites.client.list(kinds.LEASES, namespace=NAMESPACE))[0]
    assert not [lease for lease in leases if lease["metadata"]["name"].startswith("drbd-")]


async def test_a_volume_waits_with_a_reason_until_both_nodes_can_replicate(
    sites: Sites, operator: OperatorProcess
) -> None:
    sites.agents["west-1"].able = False
    await sites.add_pair()
    await sites.rig.wait(
        kinds.STORAGE_NODES,
        "west-1",
        lambda n: (n.get("status") or {}).get("replication", {}).get("available") is False,
        "the agent's word",
    )
    await sites.rig.add_volume("v", replicationPair="metro")
    # The operator may hear of the volume before it hears of the node's report.
    waiting = await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: "module drbd is missing" in condition(v, "Placed").get("message", ""),
        "the reason",
    )
    assert condition(waiting, "Placed")["reason"] == reasons.NO_REPLICATION
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", has_reason("Ready", reasons.NO_REPLICATION), "the pair"
    )
    await sites.rig.add_volume("plain")
    await sites.rig.wait_ready("plain")
    sites.agents["west-1"].able = True
    await sites.agents["west-1"]._node("west-1")
    await sites.rig.wait_ready("v")


async def test_a_changed_line_or_pool_reaches_a_volume_that_is_used(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    network = {"roundTripMilliseconds": 10}
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", {"spec": {"network": network}})
    east = await sites.client.get(kinds.STORAGE_CLUSTERS, "east")
    pools = [{**east["spec"]["pools"][0], "alExtents": 100}]
    await sites.client.patch(kinds.STORAGE_CLUSTERS, "east", {"spec": {"pools": pools}})
    for name, extents in (("v.east-1", 100), ("v.west-1", 0)):
        await sites.rig.wait(
            kinds.VOLUME_REPLICAS,
            name,
            partial(has_settings, alExtents=extents, roundTripMilliseconds=10),
            "the changed settings",
        )
    node = await sites.rig.wait(
        kinds.STORAGE_NODES, "east-1", lambda n: n["spec"]["pools"] == pools, "the pool"
    )
    await asyncio.sleep(1.0)
    again = await sites.client.get(kinds.STORAGE_NODES, "east-1")
    assert again["metadata"]["generation"] == node["metadata"]["generation"], "it comes to rest"


async def test_a_pair_names_the_cluster_that_is_missing_and_the_site_that_is_empty(
    sites: Sites, operator: OperatorProcess
) -> None:
    spec = {"clusters": ["east", "north"], "mode": "Sync"}
    body = {"metadata": {"name": "metro"}, "spec": spec}
    await sites.client.create(kinds.REPLICATION_PAIRS, body)

    async def expect(reason: str, words: str) -> None:
        pair = await sites.rig.wait(
            kinds.REPLICATION_PAIRS, "metro", has_reason("Ready", reason), words
        )
        assert condition(pair, "Ready")["status"] == "False"
        assert words in condition(pair, "Ready")["message"]

    await expect(reasons.CLUSTER_UNKNOWN, "StorageCluster north does not exist")
    await sites.rig.add_cluster("north")
    await expect(reasons.NO_NODES, "StorageCluster north has no node")


async def test_a_network_that_lets_nothing_through_is_told_with_addresses_and_ports(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    sites.link.up = False
    await sites.rig.add_volume("v", replicationPair="metro")
    waiting = await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: "a firewall or a route" in condition(v, "Ready").get("message", ""),
        "the volume to say why it is not ready",
    )
    for words in ("east-1 (10.0.0.1)", "west-1 (10.0.0.2)", "TCP ports 7000 to 9799"):
        assert words in condition(waiting, "Ready")["message"]
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        has_reason("Ready", reasons.NETWORK_UNREACHABLE),
        "the pair to say so too",
    )
    sites.link.up = True
    await sites.rig.wait_ready("v")
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", has_reason("Ready", reasons.READY), "the pair to be well"
    )


async def test_a_drain_is_a_switchover(sites: Sites, operator: OperatorProcess) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    await sites.client.patch(kinds.VOLUMES, "v", {"spec": {"publishedTo": ["west-1"]}})
    still = await sites.rig.wait(
        kinds.VOLUMES, "v", has_reason("Progressing", reasons.MOVING), "the wait for the old pod"
    )
    assert still["status"]["replication"]["primary"] == "east-1"
    sites.agents["east-1"].used.clear()
    moved = await sites.wait_primary("v", "west-1")
    assert moved["status"]["replication"]["epoch"] == 2
    assert set(moved["status"]["replication"]["inSync"]) == BOTH
    await sites.rig.wait(
        kinds.VOLUME_REPLICAS,
        "v.west-1",
        lambda r: r["spec"]["role"] == "Primary" and r["spec"]["replication"]["epoch"] == 2,
        "the role to follow",
    )
    assert not await sites.is_closed("east-1")


async def test_a_lost_node_is_fenced_emptied_and_trusted_again_when_it_was_well(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    for name in ("a", "b"):
        await sites.add_volume(name)
        await sites.use(name, "east-1")
    await add_pod(sites.client, "bystander", "east-1")
    sites.lose("east-1")
    for name in ("a", "b"):
        moved = await sites.wait_primary(name, "west-1")
        assert moved["status"]["replication"]["inSync"] == ["west-1"]
        await sites.rig.wait_gone(kinds.VOLUME_ATTACHMENTS, f"va-{name}")
        volume = await sites.client.get(kinds.VOLUMES, name)
        assert not volume["spec"].get("publishedTo")
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", lambda p: "evict" in last_phases(p), "the first phases"
    )
    assert await sites.pods() == {"bystander"}
    await sites.rig.wait(kinds.NODES, "east-1", is_tainted, "the taint of a lost node")
    for name in ("a", "b"):
        await sites.client.patch(kinds.VOLUMES, name, {"spec": {"publishedTo": ["west-1"]}})
        await attach(sites.client, name, "west-1")
        sites.agents["west-1"].used.add(name)
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", lambda p: "total" in last_phases(p), "all phases"
    )
    expected = ["detect", "fence", "evict", "reschedule", "attach", "promote", "mount", "total"]
    assert list(last_phases(pair)) == expected
    metrics = await operator.get("/metrics")
    assert 'twinvault_failovers_total{pair="metro",reason="NodeLost"} 1.0' in metrics
    sites.bring_back("east-1")
    for name in ("a", "b"):
        await sites.rig.wait(
            kinds.VOLUMES,
            name,
            lambda v: set(v["status"]["replication"]["inSync"]) == BOTH and is_ready(v),
            "both in sync again",
        )
    await sites.rig.wait(kinds.NODES, "east-1", lambda n: not is_tainted(n), "the taint to go")


async def test_an_agent_that_is_dead_on_a_node_that_works_moves_nothing(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    sites.agents["east-1"].silent = True
    waiting = await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: "does not report its link down" in condition(v, "Ready").get("message", ""),
        "the reason why nothing moves",
    )
    assert waiting["status"]["replication"]["primary"] == "east-1"
    assert not await sites.is_closed("east-1")
    assert await sites.pods() == {"pod-v"}


async def test_a_cut_link_moves_nothing(sites: Sites, operator: OperatorProcess) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    sites.link.up = False
    alone = await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: (
            v["status"]["replication"]["inSync"] == ["east-1"]
            and v["status"]["phase"] == "Degraded"
        ),
        "the primary to go on alone",
    )
    assert condition(alone, "Ready")["status"] == "True"
    sites.agents["east-1"].silent = True
    stays = await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: "not in sync" in condition(v, "Ready").get("message", ""),
        "the reason why the other one cannot take over",
    )
    assert stays["status"]["replication"]["primary"] == "east-1"
    assert await sites.pods() == {"pod-v"}


async def test_with_the_manual_policy_a_person_sees_what_it_costs_and_decides(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair(policy="Manual")
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    sites.lose("east-1")
    asked = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: bool((p.get("status") or {}).get("failoverPreview")),
        "the preview",
    )
    assert asked["status"]["failoverPreview"]["safe"] == ["v"]
    assert (await sites.client.get(kinds.VOLUMES, "v"))["status"]["replication"]["epoch"] == 1
    await sites.client.patch(
        kinds.REPLICATION_PAIRS, "metro", {"spec": {"failover": {"approve": "west"}}}
    )
    await sites.wait_primary("v", "west-1")
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: (
            p["status"].get("approvalUsed") == "west" and not p["status"].get("failoverPreview")
        ),
        "the approval to be used up",
    )
    await _come_home_and_be_lost_again(sites)
    metro = kinds.REPLICATION_PAIRS, "metro"
    await sites.rig.wait(
        *metro, lambda p: bool(p["status"].get("failoverPreview")), "the next preview"
    )
    assert (await sites.client.get(kinds.VOLUMES, "v"))["status"]["replication"]["epoch"] == 3
    await sites.client.patch(*metro, {"spec": {"failover": {"approve": None}}})
    await sites.rig.wait(
        *metro, lambda p: "approvalUsed" not in p["status"], "the used approval to go"
    )
    await sites.client.patch(*metro, {"spec": {"failover": {"approve": "west"}}})
    moved = await sites.wait_primary("v", "west-1")
    assert moved["status"]["replication"]["epoch"] == 4


async def _come_home_and_be_lost_again(sites: Sites) -> None:
    """east-1 is back, equal and trusted; v is moved there by a drain; its power is cut again."""
    sites.bring_back("east-1")
    await sites.rig.wait(
        kinds.VOLUMES,
        "v",
        lambda v: set(v["status"]["replication"]["inSync"]) == BOTH and is_ready(v),
        "both in sync again",
    )
    await sites.rig.wait(kinds.NODES, "east-1", lambda n: not is_tainted(n), "the taint to go")
    await sites.client.patch(kinds.VOLUMES, "v", {"spec": {"publishedTo": ["east-1"]}})
    await sites.wait_primary("v", "east-1")
    sites.lose("east-1")


async def test_a_leader_that_dies_with_the_node_costs_nothing_but_its_lease(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    second = sites.rig.operator("operator-2")
    second.start()
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    if "200" in (await second.get("/readyz")).partition("\r\n")[0]:
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.1)
        operator.kill()
        sites.lose("east-1")
        await sites.wait_primary("v", "west-1")
        await sites.rig.wait_gone(kinds.VOLUME_ATTACHMENTS, "va-v")
        with pytest.raises(NotFoundError):
            await sites.client.get(kinds.PODS, "pod-v", "default")
        assert '"exception"' not in second.log(), second.log()
    finally:
        second.stop()


async def test_the_replicas_of_one_volume_after_the_other_are_compared(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    for name in ("a", "b"):
        await sites.add_volume(name)
    yearly, due = "0 0 1 1 *", "2026-01-01T00:00:00Z"
    spec = {"verify": {"schedule": yearly}}
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", {"spec": spec})
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", lambda p: "nextVerify" in p["status"], "the time"
    )
    planned = {"nextVerify": {"schedule": yearly, "time": due}}
    await sites.client.patch_status(kinds.REPLICATION_PAIRS, "metro", planned)
    for name, different in (("a", 0), ("b", 4096)):
        replica = f"{name}.east-1"
        await sites.rig.wait(
            kinds.VOLUME_REPLICAS,
            replica,
            lambda r: r["spec"]["replication"].get("verifyRequest") == due,
            f"{name} to be compared",
        )
        others = [
            r["metadata"]["name"]
            for r in await sites.rig.all(kinds.VOLUME_REPLICAS)
            if r["spec"]["replication"].get("verifyRequest")
        ]
        assert others == [replica]
        result = "Different" if different else "Equal"
        report = {"request": due, "result": result, "differentBytes": different, "percent": 100}
        status = {"replication": {"verify": report}}
        await sites.client.patch_status(kinds.VOLUME_REPLICAS, replica, status)
        await sites.rig.wait(
            kinds.VOLUMES,
            name,
            lambda v, result=result: (v["status"].get("lastVerify") or {}).get("result") == result,
            "the result at the volume",
        )
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: bool((p["status"].get("lastVerify") or {}).get("endedAt")),
        "the end of the round",
    )
    last = pair["status"]["lastVerify"]
    assert (last["volumes"], last["left"], last["differentBytes"]) == (2, 0, 4096)
    assert condition(pair, "Verified")["status"] == "False"
    metrics = await operator.get("/metrics")
    assert 'twinvault_verify_last_different_bytes{pair="metro",volume="b"} 4096.0' in metrics


async def test_no_more_volumes_resync_at_once_than_the_pair_allows(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    one = {"spec": {"resync": {"concurrentVolumes": 1}}}
    await sites.client.patch(kinds.REPLICATION_PAIRS, "metro", one)
    for name in ("a", "b"):
        await sites.add_volume(name)
        await sites.use(name, "east-1")
    sites.link.up = False
    pair = await sites.rig.wait(
        kinds.REPLICATION_PAIRS,
        "metro",
        lambda p: (p["status"].get("resync") or {}).get("waiting") == 1,
        "one to wait",
    )
    assert [t["volume"] for t in pair["status"]["resync"]["turns"]] == ["a"]
    await sites.rig.wait(
        kinds.VOLUME_REPLICAS,
        "b.east-1",
        lambda r: bool(r["spec"]["replication"].get("resyncHold")),
        "b to be told",
    )
    sites.link.up = True
    await sites.rig.wait(
        kinds.REPLICATION_PAIRS, "metro", lambda p: "resync" not in p["status"], "all to be whole"
    )
    for name in ("a", "b"):
        replica = await sites.client.get(kinds.VOLUME_REPLICAS, f"{name}.east-1")
        assert not replica["spec"]["replication"].get("resyncHold")
