"""Power cuts of whole nodes, on kernels of the test's own."""

from __future__ import annotations

import time

from e2e.lab.config import Node
from tests.uml.driver import Driver
from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, POOL_IMAGE, Metro, Writer

DEVICE_BYTES = 64 * MIB


def restart(metro: Metro, node: Node) -> Driver:
    """The node boots on its disks; its new engine."""
    (metro.east if node == EAST else metro.west).close()
    metro.kernels.boot(node)
    return metro.start_engine(node)


def test_node_that_lost_its_power_as_primary_comes_back_as_the_resyncs_target(
    faulty: Metro,
) -> None:
    minor = faulty.make("power", DEVICE_BYTES, mode="Block")
    device = str(faulty.east.call("stage", name="power", mode="Block"))
    writer = Writer(faulty.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress(50)
    last = writer.acknowledged()
    faulty.kernels.power_cut(EAST)
    faulty.west.call("answer", handler="fence-peer", code=7)
    survivor = stage_when_link_is_known_lost(faulty)
    assert writer.lost_at(WEST, survivor, last) == "0"
    second = Writer(faulty.kernels, WEST, survivor, DEVICE_BYTES, first=last + 1000)
    second.wait_for_progress(50)

    faulty.east = restart(faulty, EAST)
    faulty.east.call("replica", name="power", spec=faulty.spec(EAST, minor))
    faulty.wait_in_sync(faulty.east, "power")
    assert faulty.east.call("observe", name="power")["role"] == "Secondary"
    second.stop()
    faulty.west.call("unstage", name="power")
    faulty.assert_identical("power")
    image = POOL_IMAGE.format("power")
    assert second.lost_at(EAST, image, second.acknowledged()) == "0"


def stage_when_link_is_known_lost(metro: Metro) -> str:
    metro.wait(metro.west, "power", "alone", lambda s: s["connection"] != "Connected")
    return str(metro.west.call("stage", name="power", mode="Block"))


def test_secondary_that_lost_its_power_comes_back_and_gets_what_it_missed(faulty: Metro) -> None:
    minor = faulty.make("power", DEVICE_BYTES, mode="Block")
    device = str(faulty.east.call("stage", name="power", mode="Block"))
    writer = Writer(faulty.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress(50)
    faulty.kernels.power_cut(WEST)
    faulty.wait_frozen(faulty.east, "power")
    assert writer.stands_still()
    faulty.east.call("go_on_alone", name="power")
    writer.wait_for_progress(50)
    faulty.west = restart(faulty, WEST)
    faulty.west.call("replica", name="power", spec=faulty.spec(WEST, minor))
    faulty.wait_in_sync(faulty.west, "power")
    handlers = [asked["handler"] for asked in faulty.west.call("take_asked")]
    assert "before-resync-target" in handlers
    writer.wait_for_progress()
    writer.stop()
    faulty.east.call("unstage", name="power")
    faulty.assert_identical("power")


def test_engine_killed_while_frozen_finds_the_freeze_when_it_is_back(faulty: Metro) -> None:
    faulty.make("power", DEVICE_BYTES, mode="Block")
    device = str(faulty.east.call("stage", name="power", mode="Block"))
    writer = Writer(faulty.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    faulty.east.kill()
    faulty.kernels.cut()
    time.sleep(3)
    assert writer.stands_still()
    faulty.east = faulty.start_engine(EAST)
    told = [e["resource"] for e in faulty.east.call("take_events") if e["name"] == "tv-power"]
    assert told[0]["frozen"]
    faulty.east.call("go_on_alone", name="power")
    writer.wait_for_progress()
    writer.stop()
