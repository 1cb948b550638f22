"""A Lease has one holder at a time, and a holder that hears nothing stops by itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.kube.fake_api import FakeApi
from twinvault_core.errors import UnavailableError
from twinvault_kube import lease
from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import LEASES
from twinvault_kube.lease import LeaseKeeper, LeaseName, LeaseWatch

NAME = LeaseName("twinvault-system", "agent-east-1")
PATH = LEASES.path("twinvault-system")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def keeper(client: KubeClient, identity: str, clock: Clock) -> LeaseKeeper:
    return LeaseKeeper(
        client, NAME, identity, duration_seconds=10, renew_seconds=2, monotonic=clock
    )


async def test_the_first_takes_it_and_the_second_waits(api: FakeApi, client: KubeClient) -> None:
    clock = Clock()
    first, second = keeper(client, "a", clock), keeper(client, "b", clock)
    assert await first.try_once()
    assert not await second.try_once()
    clock.now += 9
    assert await first.try_once()
    clock.now += 9
    assert not await second.try_once()


async def test_a_silent_holder_is_followed_after_its_duration_as_seen_here(
    api: FakeApi, client: KubeClient
) -> None:
    clock = Clock()
    first, second = keeper(client, "a", clock), keeper(client, "b", clock)
    await first.try_once()
    await second.try_once()
    clock.now += 10
    assert await second.try_once()
    assert not first.held
    stored = api.objects[(PATH, NAME.name)]
    assert stored["spec"]["holderIdentity"] == "b"
    assert stored["spec"]["leaseTransitions"] == 1


async def test_silence_counts_from_what_a_watch_told_without_a_read_in_between(
    api: FakeApi, client: KubeClient
) -> None:
    clock = Clock()
    first, second = keeper(client, "a", clock), keeper(client, "b", clock)
    await first.try_once()
    second.hear(api.objects[(PATH, NAME.name)])
    clock.now += 9
    assert not await second.try_once()
    clock.now += 1
    assert await second.try_once()


async def test_the_former_holder_notices_that_it_was_followed(
    api: FakeApi, client: KubeClient
) -> None:
    clock = Clock()
    first, second = keeper(client, "a", clock), keeper(client, "b", clock)
    await first.try_once()
    await second.try_once()
    clock.now += 10
    await second.try_once()
    assert not await first.try_once()
    assert not first.held


async def test_a_holder_that_cannot_renew_stops_before_another_may_start(
    api: FakeApi, client: KubeClient
) -> None:
    clock = Clock()
    first = keeper(client, "a", clock)
    await first.try_once()
    api.down = True
    clock.now += 10
    with pytest.raises(UnavailableError):
        await first.try_once()
    assert not first.held
    api.down = False
    assert await first.try_once()
    assert first.held


async def test_a_renewal_is_one_call(api: FakeApi, client: KubeClient) -> None:
    clock = Clock()
    first = keeper(client, "a", clock)
    await first.try_once()
    api.requests.clear()
    clock.now += 2
    assert await first.try_once()
    assert api.requests == [f"PUT {PATH}/{NAME.name}"]


async def test_a_hand_on_the_lease_costs_no_renewal(api: FakeApi, client: KubeClient) -> None:
    clock = Clock()
    first = keeper(client, "a", clock)
    await first.try_once()
    await client.patch(
        LEASES, NAME.name, {"metadata": {"labels": {"x": "y"}}}, namespace=NAME.namespace
    )
    clock.now += 2
    assert await first.try_once()
    assert first.silent_seconds == 0


async def test_a_lease_that_was_deleted_is_made_again(api: FakeApi, client: KubeClient) -> None:
    clock = Clock()
    first = keeper(client, "a", clock)
    await first.try_once()
    await api.delete(PATH, NAME.name)
    assert await first.try_once()


async def test_a_renewal_that_was_lost_in_an_election_is_asked_for_again_at_once(
    api: FakeApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. It is never answered.  2. The next one is, long before the Lease runs out."""
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.001)
    clock, tried = Clock(), 0
    first = keeper(client, "a", clock)

    async def hang_once() -> bool:
        nonlocal tried
        tried += 1
        if tried == 1:
            await asyncio.sleep(3600)
        return await LeaseKeeper.try_once(first)

    monkeypatch.setattr(first, "try_once", hang_once)
    running = asyncio.create_task(first.run())
    async with asyncio.timeout(1.5):  # less than the two seconds between renewals
        await first.wait_held()
    running.cancel()
    assert (tried, first.failures) == (2, 1)


async def test_a_released_lease_is_taken_at_once(api: FakeApi, client: KubeClient) -> None:
    clock = Clock()
    first, second = keeper(client, "a", clock), keeper(client, "b", clock)
    await first.try_once()
    await first.release()
    assert not first.held
    assert await second.try_once()


def test_silence_is_counted_from_the_change_that_was_seen() -> None:
    clock = Clock()
    watch = LeaseWatch(monotonic=clock)
    assert watch.silent_seconds("x") is None
    watch.observe("x", {"metadata": {"resourceVersion": "1"}})
    clock.now += 5
    watch.observe("x", {"metadata": {"resourceVersion": "1"}})
    assert watch.silent_seconds("x") == 5
    watch.observe("x", {"metadata": {"resourceVersion": "2"}})
    assert watch.silent_seconds("x") == 0
    watch.observe("x", None)
    assert watch.silent_seconds("x") is None


def test_a_duration_without_room_for_two_renewals_is_refused(client: KubeClient) -> None:
    with pytest.raises(ValueError, match="twice"):
        LeaseKeeper(client, NAME, "a", duration_seconds=3, renew_seconds=2)
