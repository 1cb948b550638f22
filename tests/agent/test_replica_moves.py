"""Two agents while the volume's replicas change: who leaves, who stays, who was forgotten."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from tests.agent.fake_drbd import VOLUME
from tests.agent.metro_world import EAST, REPLICAS, STAGING, VOLUMES, WEST, MetroWorld
from twinvault_core.agent_api import Publish, Stage
from twinvault_core.model import ReplicationRecord


@pytest.fixture
def metro(tmp_path: Path) -> MetroWorld:
    return MetroWorld(tmp_path)


async def set_members(metro: MetroWorld, nodes: Collection[str]) -> None:
    """As the operator: record and members in one write."""
    obj, before = metro.api.objects[(VOLUMES, VOLUME)], metro.record
    after = ReplicationRecord(1, EAST, frozenset({EAST}), before.serial + 1)
    status = {"replication": after.to_dict(), "placement": {"nodes": sorted(nodes)}}
    await metro.api.put(VOLUMES, {**obj, "status": status})


async def live_alone(metro: MetroWorld) -> None:
    """The second replica leaves the volume; its object is still there."""
    await set_members(metro, {EAST})
    obj = metro.api.objects[(REPLICAS, f"{VOLUME}.{EAST}")]
    spec = {k: v for k, v in obj["spec"].items() if k != "replication"}
    await metro.api.put(REPLICAS, {**obj, "spec": spec})


async def test_a_peer_that_leaves_is_taken_out_of_the_record_while_the_pod_writes(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.east.stage()
        await metro.change_spec(EAST, peerLeaves=True)
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the record to say so")
        assert metro.pair.acknowledges(EAST)
        await metro.change_spec(EAST, peerLeaves=False)
        await metro.until(lambda: metro.record.in_sync == {EAST, WEST}, "it to be added again")


async def test_a_volume_lives_on_alone_below_its_pod_and_without_drbd_after_it(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.east.stage()
        await metro.change_spec(EAST, peerLeaves=True)
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the record to say so")
        await live_alone(metro)
        await metro.until(lambda: not metro.pair.kernel(EAST).wants_link, "the link to be left")
        assert metro.pair.acknowledges(EAST)
        await metro.east.stage()  # kubelet asks again whenever it was started anew
        await metro.api.delete(REPLICAS, f"{VOLUME}.{WEST}")
        await metro.until(lambda: not metro.west.storage.volumes, "the other one to be erased")
        await metro.east.unstage()
        await metro.until(lambda: not metro.pair.kernel(EAST).up, "DRBD to go")
        assert metro.east.storage.volumes, "the data stays"


async def test_data_that_a_person_wants_is_kept_and_leaves_the_kernel(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.change_spec(EAST, peerLeaves=True)
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the record to say so")
        await set_members(metro, {EAST})
        obj = metro.api.objects[(REPLICAS, f"{VOLUME}.{WEST}")]
        await metro.api.put(REPLICAS, {**obj, "spec": {**obj["spec"], "keepData": True}})
        await metro.api.delete(REPLICAS, f"{VOLUME}.{WEST}")
        await metro.until(
            lambda: (REPLICAS, f"{VOLUME}.{WEST}") not in metro.api.objects, "the object to go"
        )
        assert not metro.pair.kernel(WEST).up
        assert metro.west.storage.volumes


async def test_who_was_given_up_and_comes_back_is_laid_to_rest(metro: MetroWorld) -> None:
    async with metro.running():
        agent = metro.west.agent
        assert agent is not None
        await set_members(metro, {EAST})
        await metro.api.delete(REPLICAS, f"{VOLUME}.{WEST}")
        await metro.until(
            lambda: (REPLICAS, f"{VOLUME}.{WEST}") not in metro.api.objects, "the object to go"
        )
        metro.west.drbd.revive()
        assert metro.pair.kernel(WEST).up
        await agent.replication._abandoned.sweep([VOLUME])
        assert not metro.pair.kernel(WEST).up


async def test_what_the_record_names_is_never_laid_to_rest(metro: MetroWorld) -> None:
    async with metro.running():
        agent = metro.east.agent
        assert agent is not None
        metro.api.objects.pop((REPLICAS, f"{VOLUME}.{EAST}"))
        assert await agent.replication._abandoned._is_spoken_of(VOLUME)


async def test_what_kubelet_kept_staged_is_staged_on_the_records_word_before_a_pod_gets_it(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        stage, before = Stage(VOLUME, STAGING, "Filesystem", "ext4"), metro.record
        metro.east.storage.lifted[VOLUME] = stage
        await metro.east.ask(Publish(VOLUME, STAGING, "/var/lib/kubelet/pods/x/m", "Filesystem"))
        assert metro.east.storage.calls[-2:] == [f"stage {VOLUME}", f"publish {VOLUME}"]
        assert metro.record.serial > before.serial, "promoting was written first"
