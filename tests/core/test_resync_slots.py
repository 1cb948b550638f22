"""No more resyncs at once than the pair allows, and every volume gets its turn."""

from __future__ import annotations

from datetime import datetime, timedelta

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.core.pair_rig import EAST, WEST, Rig
from twinvault_core.resync_slots import RENEW_SECONDS, Candidate, choose_held

EARLY, LATE = "2026-01-01T00:10:00Z", "2026-01-01T05:10:00Z"
PATIENCE_SECONDS = 900.0
"""The agents'."""


def one(
    name: str,
    *,
    able: bool = True,
    held: bool = True,
    since: str = EARLY,
    left: int = 0,
    priority: int = 0,
) -> Candidate:
    return Candidate(name, able, not held, since, left, priority)


def test_who_copies_keeps_its_turn_although_another_has_less_left() -> None:
    assert choose_held([one("big", held=False, left=99), one("small", left=1)], 1) == {"small"}


def test_of_one_incident_the_least_left_goes_first() -> None:
    later = EARLY.replace("00:10", "00:50")
    assert choose_held([one("a", left=9), one("b", left=1, since=later)], 1) == {"a"}


def test_nobody_is_overtaken_by_who_was_degraded_in_a_later_hour() -> None:
    assert choose_held([one("old", left=9), one("new", left=1, since=LATE)], 1) == {"new"}


def test_a_higher_priority_goes_first_whatever_is_older_or_smaller() -> None:
    urgent = one("urgent", left=99, since=LATE, priority=1)
    late = one("late", left=0, since=EARLY, priority=-1)
    assert choose_held([one("old", left=1), urgent, late], 1) == {"old", "late"}
    assert choose_held([one("old", left=1), urgent, late], 2) == {"late"}


def test_who_copies_is_not_stopped_for_a_higher_priority() -> None:
    assert choose_held([one("runs", held=False), one("urgent", priority=9)], 1) == {"urgent"}


def test_a_smaller_limit_stops_the_lower_priority() -> None:
    running = [one("low", held=False), one("high", held=False, left=9, priority=1)]
    assert choose_held(running, 1) == {"low"}


def test_a_priority_that_is_raised_while_it_waits_counts_for_the_next_turn() -> None:
    world = World({"a": 2, "b": 9, "c": 1}, slots=1)
    world.rig.plan()
    assert world.copying() == ["c"]
    world.rank("b", 5)
    world.rig.plan()
    assert world.copying() == ["c"]
    while world.debt["c"]:
        world.agents_work()
    world.rig.plan()
    assert world.copying() == ["b"]


def test_a_volume_that_could_not_use_its_turn_does_not_get_it() -> None:
    away = one("away", able=False, held=False, left=1)
    assert choose_held([away, one("here", left=9)], 1) == {"away"}


def test_before_the_link_is_back_only_so_many_may_begin_at_once() -> None:
    cut = [one(f"v{n}", able=False, held=False, left=n) for n in range(5)]
    assert choose_held(cut, 2) == {"v2", "v3", "v4"}


def test_a_smaller_limit_stops_some_that_run() -> None:
    running = [one(f"v{n}", held=False, left=n) for n in range(3)]
    assert choose_held(running, 1) == {"v1", "v2"}


def test_a_hold_is_said_anew_before_the_agents_stop_believing_it() -> None:
    made = World({"a": 5, "b": 5}, slots=1)
    made.rig.plan()
    word = made.rig.spec_of("b")["resyncHold"]
    assert word
    made.rig.plan()
    assert made.rig.spec_of("b")["resyncHold"] == word, "no write without need"
    made.rig.pass_time(RENEW_SECONDS)
    made.rig.plan()
    assert made.rig.spec_of("b")["resyncHold"] not in ("", word)


def test_a_volume_that_is_in_sync_is_told_nothing() -> None:
    made = World({"a": 5, "b": 5}, slots=1)
    made.rig.plan()
    made.debt["b"] = 0
    made.agents_work()
    made.rig.plan()
    assert made.rig.spec_of("b")["resyncHold"] == ""


def test_a_new_volume_is_not_held_back() -> None:
    made = World({"a": 5}, slots=1)
    made.rig.add("new")
    made.rig.degrade("new")
    made.rig.volumes["new"]["status"].pop("sizeBytes")
    made.rig.plan()
    assert made.rig.spec_of("new").get("resyncHold", "") == ""


