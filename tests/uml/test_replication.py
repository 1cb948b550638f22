"""Replicated volumes on real kernels: the whole course of what can happen to a link."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.uml.driver import InsideError
from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, POOL_IMAGE, SNAPSHOT_IMAGE, Metro, Writer

DEVICE_BYTES = 64 * MIB
POD = "6b1f0c6e-8c4e-4f0e-9d3a-0a1b2c3d4e5f"


@pytest.fixture(autouse=True)
def healed(metro: Metro) -> Iterator[None]:
    """Every test begins with a link, nobody's answers, and nothing told yet."""
    for driver in metro.both:
        driver.call("answer", handler="fence-peer", code=1)
        driver.call("answer", handler="before-resync-target", code=0)
        driver.call("take_asked")
        driver.call("take_events")
    yield
    metro.kernels.heal()


def make_block(metro: Metro, name: str) -> str:
    """A replicated raw volume, primary at east; its device there."""
    metro.make(name, DEVICE_BYTES, mode="Block")
    return str(metro.east.call("stage", name=name, mode="Block"))


def test_two_blank_replicas_are_in_sync_without_copying(metro: Metro) -> None:
    minor = metro.new_minor()
    for driver in metro.both:
        driver.call("volume", name="new", size_bytes=DEVICE_BYTES)
        made = driver.call("replica", name="new", spec=metro.spec(driver.node, minor))
        assert made["blank"]
        again = driver.call("replica", name="new", spec=metro.spec(driver.node, minor))
        assert again["blank"]
    metro.wait(metro.east, "new", "connected", lambda s: s["connection"] == "Connected")
    metro.east.call("act", name="new", act="skip_first_sync")
    for driver in metro.both:
        metro.wait_in_sync(driver, "new")
        assert not driver.call("observe", name="new")["blank"]
    metro.east.call("act", name="new", act="skip_first_sync")
    allocated = metro.kernels.sh(WEST, f"stat -c %b {POOL_IMAGE.format('new')}")
    assert int(allocated) == 0


def test_first_sync_of_a_volume_with_data_is_never_skipped_by_mistake(metro: Metro) -> None:
    metro.make("used", DEVICE_BYTES)
    for driver in metro.both:
        driver.call("act", name="used", act="disconnect")
    with pytest.raises(InsideError) as refused:
        metro.east.call("act", name="used", act="skip_first_sync")
    assert refused.value.code == "FailedPrecondition"
    with pytest.raises(InsideError):
        metro.east.call("act", name="used", act="invalidate")


def test_volume_with_data_gets_a_replica_by_a_full_sync(metro: Metro) -> None:
    for driver in metro.both:
        driver.call("volume", name="grown", size_bytes=DEVICE_BYTES)
    metro.east.call("stage", name="grown")
    metro.write(metro.east, "grown", "before")
    with pytest.raises(InsideError) as in_use:
        metro.east.call("replica", name="grown", spec=metro.spec(EAST, 1))
    assert in_use.value.code == "InUse"
    metro.east.call("unstage", name="grown")
    minor = metro.new_minor()
    for driver in metro.both:
        driver.call("replica", name="grown", spec=metro.spec(driver.node, minor))
    assert not metro.east.call("observe", name="grown")["blank"]
    metro.wait(metro.east, "grown", "connected", lambda s: s["connection"] == "Connected")
    metro.east.call("act", name="grown", act="start_full_sync")
    for driver in metro.both:
        metro.wait_in_sync(driver, "grown")
    metro.assert_identical("grown")
    metro.west.call("stage", name="grown")
    assert metro.files(metro.west, "grown") == {"before"}
    metro.west.call("unstage", name="grown")


def test_only_one_side_can_be_primary(metro: Metro) -> None:
    metro.make("one")
    metro.east.call("stage", name="one")
    with pytest.raises(InsideError) as refused:
        metro.west.call("stage", name="one")
    assert refused.value.code == "FailedPrecondition"
    metro.write(metro.east, "one", "east")
    metro.east.call("unstage", name="one")
    metro.west.call("stage", name="one")
    assert metro.files(metro.west, "one") == {"east"}
    metro.west.call("unstage", name="one")
    metro.assert_identical("one")


