"""What a pair and its pools say of the link reaches both halves of its volumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.core.builders import NOW, cluster
from tests.core.pair_rig import EAST, WEST, Rig
from tests.core.test_replicated_volume import node, pair, placed, sides, view
from twinvault_core.actions import VOLUME_REPLICA, Create, PatchObject
from twinvault_core.model import PoolSpec, StorageCluster
from twinvault_core.replication_network import choose_settings
from twinvault_core.volume_plan import plan_volume


def pools(site: str, al_extents: int) -> StorageCluster:
    made = cluster(site)
    return replace(made, pools=(replace(made.pools[0], al_extents=al_extents),))


def told(**more: Any) -> dict[str, dict[str, Any]]:
    """Settings that are written into each replica of a volume that lives."""
    made = plan_volume(view(placed(), replicas=sides(), **more), now=NOW)
    return {
        a.meta.name: dict(a.patch["spec"]["replication"]["settings"])
        for a in made.actions
        if isinstance(a, PatchObject) and a.kind == VOLUME_REPLICA
    }


def test_a_changed_round_trip_is_told_to_both_halves_of_a_volume_that_lives() -> None:
    found = told(pair=pair(network={"roundTripMilliseconds": 10}))
    assert {n: s["roundTripMilliseconds"] for n, s in found.items()} == {
        "v.east-1": 10,
        "v.west-1": 10,
    }
    assert told() == {}, "nothing is written without need"


def test_each_side_has_the_activity_log_of_its_own_pool() -> None:
    clusters = {"east": pools("east", 1000), "west": pools("west", 0)}
    found = told(clusters=clusters)
    assert {n: s["alExtents"] for n, s in found.items()} == {"v.east-1": 1000}


def test_a_new_replica_begins_with_the_settings_of_its_pool_and_pair() -> None:
    clusters = {"east": pools("east", 100), "west": pools("west", 200)}
    made = plan_volume(
        view(
            placed(status={"sizeBytes": 0, "phase": "Creating"}),
            pair=pair(network={"roundTripMilliseconds": 5}),
            clusters=clusters,
            candidates=(node(EAST), node(WEST)),
        ),
        now=NOW,
    )
    found = {
        a.name: a.body["spec"]["replication"]["settings"]
        for a in made.actions
        if isinstance(a, Create)
    }
    assert {n: (s["alExtents"], s["roundTripMilliseconds"]) for n, s in found.items()} == {
        "v.east-1": (100, 5),
        "v.west-1": (200, 5),
    }


def test_what_nobody_says_is_left_to_the_agent() -> None:
    settings = choose_settings(pair(), PoolSpec("fast"))
    assert (settings.round_trip_milliseconds, settings.al_extents) == (0, 0)


# -- which volumes are copied now ------------------------------------------------------------------


def copying(rig: Rig, name: str, node: str = EAST, **more: Any) -> None:
    rig.degrade(name)
    resync = {"donePercent": 41.7, "remainingBytes": 4096, "secondsLeft": 12}
    rig.report(name, node, sync="SyncSource", resync=resync, **more)


def test_the_pair_says_which_volumes_are_copied_where_how_far_and_how_long_it_takes() -> None:
    rig = Rig(("a", "b"))
    copying(rig, "a")
    rig.plan()
    assert rig.status["resyncing"] == [
        {"volume": "a", "node": WEST, "percent": 41, "remainingBytes": 4096, "secondsLeft": 12}
    ]
    rig.restore("a")
    rig.report("a", sync="Established", resync=None)
    rig.plan()
    assert "resyncing" not in rig.status


def test_a_primary_whose_own_disk_is_filled_is_told_as_the_target() -> None:
    rig = Rig(("a",))
    rig.move("a")
    rig.degrade("a")
    rig.report("a", WEST, sync="SyncTarget", resync={"donePercent": 1, "remainingBytes": 8})
    rig.plan()
    assert [(e["node"], "secondsLeft" in e) for e in rig.status["resyncing"]] == [(WEST, False)]


def test_who_waits_for_its_turn_is_told_after_those_that_copy() -> None:
    rig = Rig(("a", "b"), resync={"concurrentVolumes": 1})
    copying(rig, "b")
    rig.plan()
    rig.pass_time(4000)
    copying(rig, "a")
    rig.plan()
    found = [(e["volume"], e.get("waiting", False)) for e in rig.status["resyncing"]]
    assert found == [("b", False), ("a", True)]


def test_an_old_word_of_a_copy_is_not_told_as_one_that_goes_on() -> None:
    rig = Rig(("a", "b"))
    copying(rig, "a", connection="Connecting")
    copying(rig, "b")
    rig.lost = {EAST: "is silent"}
    rig.plan()
    assert "resyncing" not in rig.status


def test_a_kernel_that_does_not_tell_how_far_it_is_is_named_all_the_same() -> None:
    rig = Rig(("a",))
    copying(rig, "a")
    rig.report("a", resync=None)
    rig.plan()
    assert rig.status["resyncing"] == [{"volume": "a", "node": WEST}]


def test_a_comparison_is_not_told_as_a_copy() -> None:
    rig = Rig(("a",))
    rig.report("a", sync="VerifyS")
    rig.plan()
    assert "resyncing" not in rig.status


def test_the_list_of_copies_is_bounded() -> None:
    names = tuple(f"v{n:03d}" for n in range(130))
    rig = Rig(names, resync={"concurrentVolumes": 64})
    for name in names:
        copying(rig, name)
    rig.plan()
    assert len(rig.status["resyncing"]) == 100
