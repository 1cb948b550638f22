"""A replica that lost its disk or its right to it comes back, on real kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.uml.driver import InsideError
from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, POOL_IMAGE, Metro, Writer

DEVICE_BYTES = 64 * MIB


@pytest.fixture(autouse=True)
def healed(metro: Metro) -> Iterator[None]:
    for driver in metro.both:
        driver.call("answer", handler="fence-peer", code=1)
        driver.call("answer", handler="before-resync-target", code=0)
    yield
    metro.kernels.heal()


def make_block(metro: Metro, name: str) -> tuple[str, int]:
    """A replicated raw volume, primary at east; its device there and its minor."""
    minor = metro.make(name, DEVICE_BYTES, mode="Block")
    return str(metro.east.call("stage", name=name, mode="Block")), minor


def test_failed_secondary_is_copied_anew_in_place(metro: Metro) -> None:
    device, minor = make_block(metro, "anew")
    metro.kernels.sh(EAST, f"dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct")
    with pytest.raises(InsideError):
        metro.west.call("renew_metadata", name="anew")
    metro.kernels.sh(WEST, f"drbdsetup detach {minor} --force")
    metro.wait(metro.west, "anew", "without a disk", lambda s: s["disk"] == "Diskless")
    metro.west.call("renew_metadata", name="anew")
    metro.west.call("replica", name="anew", spec=metro.spec(WEST, minor))
    metro.west.call("act", name="anew", act="attach")
    metro.wait_in_sync(metro.west, "anew")
    metro.east.call("unstage", name="anew")
    metro.assert_identical("anew")


def test_failed_primary_is_copied_anew_while_its_pod_writes(metro: Metro) -> None:
    device, minor = make_block(metro, "under")
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress(20)
    metro.kernels.sh(EAST, f"drbdsetup detach {minor} --force")
    metro.wait(metro.east, "under", "without a disk", lambda s: s["disk"] == "Diskless")
    writer.wait_for_progress(20)
    metro.east.call("renew_metadata", name="under")
    metro.east.call("replica", name="under", spec=metro.spec(EAST, minor))
    metro.east.call("act", name="under", act="attach")
    metro.wait_in_sync(metro.east, "under")
    writer.wait_for_progress(20)
    assert not writer.failed()
    writer.stop()
    metro.east.call("unstage", name="under")
    metro.assert_identical("under")


def test_replica_comes_up_without_its_disk_until_it_is_told(metro: Metro) -> None:
    device, minor = make_block(metro, "bare")
    metro.west.call("take_down", name="bare")
    spec = metro.spec(WEST, minor)
    for _ in range(2):
        made = metro.west.call("replica", name="bare", spec=spec, diskless=True)
        assert (made["disk"], made["connection"]) == ("Diskless", "StandAlone")
    metro.west.call("act", name="bare", act="connect")
    metro.wait(metro.west, "bare", "connected", lambda s: s["connection"] == "Connected")
    metro.kernels.sh(EAST, f"dd if=/dev/urandom of={device} bs=1M count=4 oflag=direct")
    metro.west.call("act", name="bare", act="attach")
    metro.wait_in_sync(metro.west, "bare")
    metro.east.call("unstage", name="bare")
    metro.assert_identical("bare")


def test_resync_is_paused_and_goes_on(metro: Metro) -> None:
    make_block(metro, "pause")
    metro.east.call("act", name="pause", act="restart_sync")
    metro.wait_in_sync(metro.east, "pause")
    metro.east.call("unstage", name="pause")


def test_writes_that_a_person_gave_up_are_discarded(metro: Metro) -> None:
    device, _ = make_block(metro, "chosen")
    for driver in metro.both:
        driver.call("answer", handler="fence-peer", code=7)
    metro.kernels.cut()
    metro.wait(metro.east, "chosen", "alone", lambda s: s["peer_disk"] == "Outdated")
    metro.kernels.sh(EAST, f"dd if=/dev/urandom of={device} bs=1M count=2 oflag=direct")
    metro.wait(metro.west, "chosen", "alone", lambda s: s["connection"] != "Connected")
    given_up = str(metro.west.call("stage", name="chosen", mode="Block"))
    metro.kernels.sh(WEST, f"dd if=/dev/urandom of={given_up} bs=1M count=2 oflag=direct")
    metro.west.call("unstage", name="chosen")
    metro.east.call("unstage", name="chosen")
    metro.kernels.heal()
    for driver in metro.both:
        metro.wait(driver, "chosen", "refused", lambda s: s["connection"] == "StandAlone")
    kept = metro.kernels.sh(EAST, "sha256sum /var/lib/twinvault/pools/fast/volumes/chosen/data.img")
    metro.east.call("act", name="chosen", act="connect")
    metro.west.call("act", name="chosen", act="connect_discarding")
    metro.wait_in_sync(metro.east, "chosen")
    metro.assert_identical("chosen")
    again = metro.kernels.sh(
        EAST, "sha256sum /var/lib/twinvault/pools/fast/volumes/chosen/data.img"
    )
    assert again == kept


def test_an_outdated_replica_serves_what_it_has_when_a_person_chose_it(metro: Metro) -> None:
    device, _ = make_block(metro, "old")
    metro.kernels.sh(EAST, f"dd if=/dev/urandom of={device} bs=1M count=4 oflag=direct")
    for driver in metro.both:
        driver.call("answer", handler="fence-peer", code=7)
    metro.kernels.cut()
    metro.wait(metro.west, "old", "alone", lambda s: s["connection"] != "Connected")
    metro.west.call("act", name="old", act="outdate")
    had = metro.images(POOL_IMAGE.format("old"))[1]
    with pytest.raises(InsideError):
        metro.west.call("stage", name="old", mode="Block")
    metro.west.call("act", name="old", act="accept_outdated")
    found = metro.wait(metro.west, "old", "good", lambda s: s["disk"] != "Outdated")
    assert found["role"] == "Secondary"
    chosen = str(metro.west.call("stage", name="old", mode="Block"))
    assert metro.kernels.sh(WEST, f"sha256sum {chosen}").split()[0] == had
    metro.west.call("unstage", name="old")
    metro.east.call("unstage", name="old")
    assert metro.images(POOL_IMAGE.format("old"))[1] == had


def test_an_outdated_replica_beside_a_newer_one_is_not_declared_good(metro: Metro) -> None:
    _, minor = make_block(metro, "newer")
    metro.east.call("unstage", name="newer")
    metro.kernels.sh(WEST, f"drbdsetup detach {minor} --force")
    metro.wait(metro.west, "newer", "without a disk", lambda s: s["disk"] == "Diskless")
    with pytest.raises(InsideError):
        metro.west.call("act", name="newer", act="accept_outdated")
