"""Operators that are killed, stopped and replaced: who comes next goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress

import pytest

from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import NAMESPACE, OperatorProcess, Rig
from twinvault_core.errors import NotFoundError
from twinvault_kube import kinds
from twinvault_operator.config import LEADER_LEASE

pytestmark = [
    pytest.mark.api,
    # A TLS handshake that is given up is closed by the garbage collector: the HTTP library's doing.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
async def nobody_leads(rig: Rig) -> AsyncIterator[None]:
    """A Lease that a killed operator left would only cost each test its duration."""
    with suppress(NotFoundError):
        await rig.client.delete(kinds.LEASES, LEADER_LEASE, namespace=NAMESPACE)
    yield


async def test_killed_while_twenty_volumes_are_made_it_goes_on(rig: Rig) -> None:
    process = rig.operator()
    process.start()
    await rig.add_volume("first")
    await rig.wait_ready("first")
    names = [f"v-{number}" for number in range(20)]
    for delay in (0.02, 0.15, 0.3):
        batch, names_left = names[:7], names[7:]
        await asyncio.gather(*(rig.add_volume(name) for name in batch))
        names = names_left
        await asyncio.sleep(delay)
        process.kill()
        process.start()
    every = [f"v-{number}" for number in range(20)]
    for name in every:
        await rig.wait_ready(name)
    replicas = await rig.all(kinds.VOLUME_REPLICAS)
    assert sorted(r["spec"]["volume"] for r in replicas) == sorted([*every, "first"])
    made = [agent.made.get(name, 0) for agent in rig.agents.values() for name in every]
    assert sum(made) == len(every)
    assert process.stop() == 0


async def test_a_standby_takes_over_from_a_killed_leader(rig: Rig) -> None:
    one, two = rig.operator("operator-1"), rig.operator("operator-2")
    with ExitStack() as stack:
        one.start()
        stack.callback(one.kill)
        await rig.add_volume("before")
        await rig.wait_ready("before")
        two.start()
        stack.callback(two.kill)
        await asyncio.gather(*(rig.add_volume(f"v-{n}") for n in range(10)))
        await asyncio.sleep(0.1)
        one.kill()
        for number in range(10):
            await rig.wait_ready(f"v-{number}")
        assert len(await rig.all(kinds.VOLUME_REPLICAS)) == 11
        lease = await rig.client.get(kinds.LEASES, "twinvault-operator", NAMESPACE)
        assert lease["spec"]["holderIdentity"] == "operator-2"


async def test_a_stopped_leader_hands_over_at_once(rig: Rig) -> None:
    one = rig.operator()
    one.start()
    await rig.add_volume("v")
    await rig.wait_ready("v")
    assert one.stop() == 0
    lease = await rig.client.get(kinds.LEASES, "twinvault-operator", NAMESPACE)
    assert lease["spec"]["holderIdentity"] == ""


async def test_without_crds_it_waits_and_says_what_to_install(
    rig: Rig, api_server: ApiServer
) -> None:
    """An operator that may read nothing: it does not end, and its log names the roles."""
    kubeconfig = api_server.kubeconfig_for("nobody")
    process = OperatorProcess(kubeconfig, rig.directory, "operator-poor")
    process.start()
    try:
        async with asyncio.timeout(20):
            while "Are the CRDs and roles" not in process.log():
                await asyncio.sleep(0.1)
        assert (await process.get("/readyz")).startswith("HTTP/1.1 503")
    finally:
        assert process.stop() == 0
