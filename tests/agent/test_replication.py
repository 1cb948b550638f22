"""Replication as the agents do it: two of them, one API, and the kernels of the model between."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.fake_drbd import VOLUME
from tests.agent.fake_storage import NoReplication
from tests.agent.metro_world import EAST, VOLUMES, WEST, MetroWorld
from tests.agent.world import NODES, REPLICAS
from twinvault_core.errors import ErrorCode, TwinvaultError
from twinvault_core.model import ReplicationRecord
from twinvault_core.replication_state import Disk


@pytest.fixture
def metro() -> Iterator[MetroWorld]:
    # A socket's path has at most 107 bytes; pytest's own directories are longer.
    with tempfile.TemporaryDirectory(prefix="tv-") as directory:
        yield MetroWorld(Path(directory))


async def test_two_blank_replicas_become_equal_and_the_peer_is_added(metro: MetroWorld) -> None:
    async with metro.running():
        assert "skip_first_sync" in metro.east.drbd.told
        assert metro.record.primary == EAST
        assert metro.record.epoch == 1
        assert metro.east.status["connection"] == "Connected"
        assert metro.west.status["epoch"] == 1


async def test_a_healthy_volume_asks_the_api_nothing(metro: MetroWorld) -> None:
    async with metro.running():
        async with asyncio.timeout(20):
            while True:
                metro.api.requests.clear()
                await asyncio.sleep(1.0)
                if not any("/volumes/" in line for line in metro.api.requests):
                    break


async def test_only_the_records_primary_is_promoted(metro: MetroWorld) -> None:
    async with metro.running():
        with pytest.raises(TwinvaultError, match=f"{EAST} is primary") as refused:
            await metro.west.stage()
        assert refused.value.code is ErrorCode.FAILED_PRECONDITION
        before = metro.record.serial
        answer = await metro.east.stage()
        assert answer == {"devicePath": "/dev/drbd1000"}
        assert metro.record.serial == before + 1
        assert metro.pair.acknowledges(EAST)


async def test_changed_settings_are_told_to_a_kernel_that_is_in_use(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        before, settings = metro.record, {"roundTripMilliseconds": 10, "alExtents": 100}
        for side in metro.sides:
            side.drbd.told.clear()
            await metro.change_spec(side.node, settings=settings)

        def is_told() -> bool:
            found = [s.drbd.observe_replica("fast", VOLUME).spec.settings for s in metro.sides]
            return all((f.round_trip_milliseconds, f.al_extents) == (10, 100) for f in found)

        await metro.until(is_told, "both kernels to be told")
        await metro.until_in_sync()
        assert [side.drbd.told for side in metro.sides] == [[], []], "the link was never cut"
        assert metro.record == before
        assert metro.pair.acknowledges(EAST)


async def test_without_the_api_nothing_is_promoted(metro: MetroWorld) -> None:
    async with metro.running():
        metro.east.wire.cut = True
        with pytest.raises(TwinvaultError, match="does not answer") as refused:
            await metro.east.stage()
        assert refused.value.code is ErrorCode.UNAVAILABLE
        assert not metro.pair.kernel(EAST).primary


async def test_a_cut_link_is_answered_from_the_record(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.pair.cut()
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the peer to be taken out")
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
        assert (EAST, "fence-peer", 4) in metro.pair.answers
        assert "go_on_alone" not in metro.east.drbd.told
        await metro.until(lambda: not metro.east.status["frozen"], "the freeze to be over")
        await metro.until(lambda: metro.west.status["connection"] == "WFConnection", "link down")
        metro.pair.heal()
        await metro.until_in_sync()
        assert metro.pair.images_are_equal()


async def test_a_link_that_was_cut_and_is_back_before_anybody_looked_is_looked_at(
    metro: MetroWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel shows what it showed before; only the record has changed."""
    async with metro.running():
        await metro.east.stage()
        await asyncio.sleep(0.3)  # at rest
        assert metro.east.agent is not None
        queue = metro.east.agent.replication._queue
        with monkeypatch.context() as busy:
            busy.setattr(queue, "add", lambda key: None)
            metro.pair.cut()
            await metro.until(lambda: metro.record.in_sync == {EAST}, "the peer to be taken out")
            await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
            metro.pair.heal()
            await metro.until(metro.pair.images_are_equal, "the resync")
            await asyncio.sleep(0.1)
        metro.east.agent.replication.replica_touched(f"{VOLUME}.{EAST}")
        await metro.until_in_sync()


