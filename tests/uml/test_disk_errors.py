"""A disk that fails below one replica, on kernels of the test's own."""

from __future__ import annotations

from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, Metro, Writer

DEVICE_BYTES = 64 * MIB


def make_written(metro: Metro) -> tuple[str, Writer]:
    metro.make("disk", DEVICE_BYTES, mode="Block")
    device = str(metro.east.call("stage", name="disk", mode="Block"))
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    return device, writer


def test_primary_without_its_disk_goes_on_with_the_other_sides(faulty: Metro) -> None:
    device, writer = make_written(faulty)
    faulty.kernels.fail_disk(EAST)
    faulty.wait(faulty.east, "disk", "without its disk", lambda s: s["disk"] == "Diskless")
    writer.wait_for_progress(50)
    writer.stop()
    assert not writer.failed()
    last = writer.acknowledged()
    assert writer.lost_at(EAST, device, last) == "0"
    # An engine on a node whose pool is gone can still demote, so that the other side takes over.
    faulty.east.call("act", name="disk", act="demote")
    survivor = str(faulty.west.call("stage", name="disk", mode="Block"))
    assert writer.lost_at(WEST, survivor, last) == "0"


def test_secondary_without_its_disk_does_not_stop_the_primary(faulty: Metro) -> None:
    device, writer = make_written(faulty)
    faulty.kernels.fail_disk(WEST)
    faulty.wait(faulty.east, "disk", "alone", lambda s: s["peer_disk"] in ("Diskless", "Failed"))
    told = [e["resource"] for e in faulty.east.call("take_events") if e["name"] == "tv-disk"]
    assert told[-1]["peer_disk"] in ("Diskless", "Failed")
    assert not told[-1]["in_sync"]
    writer.wait_for_progress(50)
    writer.stop()
    assert not writer.failed()
    assert writer.lost_at(EAST, device, writer.acknowledged()) == "0"