def test_lost_link_freezes_writes_until_somebody_allows_them(metro: Metro) -> None:
    device = make_block(metro, "alone")
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    metro.kernels.cut()
    metro.wait_frozen(metro.east, "alone")
    assert writer.stands_still()
    asked = metro.east.call("take_asked")
    assert [(a["handler"], a["what"], a["peer_address"]) for a in asked] == [
        ("fence-peer", "tv-alone", str(WEST.address))
    ]
    told = [e for e in metro.east.call("take_events") if e["name"] == "tv-alone"]
    assert told[-1]["resource"]["frozen"]
    metro.east.call("go_on_alone", name="alone")
    writer.wait_for_progress()
    writer.stop()
    metro.kernels.heal()
    for driver in metro.both:
        metro.wait_in_sync(driver, "alone")
    metro.east.call("unstage", name="alone")
    metro.assert_identical("alone")


def test_writes_go_on_by_themselves_when_the_helper_says_that_they_may(metro: Metro) -> None:
    device = make_block(metro, "fenced")
    metro.east.call("answer", handler="fence-peer", code=7)
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    metro.kernels.cut()
    metro.wait(metro.east, "fenced", "alone", lambda s: s["peer_disk"] == "Outdated")
    writer.wait_for_progress()
    writer.stop()
    metro.kernels.heal()
    metro.wait_in_sync(metro.east, "fenced")
    metro.east.call("unstage", name="fenced")
    metro.assert_identical("fenced")


def test_answer_5_is_never_given_to_the_kernel(metro: Metro) -> None:
    device = make_block(metro, "never")
    metro.east.call("answer", handler="fence-peer", code=5)
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    metro.kernels.cut()
    metro.wait_frozen(metro.east, "never")
    assert writer.stands_still()
    metro.kernels.heal()
    metro.wait_in_sync(metro.east, "never")
    writer.wait_for_progress()
    writer.stop()
    metro.east.call("unstage", name="never")


def test_failover_keeps_every_acknowledged_write_and_the_old_primary_comes_back(
    metro: Metro,
) -> None:
    device = make_block(metro, "moved")
    target = f"pods/{POD}/volumeDevices/moved"
    metro.east.call("publish", name="moved", target=target, mode="Block")
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES, pod=POD)
    writer.wait_for_progress(50)
    metro.kernels.cut()
    metro.wait_frozen(metro.east, "moved")
    with pytest.raises(InsideError) as refused:
        metro.west.call("stage", name="moved", mode="Block")
    assert refused.value.code == "Unavailable"
    metro.west.call("answer", handler="fence-peer", code=7)
    survivor = str(metro.west.call("stage", name="moved", mode="Block"))
    acknowledged = writer.acknowledged()
    assert writer.lost_at(WEST, survivor, acknowledged) == "0"
    second = Writer(metro.kernels, WEST, survivor, DEVICE_BYTES, first=acknowledged + 1)
    second.wait_for_progress(50)

    # The link comes back before the old primary knows: nothing may thaw by itself.
    metro.kernels.heal()
    assert writer.stands_still(5)
    metro.east.call("fail_frozen_io", name="moved")
    assert metro.east.call("observe", name="moved")["disk"] == "Diskless"
    writer.wait_for_end()
    assert writer.acknowledged() == acknowledged, "acknowledged after it was decided that it lost"

    metro.east.call("unpublish", name="moved", target=target)
    metro.east.call("unstage", name="moved")
    metro.east.call("take_asked")
    metro.east.call("rejoin", name="moved", spec=spec_of(metro, "moved"))
    # Two primaries met when the link came back: either side may have stopped trying.
    metro.west.call("act", name="moved", act="connect")
    metro.wait_in_sync(metro.east, "moved")
    handlers = [asked["handler"] for asked in metro.east.call("take_asked")]
    assert handlers[0] == "before-resync-target"
    second.stop()
    metro.west.call("unstage", name="moved")
    metro.assert_identical("moved")


def spec_of(metro: Metro, name: str) -> dict[str, object]:
    """The spec of a volume at east, from its journal."""
    path = POOL_IMAGE.format(name).replace("data.img", "replication.json")
    text = metro.kernels.sh(EAST, f"grep -o '\"minor\": [0-9]*' {path}")
    return metro.spec(EAST, int(text.split(":")[1]))


