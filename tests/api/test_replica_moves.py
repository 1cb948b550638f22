"""Replicas that move, leave and join: the operator as a process, a real API server, three nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.api.operator_rig import OperatorProcess, add_kube_node
from tests.api.replicating_agent import ReplicatingAgent
from tests.api.test_replication import Sites, operator, sites
from twinvault_kube import kinds
from twinvault_kube.client import Json

__all__ = ["operator", "sites"]

pytestmark = [
    pytest.mark.api,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LABEL = "replica.twinvault.io/v"


@pytest.fixture
async def spare(sites: Sites) -> AsyncIterator[ReplicatingAgent]:
    """A second node at west."""
    agent = ReplicatingAgent(sites.client, "west-2", link=sites.link)
    sites.agents["west-2"] = sites.rig.agents["west-2"] = agent
    await add_kube_node(sites.client, "west-2", site="west")
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def wait_members(sites: Sites, *nodes: str, in_sync: bool = True) -> Json:
    """The volume once these nodes hold it, and nobody else has an object of it."""

    def holds(volume: Json) -> bool:
        status = volume["status"]
        equal = set(status["replication"]["inSync"]) == set(nodes)
        return set(status["placement"]["nodes"]) == set(nodes) and (equal or not in_sync)

    volume = await sites.rig.wait(kinds.VOLUMES, "v", holds, f"v to be on {nodes}")
    async with asyncio.timeout(20):
        while {r["spec"]["nodeName"] for r in await replicas(sites)} != set(nodes):
            await asyncio.sleep(0.1)
    return volume


async def replicas(sites: Sites) -> list[Json]:
    found, _ = await sites.client.list(kinds.VOLUME_REPLICAS)
    return [r for r in found if r["spec"]["volume"] == "v"]


async def choose_west(sites: Sites) -> tuple[str, str]:
    """(the node that holds the second replica, the spare one)."""
    volume = await sites.client.get(kinds.VOLUMES, "v")
    (old,) = set(volume["status"]["placement"]["nodes"]) - {"east-1"}
    return old, "west-1" if old == "west-2" else "west-2"


async def is_labelled(sites: Sites, node: str) -> bool:
    return LABEL in ((await sites.client.get(kinds.NODES, node))["metadata"].get("labels") or {})


async def test_a_node_is_emptied_while_a_pod_writes_and_pods_may_follow(
    sites: Sites, spare: ReplicatingAgent, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    made = await sites.add_volume("v")
    await sites.use("v", "east-1")
    old, new = await choose_west(sites)
    await sites.client.patch(kinds.STORAGE_NODES, old, {"spec": {"evacuate": True}})
    volume = await wait_members(sites, "east-1", new)
    before, after = (v["status"]["replicationDevice"] for v in (made, volume))
    assert after["minor"] == before["minor"], "a filesystem is mounted from it"
    assert after["port"] != before["port"]
    assert await is_labelled(sites, new)
    assert not await is_labelled(sites, old)
    assert await sites.pods() == {"pod-v"}
    clusters = {r["spec"]["nodeName"]: r["spec"]["storageCluster"] for r in await replicas(sites)}
    assert clusters == {"east-1": "east", new: "west"}
    # And back, to a node that had a replica before.
    await sites.client.patch(kinds.STORAGE_NODES, old, {"spec": {"evacuate": None}})
    await sites.client.patch(kinds.STORAGE_NODES, new, {"spec": {"evacuate": True}})
    again = await wait_members(sites, "east-1", old)
    assert again["status"]["replicationDevice"]["port"] not in (before["port"], after["port"])


async def test_a_replica_is_removed_and_added_again(
    sites: Sites, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    await sites.client.patch(kinds.VOLUMES, "v", {"spec": {"replicationPair": None}})
    await wait_members(sites, "east-1")
    await sites.rig.wait(
        kinds.VOLUMES, "v", lambda v: v["status"]["summary"]["inSync"] == "1/1", "the summary"
    )
    await sites.rig.wait(
        kinds.VOLUME_REPLICAS,
        "v.east-1",
        lambda r: "replication" not in r["spec"],
        "its agent to be told",
    )
    await sites.client.patch(kinds.VOLUMES, "v", {"spec": {"replicationPair": "metro"}})
    await wait_members(sites, "east-1", "west-1")


async def test_a_node_that_is_lost_for_good_is_replaced_and_forgotten(
    sites: Sites, spare: ReplicatingAgent, operator: OperatorProcess
) -> None:
    await sites.add_pair()
    await sites.add_volume("v")
    await sites.use("v", "east-1")
    old, new = await choose_west(sites)
    sites.agents[old].silent = True
    await sites.client.patch(kinds.STORAGE_NODES, old, {"spec": {"lost": old}})
    volume = await wait_members(sites, "east-1", new)
    device = volume["status"]["replicationDevice"]
    assert device["port"] not in device["retired"]