async def test_frozen_stays_frozen_until_the_api_answers(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.east.wire.cut = True
        metro.pair.cut()
        await metro.until(lambda: metro.pair.answers[-1:] == [(EAST, "fence-peer", 1)], "unsure")
        await asyncio.sleep(0.5)
        assert not metro.pair.acknowledges(EAST)
        assert metro.record.in_sync == {EAST, WEST}
        metro.east.wire.cut = False
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
        assert metro.record.in_sync == {EAST}
        assert "go_on_alone" in metro.east.drbd.told
        await metro.until(lambda: not metro.east.status["frozen"], "the status to say so")


async def test_a_freeze_is_told_with_its_time_and_its_end(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        # Only the record is out of reach: the status can still be written.
        metro.api.trouble = lambda method, path, body: (
            (503, "Unavailable") if path.startswith(f"{VOLUMES}/") else None
        )
        metro.pair.cut()
        await metro.until(lambda: metro.east.status.get("frozen"), "frozen to be told")
        assert metro.east.status["frozenSince"]
        metro.api.trouble = None
        await metro.until(lambda: not metro.east.status["frozen"], "the end to be told")
        assert "frozenSince" not in metro.east.status


async def test_a_link_that_is_down_is_told_with_its_time_and_its_end(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.until_in_sync()
        assert "disconnectedSince" not in metro.west.status
        metro.pair.cut()
        for side in (metro.east, metro.west):
            await metro.until(lambda side=side: side.status.get("disconnectedSince"), "the time")
        metro.pair.heal()
        await metro.until(lambda: "disconnectedSince" not in metro.west.status, "the end")


async def test_a_new_agent_finishes_the_question_of_a_dead_one(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.east.stage()
        metro.pair.cut()
        await metro.until(lambda: metro.pair.kernel(EAST).frozen, "the freeze")
        await asyncio.sleep(0.2)
        assert not metro.pair.acknowledges(EAST)
        told = len(metro.east.drbd.told)
        (metro.east.config.data_dir / "fence" / "ours").mkdir(parents=True, exist_ok=True)
        (metro.east.config.data_dir / "fence" / "ours" / f"tv-{VOLUME}").touch()
        async with metro.east.running():
            await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
            assert metro.record.in_sync == {EAST}
            assert metro.east.drbd.told[told:] == ["go_on_alone"]


async def test_a_device_that_does_not_answer_keeps_a_frozen_volume_from_nothing(
    metro: MetroWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of the node's disks is read beside it: a dead one may hang for a minute."""
    await metro.create()
    never = threading.Event()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.east.stage()
        metro.pair.cut()
        await metro.until(lambda: metro.pair.kernel(EAST).frozen, "the freeze")
        monkeypatch.setattr(metro.east.storage, "observe_devices", lambda: never.wait(60) and ())
        async with metro.east.running():
            await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
            never.set()


async def test_an_agents_restart_disturbs_nothing(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.west.running():
        async with metro.east.running():
            await metro.until_in_sync()
            await metro.east.stage()
        assert metro.pair.acknowledges(EAST)
        told = len(metro.east.drbd.told)
        serial = metro.record.serial
        async with metro.east.running():
            await asyncio.sleep(0.5)
        assert metro.east.drbd.told[told:] == []
        assert metro.record.serial == serial
        assert metro.pair.acknowledges(EAST)


async def test_an_unconfirmed_write_is_taken_for_neither(metro: MetroWorld) -> None:
    """1. The answer to the compare-and-swap is lost. 2. The kernel hears nothing good from it.
    3. It is read again and written again, and only then writes go on.
    """
    async with metro.running():
        await metro.east.stage()
        before = metro.record.serial
        metro.east.wire.swallow = True
        metro.pair.cut()
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
        assert metro.record.in_sync == {EAST}
        assert metro.record.serial == before + 2


async def test_a_record_that_moves_while_it_is_written_is_read_again(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()

        def touch() -> None:
            meta = metro.api.objects[(VOLUMES, VOLUME)]["metadata"]
            meta["resourceVersion"] = str(int(meta["resourceVersion"]) + 100000)

        metro.east.wire.before_write = touch
        metro.pair.cut()
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
        assert metro.record.in_sync == {EAST}


async def test_the_old_primary_gives_up_rejoins_and_is_added(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.pair.write(EAST)
        metro.east.wire.cut = True
        metro.pair.cut()
        await metro.until(lambda: metro.pair.kernel(EAST).frozen, "the freeze")
        metro.pair.write(EAST)
        await metro.fail_over(WEST)
        await metro.west.stage()
        assert metro.pair.acknowledges(WEST)
        metro.east.wire.cut = False
        await metro.until(lambda: "fail_frozen_io" in metro.east.drbd.told, "I/O to be given up")
        late = [a for a in metro.pair.acknowledged if a[0] == "a" and a[2]]
        assert late == []
        await metro.until(lambda: not metro.pair.kernel(EAST).primary, "the demotion")
        await metro.until(lambda: VOLUME not in metro.east.drbd.staged, "the unmount")
        metro.pair.heal()
        await metro.until_in_sync()
        assert metro.pair.images_are_equal()
        assert metro.record.primary == WEST
        assert metro.west.drbd.targets, "the new pods are left alone"


async def test_a_volume_that_moved_back_keeps_its_pods(metro: MetroWorld) -> None:
    """The decision to end pods is made with the lock that a stage call holds."""
    async with metro.running():
        await metro.fail_over(WEST)
        await metro.until_in_sync()
        back = metro.record
        await metro.set_record(
            ReplicationRecord(back.epoch + 1, EAST, back.in_sync, back.serial + 1)
        )
        await metro.east.stage()
        await asyncio.sleep(0.3)
        assert "end_pods" not in metro.east.drbd.told
        assert metro.pair.acknowledges(EAST)


async def test_a_promotion_without_the_peer_asks_the_desk_under_the_stage_lock(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        metro.pair.cut()
        await metro.until(lambda: metro.west.status["connection"] == "WFConnection", "link down")
        await metro.until(lambda: metro.east.status["connection"] == "WFConnection", "link down")
        await metro.east.stage()
        assert (EAST, "fence-peer", 4) in metro.pair.answers
        assert metro.record.in_sync == {EAST}
        assert metro.pair.acknowledges(EAST)


async def test_an_outdated_replica_is_promoted_by_a_persons_word_alone(metro: MetroWorld) -> None:
    async with metro.running():
        metro.pair.cut()
        await metro.until(lambda: metro.west.status["connection"] == "WFConnection", "link down")
        metro.pair.do(lambda: setattr(metro.pair.drbd.images["b"], "state", Disk.OUTDATED))
        old = ReplicationRecord(2, WEST, frozenset({WEST}), metro.record.serial + 1)
        await metro.set_record(old)
        with pytest.raises(TwinvaultError, match="is Outdated"):
            await metro.west.stage()
        await metro.set_record(old, forced_to=WEST)
        await metro.west.stage()
        assert metro.west.drbd.told.count("accept_outdated") == 1
        assert metro.pair.acknowledges(WEST)
        assert metro.record.in_sync == {WEST}
        assert metro.record.serial > old.serial, "written before the kernel was told"


async def test_an_image_is_copied_before_a_resync_and_the_copy_goes_after(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.pair.cut()
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on")
        metro.pair.drbd.latched = True
        metro.pair.heal()
        await metro.until(lambda: metro.west.storage.snapshots, "the copy")
        ((_, name),) = metro.west.storage.snapshots
        assert name.startswith("resync-")
        await metro.until(lambda: (WEST, "before-resync-target", 0) in metro.pair.answers, "0")
        node = metro.api.objects[(NODES, WEST)]
        assert not (node.get("status") or {}).get("orphans")
        metro.pair.drbd.latched = False
        metro.pair.settle()
        await metro.until_in_sync()
        await metro.until(lambda: not metro.west.storage.snapshots, "the copy to go")


async def test_a_failed_disk_leaves_the_record_and_is_copied_anew(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.pair.write(EAST)
        metro.pair.do(lambda: metro.pair.drbd.break_disk("b"))
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the record to say so")
        metro.pair.drbd.replace_disk("b")
        await metro.until_in_sync()
        assert metro.pair.images_are_equal()


async def test_requests_do_not_hang_on_frozen_io(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.east.wire.cut = True
        metro.pair.cut()
        await metro.until(
            lambda: metro.east.agent and metro.east.agent.replication.feed.is_frozen(VOLUME),
            "the freeze to be heard",
        )
        with pytest.raises(TwinvaultError, match="frozen") as refused:
            await metro.east.unstage()
        assert refused.value.code is ErrorCode.UNAVAILABLE


async def test_a_freed_volume_does_not_wait_for_the_lock_of_what_hangs_on_it(
    metro: MetroWorld,
) -> None:
    """An unmount that began before the freeze holds the volume's lock until I/O goes on."""
    async with metro.running():
        await metro.east.stage()
        agent = metro.east.agent
        assert agent is not None
        async with agent.locks.hold([f"volume {VOLUME}"], "an unmount that hangs"):
            metro.east.wire.cut = True
            metro.pair.cut()
            await metro.until(lambda: metro.pair.kernel(EAST).frozen, "the freeze")
            await metro.fail_over(WEST)
            metro.east.wire.cut = False
            await metro.until(lambda: "fail_frozen_io" in metro.east.drbd.told, "it to be given up")


async def test_a_deleted_volume_leaves_the_kernel_before_its_data_goes(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.api.delete(REPLICAS, f"{VOLUME}.{WEST}")
        await metro.api.delete(REPLICAS, f"{VOLUME}.{EAST}")
        await metro.until(
            lambda: not any(where == REPLICAS for where, _ in metro.api.objects), "both to go"
        )
        for side in metro.sides:
            assert side.drbd.told.index("down") > 0
            assert not side.storage.volumes


async def test_a_stage_of_what_is_replicated_on_disk_waits_for_the_api(metro: MetroWorld) -> None:
    await metro.create()
    marks = metro.east.config.data_dir / "fence" / "ours"
    marks.mkdir(parents=True)
    (marks / f"tv-{VOLUME}").touch()
    async with metro.east.running() as agent:
        await metro.until(lambda: agent.view.looked, "the pools")
        await metro.api.delete(REPLICAS, f"{VOLUME}.{WEST}")
        obj = dict(metro.api.objects[(REPLICAS, f"{VOLUME}.{EAST}")])
        obj["spec"] = {k: v for k, v in obj["spec"].items() if k != "replication"}
        await metro.api.put(REPLICAS, obj)
        await asyncio.sleep(0.1)
        with pytest.raises(TwinvaultError, match="not attached yet"):
            await metro.east.stage()


async def test_a_slow_question_of_the_desk_blocks_nobody(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.east.wire.late_seconds = 0.3
        metro.pair.cut()
        await metro.until(lambda: metro.pair.acknowledges(EAST), "writes to go on", 8)
        assert metro.record.in_sync == {EAST}


def _device_bytes(metro: MetroWorld) -> int:
    return int(metro.east.status.get("deviceBytes") or 0)


async def test_both_grow_and_then_the_device(metro: MetroWorld) -> None:
    async with metro.running():
        for side in metro.sides:
            side.drbd.size_bytes = 1 << 30
        await metro.east.stage()
        for node in (EAST, WEST):
            obj = metro.api.objects[(REPLICAS, f"{VOLUME}.{node}")]
            spec = {**obj["spec"], "sizeBytes": 2 << 30}
            await metro.api.put(REPLICAS, {**obj, "spec": spec})
        await metro.until(lambda: "resize" in metro.east.drbd.told, "the device to grow")
        assert "resize" not in metro.west.drbd.told
        await metro.until(lambda: _device_bytes(metro) == 2 << 30, "the new size to be told")


async def test_a_filesystem_follows_a_device_that_the_kernels_grew_by_themselves(
    metro: MetroWorld,
) -> None:
    """Both images grew, the link was cut before the device did, and then it was whole again."""
    async with metro.running():
        for side in metro.sides:
            side.drbd.size_bytes = 1 << 30
        await metro.east.stage()
        await metro.until(lambda: _device_bytes(metro) == 1 << 30, "the size to be told")
        assert "resize" not in metro.east.drbd.told
        metro.east.drbd.size_bytes = 2 << 30
        metro.pair.cut()
        await metro.until(lambda: metro.record.in_sync == {EAST}, "east to go on alone", 8)
        metro.pair.heal()
        await metro.until(lambda: "resize" in metro.east.drbd.told, "the filesystem to grow", 8)


async def test_a_node_without_drbd_says_what_to_install(metro: MetroWorld) -> None:
    metro.east.storage.replication = NoReplication()
    await metro.create()
    async with metro.east.running():
        await metro.until(
            lambda: "install" in metro.east.status.get("message", ""), "the replica to say so"
        )
        status = metro.api.objects[(NODES, EAST)]["status"]["replication"]
        assert status["available"] is False
        assert "install" in status["message"]


async def test_a_diverged_volume_is_copied_and_waits_for_a_person(metro: MetroWorld) -> None:
    async with metro.running():
        pair = metro.pair
        pair.cut()
        for letter in ("a", "b"):
            image = pair.drbd.images[letter]
            image.ancestors.add(image.generation or 0)
            image.generation = pair.drbd.next()
        pair.heal()
        for side in metro.sides:
            await metro.until(
                lambda side=side: (
                    side.status.get("step") == "Hold"
                    and any(name.startswith("diverged-") for _, name in side.storage.snapshots)
                ),
                f"{side.node} to hold and copy",
            )
            assert side.status["diverged"]


async def test_both_copies_of_a_snapshot_are_of_one_instant(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.east.stage()
        await metro.take_snapshot("s1")
        await metro.until(lambda: metro.is_taken("s1"), "both copies")
        attempts = {entry["attempt"] for entry in metro.holders("s1")}
        assert len(attempts) == 1
        (token,) = attempts
        held, released = metro.east.drbd.told[-2:]
        assert (held, released) == (f"quiesce {token}", f"release {token}")
        assert not any(told.startswith("quiesce") for told in metro.west.drbd.told)


async def test_a_snapshot_whose_writes_went_on_too_early_is_taken_again(
    metro: MetroWorld,
) -> None:
    async with metro.running():
        await metro.east.stage()
        metro.east.drbd.late_releases = 1
        await metro.take_snapshot("s1")
        await metro.until(lambda: metro.is_taken("s1"), "both copies")
        tokens = [told.split()[1] for told in metro.east.drbd.told if "quiesce" in told]
        assert len(tokens) == 2
        assert {entry["attempt"] for entry in metro.holders("s1")} == {tokens[1]}
        for side in metro.sides:
            assert side.storage.calls.count("erase_snapshot s1") >= 2


async def test_an_unused_volume_is_copied_without_holding_anything(metro: MetroWorld) -> None:
    async with metro.running():
        await metro.take_snapshot("s1")
        await metro.until(lambda: metro.is_taken("s1"), "both copies")
        assert not any("quiesce" in told for told in metro.east.drbd.told)


async def test_writes_go_on_when_the_other_node_does_not_copy(metro: MetroWorld) -> None:
    await metro.create()
    async with metro.east.running():
        async with metro.west.running():
            await metro.until_in_sync()
            await metro.east.stage()
        await metro.take_snapshot("s1")
        await metro.until(
            lambda: any("release" in told for told in metro.east.drbd.told), "writes to go on"
        )
        assert not metro.is_taken("s1")
        async with metro.west.running():
            await metro.until(lambda: metro.is_taken("s1"), "both copies", 30)


async def test_who_became_equal_while_the_api_was_away_is_added_when_it_answers(
    metro: MetroWorld,
) -> None:
    """Both kernels say that all is well, which is no reason to rest: the record lacks one."""
    async with metro.running():
        await metro.east.stage()
        metro.pair.cut()
        await metro.until(lambda: metro.record.in_sync == {EAST}, "the record to go on alone")
        metro.east.wire.cut = True
        metro.pair.heal()
        await metro.until(lambda: metro.pair.kernel(WEST).disk.value == "UpToDate", "the copy")
        await asyncio.sleep(2.0)
        assert metro.record.in_sync == {EAST}
        metro.east.wire.cut = False
        await metro.until(lambda: metro.record.in_sync == {EAST, WEST}, "it to be added")
