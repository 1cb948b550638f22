"""The engine is killed between every two steps of what it does with a replica, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.uml.driver import Driver
from tests.uml.kernels import EAST
from tests.uml.metro import MIB, Metro

SIZE = 64 * MIB
MOST_STEPS = 60


def kill_at_every_step(
    metro: Metro,
    driver: Driver,
    prepare: Callable[[], None],
    check: Callable[[str], None],
    method: str,
    **arguments: Any,
) -> list[str]:
    """Names of the steps that were met. For each: the state before is made, a process is killed
    there, the call is repeated, and the result is checked.
    """
    met: list[str] = []
    for index in range(MOST_STEPS):
        prepare()
        name = metro.killed_at(driver, index, method, **arguments)
        driver.call("recover")
        driver.call(method, **arguments)
        check(f"killed at step {index}: {name}")
        if name is None:
            return met
        met.append(name)
    raise AssertionError(f"more than {MOST_STEPS} steps")


def test_making_a_replica(metro: Metro) -> None:
    minor = metro.new_minor()
    before = metro.east.call("holdings")

    def prepare() -> None:
        metro.east.call("volume", name="born", size_bytes=SIZE)

    def check(when: str) -> None:
        state = metro.east.call("observe", name="born")
        assert (state["up"], state["blank"], state["disk"]) == (True, True, "Inconsistent"), when
        assert state["connection"] in ("Connecting", "Unconnected"), when
        metro.east.call("erase", name="born")
        assert metro.east.call("holdings") == before, when

    spec = metro.spec(EAST, minor)
    steps = kill_at_every_step(metro, metro.east, prepare, check, "replica", name="born", spec=spec)
    assert {"record replication", "create drbd metadata", "drbd adjust"} <= set(steps)
    assert {"configure loop", "name resource file"} <= set(steps)


def test_staging_and_unstaging_a_replicated_volume(metro: Metro) -> None:
    metro.make("staged", SIZE)

    def check_staged(when: str) -> None:
        metro.write(metro.east, "staged", "row")
        metro.east.call("unstage", name="staged")
        assert metro.east.call("observe", name="staged")["role"] == "Secondary", when

    steps = kill_at_every_step(
        metro, metro.east, lambda: None, check_staged, "stage", name="staged"
    )
    assert {"drbd primary", "mount ext4"} <= set(steps)

    def check_unstaged(when: str) -> None:
        state = metro.east.call("observe", name="staged")
        assert (state["role"], state["in_sync"]) == ("Secondary", True), when

    def prepare() -> None:
        metro.east.call("stage", name="staged")
        assert metro.files(metro.east, "staged") == {"row"}

    steps = kill_at_every_step(metro, metro.east, prepare, check_unstaged, "unstage", name="staged")
    assert "drbd secondary" in steps
    metro.assert_identical("staged")


def test_format_that_was_cut_short_is_done_again_at_both_sides(metro: Metro) -> None:
    metro.make("cut", SIZE)
    for index in range(MOST_STEPS):
        if metro.killed_at(metro.east, index, "stage", name="cut") == "flush format":
            break
        metro.east.call("unstage", name="cut")
        metro.east.call("erase", name="cut")
        metro.west.call("erase", name="cut")
        metro.make("cut", SIZE)
    metro.east.call("stage", name="cut")
    metro.write(metro.east, "cut", "row")
    metro.east.call("unstage", name="cut")
    metro.assert_identical("cut")


def test_erasing_a_replicated_volume(metro: Metro) -> None:
    before = metro.east.call("holdings")
    minor = metro.new_minor()

    def prepare() -> None:
        metro.east.call("volume", name="dying", size_bytes=SIZE)
        metro.east.call("replica", name="dying", spec=metro.spec(EAST, minor))

    def check(when: str) -> None:
        assert metro.east.call("holdings") == before, when
        marks = metro.kernels.sh(EAST, "ls /var/lib/twinvault/fence/ours").split()
        assert "tv-dying" not in marks, when

    steps = kill_at_every_step(metro, metro.east, prepare, check, "erase", name="dying")
    assert {"drbd down", "mark deleted", "unlink replication.json"} <= set(steps)


def test_becoming_unreplicated(metro: Metro) -> None:
    minor = metro.new_minor()

    def prepare() -> None:
        metro.east.call("volume", name="leaving", size_bytes=SIZE)
        metro.east.call("replica", name="leaving", spec=metro.spec(EAST, minor))

    def check(when: str) -> None:
        kinds = [held for held in metro.east.call("holdings") if "leaving" in held]
        assert kinds == ["volume leaving"], when
        assert "/dev/loop" in metro.east.call("stage", name="leaving"), when
        metro.east.call("unstage", name="leaving")
        metro.east.call("erase", name="leaving")

    steps = kill_at_every_step(metro, metro.east, prepare, check, "remove_replica", name="leaving")
    assert {"drbd down", "remove metadata"} <= set(steps)