class World:
    """Degraded volumes whose agents do as they are told: a link each, and a debt to copy."""

    def __init__(self, debts: dict[str, int], *, slots: int) -> None:
        self.rig = Rig(tuple(debts), resync={"concurrentVolumes": slots})
        self.slots = slots
        self.debt = dict.fromkeys(debts, 0)
        self.linked = dict.fromkeys(debts, True)
        self.heard: dict[str, tuple[str, datetime]] = {}
        for name, debt in debts.items():
            if debt:
                self.fall_behind(name, debt)
            else:
                self.tell(name)

    def fall_behind(self, name: str, debt: int) -> None:
        if not self.debt[name]:
            self.rig.degrade(name)
        self.debt[name] += debt
        self.tell(name)

    def rank(self, name: str, priority: int) -> None:
        self.rig.volumes[name]["spec"]["resyncPriority"] = priority

    def held(self, name: str) -> bool:
        word = self.rig.spec_of(name).get("resyncHold", "")
        if not word:
            self.heard.pop(name, None)
            return False
        if self.heard.get(name, ("", self.rig.now))[0] != word:
            self.heard.pop(name, None)
        since = self.heard.setdefault(name, (word, self.rig.now))[1]
        return self.rig.now - since < timedelta(seconds=PATIENCE_SECONDS)

    def tell(self, name: str) -> None:
        """The primary's agent reports."""
        syncing = self.linked[name] and self.debt[name] > 0
        sync = ("PausedSyncS" if self.held(name) else "SyncSource") if syncing else "Established"
        self.rig.report(
            name,
            connection="Connected" if self.linked[name] else "Connecting",
            sync=sync if self.linked[name] else "Off",
            peerDisk="Inconsistent" if syncing else "UpToDate",
            resync={"donePercent": 1, "remainingBytes": self.debt[name]} if syncing else None,
        )

    def copying(self) -> list[str]:
        return [n for n, d in self.debt.items() if d and self.linked[n] and not self.held(n)]

    def agents_work(self) -> None:
        for name in self.copying():
            self.debt[name] -= 1
        for name, debt in self.debt.items():
            if not debt and self.linked[name]:
                self.rig.restore(name)
            self.tell(name)


NAMES = ("a", "b", "c", "d", "e")


def _check_turns(world: World, before: set[str]) -> None:
    """Whoever was let in has no lower priority than one that waits and could copy."""
    if world.rig.lost:
        return
    rank = {n: world.rig.volumes[n]["spec"].get("resyncPriority", 0) for n in NAMES}
    waits = [n for n, d in world.debt.items() if d and world.linked[n] and world.held(n)]
    for name in set(world.copying()) - before:
        assert all(rank[name] >= rank[other] for other in waits)


EVENTS = ("cut", "mend", "write", "work", "plan", "time", "lose", "rank")


def _let_happen(world: World, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    match data.draw(st.sampled_from(EVENTS)):
        case "cut":
            world.linked[name] = False
            world.tell(name)
        case "mend":
            world.linked[name] = True
            world.tell(name)
        case "write":
            world.fall_behind(name, 2)
        case "work":
            world.agents_work()
        case "time":
            world.rig.pass_time(data.draw(st.sampled_from([30, 400, 4000])))
        case "lose":
            world.rig.lost = {} if world.rig.lost else {WEST: "is silent"}
        case "rank":
            world.rank(name, data.draw(st.integers(-1, 1)))
        case _:
            before = set(world.copying())
            world.rig.plan()
            assert len(world.copying()) <= world.slots or world.rig.lost
            _check_turns(world, before)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 3), st.booleans())
def test_every_degraded_volume_ends_in_sync_also_when_the_operator_is_gone(
    data: st.DataObject, slots: int, operator_stays: bool
) -> None:
    world = World({name: data.draw(st.integers(0, 4)) for name in NAMES}, slots=slots)
    for _ in range(data.draw(st.integers(0, 30))):
        _let_happen(world, data)
    world.rig.lost = {}
    world.linked = dict.fromkeys(NAMES, True)
    rounds = 0
    while any(world.debt.values()):
        rounds += 1
        assert rounds < 300, "somebody starves"
        world.rig.pass_time(30)
        if operator_stays:
            world.rig.plan()
            assert len(world.copying()) <= slots
            assert world.copying(), "nobody copies although somebody must"
        world.agents_work()
    world.agents_work()
    world.rig.plan()
    assert all(not world.rig.spec_of(name, EAST).get("resyncHold") for name in NAMES)


def test_a_large_volume_is_not_passed_over_for_ever_by_small_ones() -> None:
    world = World({"large": 50, "small-0": 1}, slots=1)
    done = 0
    for turn in range(400):
        world.rig.pass_time(1800)
        world.rig.plan()
        world.agents_work()
        if not world.debt["large"]:
            done = turn
            break
        if not world.debt["small-0"]:
            world.fall_behind("small-0", 1)
    assert done, "the large one starves"
