"""Replicas that come, go and are replaced, on real kernels, while a pod writes.

There are two kernels, so the node that takes another's place is the same one with nothing on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from e2e.lab.config import Node
from tests.uml.driver import InsideError
from tests.uml.kernels import EAST, WEST
from tests.uml.metro import MIB, Metro, Writer

DEVICE_BYTES = 64 * MIB
PORTS_APART = 1000


@pytest.fixture(autouse=True)
def healed(metro: Metro) -> Iterator[None]:
    """The record names east, which may go on alone."""
    metro.east.call("answer", handler="fence-peer", code=7)
    metro.west.call("answer", handler="fence-peer", code=6)
    yield
    metro.kernels.heal()


def moved(metro: Metro, node: Node, minor: int) -> dict[str, Any]:
    """The spec of the next set of replicas: the same device, another port."""
    spec = metro.spec(node, minor)
    return {**spec, "port": spec["port"] + PORTS_APART}


def make_new_at_west(metro: Metro, name: str, minor: int, mode: str) -> None:
    metro.west.call("volume", name=name, size_bytes=DEVICE_BYTES, mode=mode)
    metro.west.call("replica", name=name, spec=moved(metro, WEST, minor))


def test_a_new_peer_is_filled_while_the_pod_writes_and_the_old_one_meets_nobody(
    metro: Metro,
) -> None:
    minor = metro.make("moves", DEVICE_BYTES, mode="Block")
    device = str(metro.east.call("stage", name="moves", mode="Block"))
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    writer.wait_for_progress()
    metro.east.call("replica", name="moves", spec=moved(metro, EAST, minor))
    writer.wait_for_progress(50)
    left = metro.wait(metro.west, "moves", "left", lambda s: s["connection"] != "Connected")
    assert left["disk"] != "UpToDate", "who was left gracefully knows that it is behind"
    metro.west.call("act", name="moves", act="connect")
    writer.wait_for_progress(50)
    for driver in metro.both:
        assert driver.call("observe", name="moves")["connection"] != "Connected"

    metro.west.call("erase", name="moves")
    make_new_at_west(metro, "moves", minor, "Block")
    for driver in metro.both:
        metro.wait_in_sync(driver, "moves")
    writer.wait_for_progress()
    writer.stop()
    metro.east.call("unstage", name="moves")
    metro.assert_identical("moves")


def test_a_peer_that_is_lost_is_replaced_while_the_pod_writes(metro: Metro) -> None:
    minor = metro.make("lost", DEVICE_BYTES, mode="Block")
    device = str(metro.east.call("stage", name="lost", mode="Block"))
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    metro.kernels.cut()
    metro.wait(metro.east, "lost", "alone", lambda s: s["peer_disk"] == "Outdated")
    metro.east.call("replica", name="lost", spec=moved(metro, EAST, minor))
    writer.wait_for_progress(50)
    # The old one comes back as it was, and looks for the volume where it used to be.
    metro.kernels.heal()
    writer.wait_for_progress(50)
    for driver in metro.both:
        assert driver.call("observe", name="lost")["connection"] != "Connected"
    metro.west.call("erase", name="lost")
    make_new_at_west(metro, "lost", minor, "Block")
    for driver in metro.both:
        metro.wait_in_sync(driver, "lost")
    writer.stop()
    metro.east.call("unstage", name="lost")
    metro.assert_identical("lost")


def test_a_replica_goes_and_comes_again_below_a_mounted_filesystem(metro: Metro) -> None:
    minor = metro.make("single", DEVICE_BYTES)
    metro.east.call("stage", name="single")
    metro.write(metro.east, "single", "both")
    metro.east.call("act", name="single", act="disconnect")
    metro.west.call("erase", name="single")
    metro.write(metro.east, "single", "alone")
    metro.east.call("replica", name="single", spec=moved(metro, EAST, minor))
    make_new_at_west(metro, "single", minor, "Filesystem")
    for driver in metro.both:
        metro.wait_in_sync(driver, "single")
    metro.write(metro.east, "single", "again")
    metro.east.call("unstage", name="single")
    metro.assert_identical("single")
    metro.west.call("answer", handler="fence-peer", code=7)
    metro.west.call("stage", name="single")
    assert metro.files(metro.west, "single") == {"both", "alone", "again"}
    metro.west.call("unstage", name="single")


def test_a_volume_with_data_is_whole_at_once_and_its_replica_is_filled_while_it_is_used(
    metro: Metro,
) -> None:
    metro.east.call("volume", name="later", size_bytes=DEVICE_BYTES)
    metro.east.call("stage", name="later")
    metro.write(metro.east, "later", "before")
    metro.east.call("unstage", name="later")
    minor = metro.new_minor()
    metro.east.call("replica", name="later", spec=moved(metro, EAST, minor), whole=True)
    # Nobody else is there yet: a pod must be able to start all the same.
    metro.east.call("stage", name="later")
    metro.write(metro.east, "later", "alone")
    make_new_at_west(metro, "later", minor, "Filesystem")
    for driver in metro.both:
        metro.wait_in_sync(driver, "later")
    metro.write(metro.east, "later", "both")
    metro.east.call("unstage", name="later")
    metro.assert_identical("later")
    metro.west.call("answer", handler="fence-peer", code=7)
    metro.west.call("stage", name="later")
    assert metro.files(metro.west, "later") == {"before", "alone", "both"}
    metro.west.call("unstage", name="later")


def test_a_volume_that_stays_staged_between_two_pods_gets_drbd_below_it(metro: Metro) -> None:
    """Kubelet unmounts nothing when the next pod comes at once."""
    name = "between"
    metro.east.call("volume", name=name, size_bytes=DEVICE_BYTES)
    metro.east.call("stage", name=name)
    metro.write(metro.east, name, "first")
    metro.east.call("publish", name=name, target="pod-one")
    minor = metro.new_minor()
    spec = moved(metro, EAST, minor)
    with pytest.raises(InsideError, match="without replication"):
        metro.east.call("replica", name=name, spec=spec, whole=True)
    assert not metro.east.call("lift", name=name), "a pod has it"
    metro.east.call("unpublish", name=name, target="pod-one")
    assert metro.east.call("lift", name=name)
    metro.east.kill()
    metro.east = metro.start_engine(EAST)
    metro.east.call("answer", handler="fence-peer", code=7)
    assert metro.east.call("lift", name=name), "a new engine knows it too"
    metro.east.call("replica", name=name, spec=spec, whole=True)
    metro.east.call("stage", name=name)
    assert not metro.east.call("lift", name=name)
    metro.east.call("publish", name=name, target="pod-two")
    make_new_at_west(metro, name, minor, "Filesystem")
    for driver in metro.both:
        metro.wait_in_sync(driver, name)
    assert metro.files(metro.east, name) == {"first"}
    metro.east.call("unpublish", name=name, target="pod-two")
    metro.east.call("unstage", name=name)
    metro.assert_identical(name)


def test_another_peer_is_told_whole_whenever_the_agent_is_killed(metro: Metro) -> None:
    minor = metro.make("killed", DEVICE_BYTES, mode="Block")
    device = str(metro.east.call("stage", name="killed", mode="Block"))
    writer = Writer(metro.kernels, EAST, device, DEVICE_BYTES)
    specs = [metro.spec(EAST, minor), moved(metro, EAST, minor)]
    index = 0
    while metro.killed_at(metro.east, index, "replica", name="killed", spec=specs[1]) is not None:
        metro.east.call("replica", name="killed", spec=specs[1])
        writer.wait_for_progress()
        metro.east.call("replica", name="killed", spec=specs[0])
        index += 1
        assert index < 40
    assert index > 2
    metro.west.call("erase", name="killed")
    make_new_at_west(metro, "killed", minor, "Block")
    for driver in metro.both:
        metro.wait_in_sync(driver, "killed")
    writer.stop()
    metro.east.call("unstage", name="killed")
    metro.assert_identical("killed")