def test_resync_does_not_begin_before_the_target_allowed_it(metro: Metro) -> None:
    device = make_block(metro, "held")
    metro.east.call("answer", handler="fence-peer", code=7)
    metro.west.call("answer", handler="before-resync-target", code=1)
    metro.kernels.cut()
    metro.wait(metro.east, "held", "alone", lambda s: s["peer_disk"] == "Outdated")
    metro.kernels.sh(EAST, f"dd if=/dev/urandom of={device} bs=1M count=4 oflag=direct")
    before = metro.images(POOL_IMAGE.format("held"))[1]
    metro.kernels.heal()
    metro.wait(metro.west, "held", "refusing", lambda s: s["connection"] == "StandAlone")
    assert metro.images(POOL_IMAGE.format("held"))[1] == before
    metro.west.call("answer", handler="before-resync-target", code=0)
    for driver in metro.both:
        driver.call("act", name="held", act="connect")
    metro.wait_in_sync(metro.west, "held")
    metro.east.call("unstage", name="held")
    metro.assert_identical("held")


def test_volume_grows_online_at_both_sides_without_copying(metro: Metro) -> None:
    metro.make("wider", 128 * MIB)
    metro.east.call("stage", name="wider")
    metro.write(metro.east, "wider", "before")
    blocks = int(metro.kernels.sh(EAST, f"stat -f -c %b {metro.path('wider')}"))
    for driver in metro.both:
        assert driver.call("volume", name="wider", size_bytes=512 * MIB)["size_bytes"] == 512 * MIB
    with pytest.raises(InsideError) as early:
        metro.east.call("expand", name="wider", size_bytes=512 * MIB)
    assert early.value.code == "FailedPrecondition"
    assert metro.east.call("resize", name="wider", peer_part_is_blank=True) == 512 * MIB
    state = metro.east.call("observe", name="wider")
    assert (state["in_sync"], state["out_of_sync_bytes"]) == (True, 0)
    assert metro.east.call("expand", name="wider", size_bytes=512 * MIB) == 512 * MIB
    assert int(metro.kernels.sh(EAST, f"stat -f -c %b {metro.path('wider')}")) > 3 * blocks
    metro.write(metro.east, "wider", "after")
    metro.east.call("unstage", name="wider")
    metro.west.call("stage", name="wider")
    assert metro.files(metro.west, "wider") == {"before", "after"}
    metro.west.call("unstage", name="wider")
    metro.assert_identical("wider")


def test_metadata_grows_with_a_volume_that_outgrows_it(metro: Metro) -> None:
    metro.make("huge", 128 * MIB)
    before = metro.east.call("observe", name="huge")["metadata_bytes"]
    size = 400 * 1024 * MIB
    for driver in metro.both:
        driver.call("volume", name="huge", size_bytes=size)
    assert metro.east.call("resize", name="huge", peer_part_is_blank=True) == size
    assert metro.east.call("observe", name="huge")["metadata_bytes"] > before
    assert metro.east.call("observe", name="huge")["in_sync"]
    for driver in metro.both:
        driver.call("erase", name="huge")


