"""What the agents do about a resync's turn, and about comparing both replicas."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.metro_world import EAST, WEST, MetroWorld
from twinvault_core.model import VolumeReplica
from twinvault_engine.agent.resync_holds import PATIENCE_SECONDS, Holds

ROUND = "2026-01-01T01:00:00Z"
WORD = "2026-01-01T00:00:00Z"


@pytest.fixture
def metro() -> Iterator[MetroWorld]:
    # A socket's path has at most 107 bytes; pytest's own directories are longer.
    with tempfile.TemporaryDirectory(prefix="tv-") as directory:
        yield MetroWorld(Path(directory))


def sync(metro: MetroWorld) -> str:
    return str(metro.east.status.get("sync"))


def verify(metro: MetroWorld) -> dict[str, object]:
    return dict(metro.east.status.get("verify") or {})


async def fall_behind(metro: MetroWorld) -> None:
    await metro.east.stage()
    metro.pair.cut()
    await metro.until(lambda: metro.record.in_sync == {EAST}, "the peer to be taken out")
    await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")


async def test_a_held_resync_waits_connected_and_goes_on_when_its_turn_comes(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await fall_behind(metro)
        await metro.change_spec(EAST, resyncHold=WORD)
        await metro.until(lambda: "hold_sync" in metro.east.drbd.told, "the hold")
        metro.pair.heal()
        await metro.until(lambda: sync(metro) == "PausedSyncS", "the resync to wait")
        assert metro.record.in_sync == {EAST}
        assert metro.east.status["connection"] == "Connected"
        assert metro.pair.acknowledges(EAST), "writes go on, to both"
        await metro.change_spec(EAST, resyncHold="")
        await metro.until_in_sync()
        assert metro.pair.images_are_equal()
        assert not metro.pair.kernel(EAST).held


async def test_the_other_side_never_holds_and_takes_back_what_was_left_there(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.change_spec(WEST, resyncHold=WORD)
        metro.pair.do(lambda: setattr(metro.pair.kernel(WEST), "held", True))
        await metro.until(lambda: not metro.pair.kernel(WEST).held, "the hold to be taken back")
        assert "hold_sync" not in metro.west.drbd.told


async def test_a_new_agent_lets_go_of_what_a_dead_one_held(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await fall_behind(metro)
            await metro.change_spec(EAST, resyncHold=WORD)
            await metro.until(lambda: metro.pair.kernel(EAST).held, "the hold")
        metro.pair.heal()
        await metro.change_spec(EAST, resyncHold="")
        async with metro.east.running():
            await metro.until_in_sync()


def test_a_hold_that_is_not_said_anew_is_over() -> None:
    now = 100.0
    holds = Holds(lambda: now)

    def replica(word: str) -> VolumeReplica:
        spec = {
            "volume": "v",
            "volumeUID": "u",
            "nodeName": "east-1",
            "storageCluster": "east",
            "pool": "fast",
            "sizeBytes": 1 << 30,
            "replication": {
                "minor": 1000,
                "port": 7000,
                "address": "10.0.0.1",
                "peerNode": "west-1",
                "peerAddress": "10.0.0.2",
                "resyncHold": word,
            },
        }
        return VolumeReplica.parse({"metadata": {"name": "v.east-1"}, "spec": spec})

    assert not holds.counts(replica(""))
    assert holds.counts(replica("one"))
    now += PATIENCE_SECONDS - 1
    assert holds.counts(replica("one"))
    assert holds.counts(replica("two"))
    now += PATIENCE_SECONDS
    assert not holds.counts(replica("two"))
    assert holds.counts(replica("three"))


async def test_the_replicas_are_compared_once_for_each_question(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.change_spec(EAST, verifyRequest=ROUND)
        await metro.until(lambda: sync(metro) == "VerifyS", "the comparison")
        await metro.until(lambda: verify(metro).get("result") == "Running", "it to be told")
        metro.pair.end_verify()
        await metro.until(lambda: verify(metro).get("result") == "Equal", "the result")
        assert verify(metro)["request"] == ROUND
        assert verify(metro)["endedAt"]
        await metro.change_spec(EAST, verifyRequest="")
        await metro.change_spec(EAST, verifyRequest=ROUND)
        await metro.until_in_sync()
        assert metro.east.drbd.told.count("verify") == 1
        assert metro.record.in_sync == {EAST, WEST}


async def test_a_difference_is_told_then_the_peer_leaves_the_record_and_is_copied(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        serial = metro.record.serial
        await metro.change_spec(EAST, verifyRequest=ROUND)
        await metro.until(lambda: sync(metro) == "VerifyS", "the comparison")
        metro.pair.end_verify(different_bytes=8192)
        await metro.until(lambda: verify(metro).get("result") == "Different", "the result")
        assert verify(metro)["differentBytes"] == 8192
        await metro.until_in_sync()
        await metro.until(lambda: "copy_marked" in metro.east.drbd.told, "the repair")
        await metro.until_in_sync()
        assert metro.record.serial >= serial + 2, "taken out, and added again"
        assert verify(metro)["result"] == "Different", "the result stays"


async def test_a_pass_that_the_link_cut_off_is_no_result_and_begins_anew(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.change_spec(EAST, verifyRequest=ROUND)
        await metro.until(lambda: sync(metro) == "VerifyS", "the comparison")
        metro.pair.cut()
        await metro.until(lambda: metro.east.status["connection"] != "Connected", "the cut")
        metro.pair.heal()
        await metro.until(lambda: metro.east.drbd.told.count("verify") == 2, "another pass")
        assert verify(metro).get("result") in (None, "Running")
        metro.pair.end_verify()
        await metro.until(lambda: verify(metro).get("result") == "Equal", "the result")


async def test_a_pass_that_ended_while_no_agent_watched_is_no_result(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.change_spec(EAST, verifyRequest=ROUND)
            await metro.until(lambda: sync(metro) == "VerifyS", "the comparison")
        metro.pair.end_verify()
        async with metro.east.running():
            await metro.until(lambda: metro.east.drbd.told.count("verify") == 2, "another pass")
            metro.pair.end_verify()
            await metro.until(lambda: verify(metro).get("result") == "Equal", "the result")


async def test_a_new_agent_goes_on_watching_a_pass_that_still_runs(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.change_spec(EAST, verifyRequest=ROUND)
            await metro.until(lambda: verify(metro).get("result") == "Running", "the comparison")
        async with metro.east.running():
            await metro.until(lambda: metro.east.agent is not None, "the agent")
            await metro.until(
                lambda: metro.east.agent.replication._looker.verify._passes,  # type: ignore[union-attr]
                "it to be seen",
            )
            metro.pair.end_verify()
            await metro.until(lambda: verify(metro).get("result") == "Equal", "the result")
            assert metro.east.drbd.told.count("verify") == 1


async def test_only_the_records_primary_compares(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.change_spec(WEST, verifyRequest=ROUND)
        await metro.until_in_sync()
        assert "verify" not in metro.west.drbd.told
