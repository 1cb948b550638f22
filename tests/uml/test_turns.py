"""A resync that waits for its turn, and comparing both replicas, on real kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, POOL_IMAGE, Metro, Writer

DEVICE_BYTES = 64 * MIB


@pytest.fixture(autouse=True)
def healed(metro: Metro) -> Iterator[None]:
    for driver in metro.both:
        driver.call("answer", handler="fence-peer", code=4)
        driver.call("answer", handler="before-resync-target", code=0)
    yield
    metro.kernels.heal()


def test_a_held_resync_waits_connected_while_new_writes_go_to_both(metro: Metro) -> None:
    metro.make("held", DEVICE_BYTES, mode="Block")
    device = str(metro.east.call("stage", name="held", mode="Block"))
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    metro.kernels.cut()
    metro.wait(metro.east, "held", "alone", lambda s: s["connection"] != "Connected")
    writer.wait_for_progress(50)
    metro.east.call("act", name="held", act="hold_sync")
    metro.east.call("act", name="held", act="hold_sync")
    metro.kernels.heal()
    waiting = metro.wait(metro.east, "held", "waiting", lambda s: s["sync"] == "PausedSyncS", 60)
    assert waiting["held"]
    assert waiting["out_of_sync_bytes"] > 0
    writer.wait_for_progress(50)
    assert metro.east.call("observe", name="held")["sync"] == "PausedSyncS"
    metro.east.call("act", name="held", act="release_sync")
    metro.east.call("act", name="held", act="release_sync")
    metro.wait_in_sync(metro.east, "held")
    assert not metro.east.call("observe", name="held")["held"]
    writer.stop()
    metro.east.call("unstage", name="held")
    metro.assert_identical("held")


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_comparing_finds_what_was_changed_below_and_it_is_copied(metro: Metro, used: bool) -> None:
    name = f"compared-{used}".lower()
    metro.make(name, DEVICE_BYTES, mode="Block")
    if used:
        metro.east.call("stage", name=name, mode="Block")
    image = POOL_IMAGE.format(name)
    poke = f"printf x | dd of={image} bs=1 seek={8 * MIB} conv=notrunc,fsync; echo 3"
    metro.kernels.sh(WEST, f"{poke} > /proc/sys/vm/drop_caches")
    metro.east.call("act", name=name, act="verify")
    found = metro.wait(
        metro.east,
        name,
        "compared",
        lambda s: s["sync"] == "Established" and s["out_of_sync_bytes"] > 0,
        120,
    )
    assert found["out_of_sync_bytes"] == 4096
    assert found["in_sync"]
    metro.east.call("act", name=name, act="copy_marked")
    metro.wait(metro.east, name, "equal", lambda s: s["in_sync"] and not s["out_of_sync_bytes"])
    assert metro.east.call("observe", name=name)["role"] == ("Primary" if used else "Secondary")
    if used:
        metro.east.call("unstage", name=name)
    metro.assert_identical(name)


def test_a_link_that_is_cut_ends_a_comparison_without_a_result(metro: Metro) -> None:
    metro.make("broken-off", 512 * MIB, mode="Block")
    metro.east.call("act", name="broken-off", act="verify")
    metro.wait(metro.east, "broken-off", "being compared", lambda s: s["sync"] == "VerifyS")
    metro.kernels.cut()
    metro.wait(metro.east, "broken-off", "alone", lambda s: s["connection"] != "Connected")
    metro.kernels.heal()
    metro.wait_in_sync(metro.east, "broken-off")
    metro.wait(metro.east, "broken-off", "at rest", lambda s: s["sync"] == "Established")