@pytest.mark.parametrize("mode", ["Filesystem", "Block"])
def test_snapshots_of_both_sides_hold_what_was_acknowledged_before(metro: Metro, mode: str) -> None:
    name = f"instant-{mode.lower()}"
    metro.make(name, DEVICE_BYTES, mode=mode)
    target = str(metro.east.call("stage", name=name, mode=mode))
    if mode == "Filesystem":
        target = f"{metro.path(name)}/file"
        metro.kernels.sh(EAST, f"truncate -s {DEVICE_BYTES // 2} {target}")
    writer = Writer(metro.kernels, EAST, target, DEVICE_BYTES // 2)
    for number in range(3):
        writer.wait_for_progress()
        acknowledged = writer.acknowledged()
        token, snapshot = f"{name}-{number}", f"snap-{name}-{number}"
        held = metro.east.call("quiesce", name=name, token=token, seconds=5)
        assert held == ("Frozen" if mode == "Filesystem" else "Running")
        copies = [
            driver.begin("snapshot", name=name, snapshot=snapshot, quiesced=True)
            for driver in metro.both
        ]
        for driver, copy in zip(metro.both, copies, strict=True):
            driver.finish(copy)
        metro.east.call("release", token=token)
        if mode == "Filesystem":
            east, west = metro.images(SNAPSHOT_IMAGE.format(snapshot))
            assert east == west
        for node in (EAST, WEST):
            assert (
                mode == "Filesystem"
                or writer.lost_at(node, SNAPSHOT_IMAGE.format(snapshot), acknowledged) == "0"
            )
    writer.wait_for_progress()
    assert metro.east.call("observe", name=name)["in_sync"]
    writer.stop()
    metro.east.call("unstage", name=name)


def test_writes_go_on_at_the_deadline_and_the_snapshot_does_not_count(metro: Metro) -> None:
    metro.make("late", DEVICE_BYTES)
    metro.east.call("stage", name="late")
    writer = Writer(metro.kernels, EAST, f"{metro.path('late')}/file", MIB, create=True)
    writer.wait_for_progress()
    metro.east.call("quiesce", name="late", token="late", seconds=1)
    writer.wait_for_progress()
    with pytest.raises(InsideError) as late:
        metro.east.call("release", token="late")
    assert late.value.code == "Timeout"
    writer.stop()
    metro.east.call("unstage", name="late")


def test_link_lost_while_the_filesystem_is_frozen_leaves_writes_frozen(metro: Metro) -> None:
    metro.make("both", DEVICE_BYTES)
    metro.east.call("stage", name="both")
    writer = Writer(metro.kernels, EAST, f"{metro.path('both')}/file", MIB, create=True)
    writer.wait_for_progress()
    metro.east.call("quiesce", name="both", token="both", seconds=30)
    metro.kernels.cut()
    metro.wait_frozen(metro.east, "both")
    with pytest.raises(InsideError) as waits:
        metro.east.call("release", token="both")
    assert waits.value.code == "Busy"
    assert writer.stands_still()
    assert metro.east.call("observe", name="both")["frozen"]
    metro.east.call("go_on_alone", name="both")
    writer.wait_for_progress()
    writer.stop()
    metro.kernels.heal()
    metro.wait_in_sync(metro.east, "both")
    metro.east.call("unstage", name="both")
    metro.assert_identical("both")


def test_snapshot_of_a_raw_device_does_not_count_when_it_went_on_alone(metro: Metro) -> None:
    device = make_block(metro, "apart")
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    metro.east.call("quiesce", name="apart", token="apart", seconds=30)
    metro.east.call("answer", handler="fence-peer", code=7)
    metro.kernels.cut()
    metro.wait(metro.east, "apart", "alone", lambda s: s["peer_disk"] == "Outdated")
    writer.wait_for_progress()
    metro.kernels.heal()
    metro.wait_in_sync(metro.east, "apart")
    with pytest.raises(InsideError) as apart:
        metro.east.call("release", token="apart")
    assert apart.value.code == "Busy"
    writer.stop()
    metro.east.call("unstage", name="apart")


def test_event_stream_comes_back_and_tells_what_it_missed(metro: Metro) -> None:
    metro.make("followed", DEVICE_BYTES)
    metro.west.call("take_events")
    assert metro.west.call("kill_stream") >= 1
    metro.east.call("stage", name="followed")
    metro.wait(metro.west, "followed", "beside a primary", lambda s: s["peer_role"] == "Primary")

    def told() -> bool:
        events = [e for e in metro.west.call("take_events") if e["name"] == "tv-followed"]
        return any(e["resource"]["peer_role"] == "Primary" for e in events)

    metro.wait(metro.west, "followed", "told of", lambda _: told())
    metro.east.call("unstage", name="followed")


def test_nothing_is_left_of_an_erased_volume(metro: Metro) -> None:
    before = [driver.call("holdings") for driver in metro.both]
    metro.make("gone", DEVICE_BYTES)
    metro.east.call("stage", name="gone")
    with pytest.raises(InsideError) as in_use:
        metro.east.call("erase", name="gone")
    assert in_use.value.code == "InUse"
    metro.east.call("unstage", name="gone")
    for driver in metro.both:
        driver.call("erase", name="gone")
        driver.call("erase", name="gone")
    assert [driver.call("holdings") for driver in metro.both] == before
    for node in (EAST, WEST):
        assert "tv-gone" not in metro.kernels.sh(node, "ls /var/lib/twinvault/fence/ours")
        assert "gone" not in metro.kernels.sh(node, "ls /var/lib/twinvault/records/drbd")


def test_volume_becomes_unreplicated_with_its_data(metro: Metro) -> None:
    metro.make("single", DEVICE_BYTES)
    metro.east.call("stage", name="single")
    metro.write(metro.east, "single", "row")
    metro.east.call("unstage", name="single")
    for driver in metro.both:
        driver.call("remove_replica", name="single")
        driver.call("remove_replica", name="single")
        assert "/dev/loop" in driver.call("stage", name="single")
        assert metro.files(driver, "single") == {"row"}
        driver.call("unstage", name="single")
        driver.call("erase", name="single")
