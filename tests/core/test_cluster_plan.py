"""The plans of StorageClusters, Snapshots and ReplicationPairs, case by case."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.builders import (
    GIB,
    NOW,
    candidate,
    cluster,
    holder,
    metadata,
    placed_status,
    replica,
    snapshot,
    volume,
)
from twinvault_core import reasons
from twinvault_core.actions import Create, Delete, PatchObject, PatchStatus, Plan, Tell
from twinvault_core.cluster_plan import ClusterView, KubeNode, plan_cluster
from twinvault_core.model import NodeReplication, ReplicationPair, Snapshot, StorageCluster, Volume
from twinvault_core.pair_plan import PairView, plan_pair
from twinvault_core.snapshot_plan import SnapshotView, plan_snapshot

MARKED: dict[str, Any] = {"finalizers": ["twinvault.io/volumes"]}
GOING: dict[str, Any] = {**MARKED, "deletionTimestamp": NOW}
EAST_1 = KubeNode("east-1", {"site": "east"})
EAST_2 = KubeNode("east-2", {"site": "east"})


def kinds(of: Plan) -> list[str]:
    return [type(a).__name__ for a in of.actions if not isinstance(a, Tell)]


def status(of: Plan) -> dict[str, Any]:
    return dict(next(a for a in of.actions if isinstance(a, PatchStatus)).status)


def condition(of: Plan, type_: str) -> dict[str, Any]:
    return next(dict(c) for c in status(of)["conditions"] if c["type"] == type_)


def view(of: StorageCluster, *nodes: KubeNode, **more: Any) -> ClusterView:
    known: dict[str, Any] = {"clusters": (of,), "nodes": nodes, **more}
    return ClusterView(of, **known)


# -- StorageCluster -------------------------------------------------------------------------------


def test_each_selected_node_gets_its_storage_node_with_the_clusters_pools() -> None:
    east = cluster()
    made = plan_cluster(view(east, EAST_1, EAST_2, KubeNode("west-1", {})), now=NOW)
    creates = [a for a in made.actions if isinstance(a, Create)]
    assert [a.name for a in creates] == ["east-1", "east-2"]
    assert creates[0].body["spec"] == {"storageCluster": "east", "pools": east.spec["pools"]}
    assert kinds(made)[0] == "PatchObject"


def test_a_cluster_without_nodes_says_how_to_label_one() -> None:
    made = plan_cluster(view(cluster(**MARKED)), now=NOW)
    assert condition(made, "Ready")["reason"] == reasons.NO_NODES
    assert "kubectl label nodes NAME site=east" in condition(made, "Ready")["message"]


def test_a_ready_cluster_sums_up_its_nodes_and_then_rests() -> None:
    east = cluster(**MARKED)
    members = (candidate("east-1", promised_bytes=25 * GIB, volumes=3, reserve_percent=0),)
    members = (replace(members[0], node=replace(members[0].node, spec=dict(east.spec))),)
    made = plan_cluster(view(east, EAST_1, members=members), now=NOW)
    written = status(made)
    assert written["summary"] == {
        "nodes": "1/1",
        "size": "100Gi",
        "promised": "25%",
        "used": "0%",
        "volumes": 3,
    }
    assert written["nodes"][0]["pools"][0]["availableBytes"] == 75 * GIB
    assert condition(made, "Ready")["reason"] == reasons.ALL_READY
    known = replace(east, status=written)
    assert plan_cluster(view(known, EAST_1, members=members), now="later").actions == ()


def test_a_new_pool_reaches_the_storage_nodes() -> None:
    members = (candidate("east-1"),)
    made = plan_cluster(
        view(cluster(pools=("fast", "big"), **MARKED), EAST_1, members=members), now=NOW
    )
    patch = next(a for a in made.actions if isinstance(a, PatchObject))
    assert [p["name"] for p in patch.patch["spec"]["pools"]] == ["fast", "big"]


def test_a_node_that_left_goes_when_it_holds_nothing_and_stays_while_it_does() -> None:
    east, members = cluster(**MARKED), (candidate("east-1"),)
    empty = plan_cluster(view(east, members=members), now=NOW)
    assert "Delete" in kinds(empty)
    full = plan_cluster(view(east, members=members, held={"east-1": ("v",)}), now=NOW)
    assert "Delete" not in kinds(full)
    assert condition(full, "Degraded")["reason"] == reasons.NODE_LEFT
    assert "label it again" in condition(full, "Degraded")["message"]


def test_of_two_clusters_the_older_one_takes_the_node() -> None:
    old = cluster("old", creationTimestamp="2025-01-01T00:00:00Z", **MARKED)
    new = replace(cluster("new", **MARKED), match_labels=old.match_labels)
    node = KubeNode("n", {"site": "old"})
    first = plan_cluster(view(old, node, clusters=(new, old)), now=NOW)
    second = plan_cluster(view(new, node, clusters=(new, old)), now=NOW)
    assert "Create" in kinds(first)
    assert "Create" not in kinds(second)
    assert condition(second, "Degraded")["reason"] == reasons.OVERLAP


def test_an_older_cluster_that_selects_a_taken_node_later_does_not_take_it_away() -> None:
    old = cluster("old", creationTimestamp="2025-01-01T00:00:00Z", **MARKED)
    new = replace(cluster("new", **MARKED), match_labels=old.match_labels)
    members = (candidate("n", storage_cluster="new"),)
    node = KubeNode("n", {"site": "old"})
    made = plan_cluster(view(old, node, clusters=(new, old), members=members), now=NOW)
    assert condition(made, "Degraded")["reason"] == reasons.OVERLAP


def test_a_deleted_cluster_waits_for_its_volumes_then_for_its_nodes_then_goes() -> None:
    going, members = cluster(**GOING), (candidate("east-1"),)
    held = plan_cluster(view(going, EAST_1, members=members, held={"east-1": ("v",)}), now=NOW)
    assert kinds(held) == ["PatchStatus"]
    assert "delete them first" in condition(held, "Ready")["message"]
    empty = plan_cluster(view(going, EAST_1, members=members), now=NOW)
    assert "Delete" in kinds(empty)
    assert kinds(plan_cluster(view(going, EAST_1), now=NOW)) == ["PatchObject"]


def test_a_silent_agent_degrades_the_cluster_by_name() -> None:
    members = (candidate("east-1", silent="its agent is silent", lost=True),)
    made = plan_cluster(view(cluster(**MARKED), EAST_1, members=members), now=NOW)
    assert condition(made, "Degraded")["reason"] == reasons.NODE_LOST
    assert status(made)["nodes"][0]["pools"][0]["availableBytes"] == 0


# -- Snapshot -------------------------------------------------------------------------------------

LABEL = "holder.twinvault.io/east-1"
HELD: dict[str, Any] = {"labels": {LABEL: "true"}, "finalizers": ["twinvault.io/holders"]}


def plan_of(of: Snapshot, **more: Any) -> Plan:
    return plan_snapshot(SnapshotView(of, **more), now=NOW)


def test_holders_are_written_before_the_agent_is_told() -> None:
    origin = volume(status=placed_status())
    made = plan_of(snapshot(), volume=origin, replicas=(replica(),))
    assert kinds(made) == ["PatchStatus", "PatchObject"]
    assert status(made)["holders"][0]["state"] == "Pending"
    assert status(made)["volumeUID"] == "uid-v"
    mark = made.actions[-1]
    assert isinstance(mark, PatchObject)
    assert mark.patch["metadata"]["labels"] == {LABEL: "true"}
    assert mark.patch["metadata"]["finalizers"] == ["twinvault.io/holders"]


def test_a_snapshot_of_nothing_says_so() -> None:
    missing = plan_of(snapshot())
    assert condition(missing, "Ready")["reason"] == reasons.VOLUME_MISSING
    unready = plan_of(snapshot(), volume=volume())
    assert condition(unready, "Ready")["reason"] == reasons.VOLUME_NOT_READY


def test_a_snapshot_is_usable_only_when_every_holder_is_ready() -> None:
    ready = holder(creationTime="2026-01-01T00:00:00Z", sizeBytes=GIB)
    one = snapshot(meta=HELD, status={"holders": [ready, holder("west-1", "Pending")]})
    assert not status(plan_of(one)).get("readyToUse")
    both = snapshot(meta=HELD, status={"holders": [ready]})
    assert status(plan_of(both))["readyToUse"]
    assert status(plan_of(both))["creationTime"] == "2026-01-01T00:00:00Z"


def test_a_failed_holder_is_told_with_its_message() -> None:
    failed = snapshot(meta=HELD, status={"holders": [holder(state="Failed", message="full")]})
    assert "full" in condition(plan_of(failed), "Ready")["message"]


def test_a_deleted_snapshot_goes_when_every_told_holder_has_erased_it() -> None:
    gone = {**HELD, "deletionTimestamp": NOW}
    waits = snapshot(meta=gone, status={"holders": [holder()]})
    assert kinds(plan_of(waits)) == ["PatchStatus"]
    erased = snapshot(meta=gone, status={"holders": [holder(state="Erased")]})
    assert kinds(plan_of(erased)) == ["PatchObject"]
    never_told = snapshot(
        meta={"finalizers": ["twinvault.io/holders"], "deletionTimestamp": NOW},
        status={"holders": [holder(state="Pending")]},
    )
    assert kinds(plan_of(never_told)) == ["PatchObject"]


def test_a_lost_holder_is_given_up_only_by_its_name_and_only_while_it_is_lost() -> None:
    gone = {**HELD, "deletionTimestamp": NOW}
    lost = {"east-1": "has been silent since then"}
    waits = plan_of(snapshot(meta=gone, status={"holders": [holder()]}), lost=lost)
    assert "twinvault.io/give-up=east-1" in condition(waits, "Ready")["message"]
    named = {**gone, "annotations": {"twinvault.io/give-up": "east-1"}}
    given = snapshot(meta=named, status={"holders": [holder()]})
    assert kinds(plan_of(given, lost=lost)) == ["PatchObject"]
    assert kinds(plan_of(given)) == ["PatchStatus"]


def two_sided(in_sync: list[str], *states: str) -> Plan:
    status = placed_status("east-1")
    status["replication"]["inSync"] = in_sync
    holders = [holder(n, state) for n, state in zip(("east-1", "west-1"), states, strict=True)]
    taken = snapshot(status={"volumeUID": "uid-v", "holders": holders})
    return plan_snapshot(SnapshotView(taken, volume(status=status), (replica(),)), now=NOW)


def test_a_copy_on_a_node_that_fell_out_of_sync_is_not_waited_for() -> None:
    waiting = two_sided(["east-1", "west-1"], "Pending", "Pending")
    assert "holders" not in status(waiting)
    left = two_sided(["east-1"], "Pending", "Pending")
    assert [h["state"] for h in status(left)["holders"]] == ["Pending", "Failed"]
    assert condition(left, "Ready")["reason"] == reasons.TAKING
    enough = two_sided(["east-1"], "Ready", "Pending")
    assert status(enough)["readyToUse"]
    assert condition(enough, "Ready")["message"] == "can be restored from east-1"


def test_a_snapshot_before_a_forced_promotion_is_of_the_chosen_node_alone() -> None:
    of = snapshot(meta={"annotations": {"twinvault.io/holder": "west-1"}})
    known = volume(status=placed_status("east-1"))
    both = (replica(), replica(node="west-1"))
    made = plan_snapshot(SnapshotView(of, known, both), now=NOW)
    assert [h["node"] for h in status(made)["holders"]] == ["west-1"]


# -- ReplicationPair ------------------------------------------------------------------------------


def pair(meta: dict[str, Any] | None = None, **spec: Any) -> ReplicationPair:
    full = {"clusters": ["east", "west"], "mode": "Sync", **spec}
    return ReplicationPair.parse({"metadata": metadata("metro", **(meta or MARKED)), "spec": full})


BOTH = {"east": cluster("east"), "west": cluster("west")}
ABLE = tuple(
    replace(made, node=replace(made.node, replication=NodeReplication(True, address=address)))
    for made, address in (
        (candidate("east-1"), "10.0.0.1"),
        (candidate("west-1", storage_cluster="west"), "10.0.0.2"),
    )
)


def ready(of: Plan) -> tuple[str, str, str]:
    """Condition Ready: status, reason, message."""
    found = condition(of, "Ready")
    return found["status"], found["reason"], found["message"]


def with_kinds(name: str, **filesystems: str) -> StorageCluster:
    """A StorageCluster whose pools are of these filesystems."""
    made = cluster(name, pools=tuple(filesystems))
    pools = tuple(replace(p, filesystem=filesystems[p.name]) for p in made.pools)
    return replace(made, pools=pools)


def paired(name: str = "v", reason: str = "", in_sync: tuple[str, ...] = ("e", "w")) -> Volume:
    """A replicated volume, degraded for ``reason`` if there is one."""
    weak = {"type": "Degraded", "status": str(bool(reason)), "reason": reason or "Healthy"}
    status = {
        "placement": {"nodes": ["e", "w"]},
        "replication": {"epoch": 1, "serial": 1, "primary": "e", "inSync": list(in_sync)},
        "conditions": [{**weak, "message": "because", "lastTransitionTime": NOW}],
    }
    return volume(name, status=status, replicationPair="metro")


def test_a_sound_pair_is_ready_and_only_async_is_not_implemented() -> None:
    sound = plan_pair(PairView(pair(), BOTH, nodes=ABLE), now=NOW)
    assert condition(sound, "Ready")["status"] == "True"
    not_yet = plan_pair(PairView(pair(mode="Async"), BOTH, nodes=ABLE), now=NOW)
    assert condition(not_yet, "NotImplemented")["status"] == "True"
    assert condition(not_yet, "Ready")["reason"] == reasons.NOT_IMPLEMENTED


def test_a_pair_counts_its_volumes_and_says_which_are_one_failure_from_frozen() -> None:
    volumes = (
        paired("a"),
        paired("b", reasons.RESYNCING, ("e",)),
        paired("c", reasons.FROZEN),
        paired("d", reasons.PEER_NOT_IN_SYNC, ("e",)),
    )
    made = plan_pair(PairView(pair(), BOTH, volumes), now=NOW)
    assert status(made)["volumes"] == {
        "total": 4,
        "inSync": 2,
        "degraded": 3,
        "resyncing": 1,
        "frozen": 1,
    }
    assert status(made)["summary"] == {"clusters": "east,west", "inSync": "2/4"}
    weak = condition(made, "Degraded")
    assert (weak["status"], weak["reason"]) == ("True", reasons.FROZEN)
    assert weak["message"].startswith("3 of 4 volumes: b: because")


def test_a_site_where_nobody_can_replicate_is_named_with_what_is_missing() -> None:
    east = candidate("east-1")
    told = NodeReplication(available=False, message="module drbd is missing: install drbd-utils")
    able = NodeReplication(available=True, address="10.0.0.2")
    west = candidate("west-1", storage_cluster="west")
    nodes = (
        replace(east, node=replace(east.node, replication=told)),
        replace(west, node=replace(west.node, replication=able)),
    )
    made = plan_pair(PairView(pair(), BOTH, nodes=nodes), now=NOW)
    assert condition(made, "Ready")["reason"] == reasons.NO_REPLICATION
    assert "install drbd-utils" in condition(made, "Ready")["message"]
    assert "west" not in condition(made, "Ready")["message"]


def test_a_pair_with_a_mistake_names_it() -> None:
    unknown = plan_pair(PairView(pair(), {"east": BOTH["east"]}), now=NOW)
    assert condition(unknown, "Ready")["reason"] == reasons.CLUSTER_UNKNOWN
    strange = plan_pair(PairView(pair(preferredCluster="north"), BOTH), now=NOW)
    assert "north" in condition(strange, "Ready")["message"]
    astray = plan_pair(PairView(pair(network={"cidr": "10.0.0"}), BOTH), now=NOW)
    assert "not an IP network" in condition(astray, "Ready")["message"]
    empty = plan_pair(PairView(pair(), BOTH, nodes=ABLE[:1]), now=NOW)
    assert ready(empty)[:2] == ("False", reasons.NO_NODES)
    assert "west has no node" in ready(empty)[2]
    assert "label nodes with site=west" in ready(empty)[2]
    apart = {"east": BOTH["east"], "west": cluster("west", pools=("other",))}
    assert "no pool" in condition(plan_pair(PairView(pair(), apart), now=NOW), "Ready")["message"]


def test_pools_that_cannot_replicate_are_named_and_a_pair_without_any_other_is_not_ready() -> None:
    def judged(east: StorageCluster, west: StorageCluster) -> tuple[str, str, str]:
        known = {"east": east, "west": west}
        return ready(plan_pair(PairView(pair(), known, nodes=ABLE), now=NOW))

    of_xfs, of_btrfs = with_kinds("east", fast="xfs"), with_kinds("west", fast="btrfs")
    none = judged(of_xfs, of_btrfs)
    assert none[:2] == ("False", reasons.POOLS_DIFFER)
    assert "pool fast is xfs in east, btrfs in west" in none[2]
    some = judged(
        with_kinds("east", fast="xfs", slow="xfs", local="xfs"),
        with_kinds("west", fast="btrfs", slow="xfs"),
    )
    assert some[:2] == ("True", reasons.READY)
    assert "pool fast is xfs in east, btrfs in west" in some[2]
    assert "slow" not in some[2]
    assert "local" not in some[2]


def test_a_pair_stays_while_volumes_ask_for_it() -> None:
    used = plan_pair(PairView(pair(GOING), BOTH, (paired(),)), now=NOW)
    assert kinds(used) == ["PatchStatus"]
    # What we know may be old: the API server itself is asked right before the pair goes.
    end = plan_pair(PairView(pair(GOING), BOTH), now=NOW)
    assert kinds(end) == ["CheckNoVolumes", "PatchObject"]


def test_no_plan_deletes_a_storage_node_that_holds_something() -> None:
    for of in (cluster(**MARKED), cluster(**GOING)):
        made = plan_cluster(
            view(of, members=(candidate("east-1"),), held={"east-1": ("v",)}), now=NOW
        )
        assert not [a for a in made.actions if isinstance(a, Delete)]


@pytest.mark.parametrize(
    ("approve", "status", "news", "kept"),
    [
        ("west", "west", {}, "west"),
        ("west", "", {"approvalUsed": "west"}, "west"),
        ("", "west", {}, None),
        ("", "west", {"approvalUsed": "west"}, None),
        ("west", "west", {"approvalUsed": None}, None),
        ("east", "west", {}, None),
        ("", "", {}, None),
    ],
)
def test_a_used_approval_is_kept_until_the_field_is_cleared_whoever_leads(
    approve: str, status: str, news: dict[str, Any], kept: str | None
) -> None:
    """Empty ``news``: a leader that has just begun and knows nothing."""
    asked = pair(failover={"policy": "Manual", **({"approve": approve} if approve else {})})
    before = {"approvalUsed": status} if status else {}
    made = plan_pair(PairView(replace(asked, status=before), BOTH, extra=news), now=NOW)
    patch = next(a.status for a in made.actions if isinstance(a, PatchStatus))
    assert patch.get("approvalUsed", status or None) == kept
