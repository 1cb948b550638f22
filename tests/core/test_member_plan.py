"""Replicas of a volume that lives: one joins, leaves, or takes another's place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.builders import cluster
from tests.core.test_replicated_volume import (
    ADDRESSES,
    condition,
    creates,
    kinds,
    node,
    placed,
    plan,
    status,
)
from tests.core.test_replicated_volume import side as make_side
from twinvault_core.actions import ClaimNumber, Delete, LabelNode, PatchObject, Plan
from twinvault_core.failover_view import NodeEvidence
from twinvault_core.model import Volume, VolumeReplica
from twinvault_core.numbers import Claim
from twinvault_core.placement import Candidate

PLACES = {"east-1": "10.0.0.1", "west-1": "10.0.0.2", "west-2": "10.0.0.3"}
NODES = {name: NodeEvidence(name) for name in PLACES}
UID = placed().meta.uid
OURS = (Claim(0, "v", UID),)


def at(name: str, *, leaving: bool = False, **more: Any) -> Candidate:
    made = node(name, **more)
    return replace(made, node=replace(made.node, evacuate=leaving), internal_ip=PLACES[name])


def everywhere(**leaving: bool) -> dict[str, Any]:
    left = {name.replace("_", "-") for name, is_so in leaving.items() if is_so}
    return {
        "candidates": tuple(at(name, leaving=name in left) for name in PLACES),
        "addresses": PLACES,
        "nodes": NODES,
        "claims": OURS,
        "free_number": 1,
        "leaving": frozenset(left),
    }


def side(name: str, **more: Any) -> VolumeReplica:
    """A replica of before; west-2 is the new one."""
    if name != "west-2":
        made: VolumeReplica = make_side(name, **more)
        return made
    like = side("west-1", **more)
    assert like.replication is not None
    spec = replace(like.replication, port=7001, address=PLACES[name])
    return replace(
        like, node=name, meta=replace(like.meta, name=f"v.{name}", uid="new"), replication=spec
    )


def is_asked(of: Plan) -> bool:
    """Whether the primary's agent is to take its peer out of the record."""
    return bool((patches(of, "v.east-1").get("replication") or {}).get("peerLeaves"))


def both() -> tuple[VolumeReplica, ...]:
    return side("east-1"), side("west-1")


def patches(of: Plan, name: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for action in of.actions:
        if isinstance(action, PatchObject) and action.meta.name == name:
            merged |= action.patch.get("spec") or {}
    return merged


def single(**more: Any) -> Volume:
    written = {
        "placement": {"nodes": ["east-1"], "reasons": []},
        "replicationDevice": None,
        **more.pop("status", {}),
    }
    return placed(("east-1",), status=written, **more)


def moved(in_sync: tuple[str, ...] = ("east-1",)) -> Volume:
    """After the write: west-2 is a member."""
    return placed(
        in_sync,
        status={
            "placement": {"nodes": ["east-1", "west-2"], "reasons": [], "changed": True},
            "replicationDevice": {"minor": 1000, "port": 7001},
        },
    )


# -- one takes another's place ---------------------------------------------------------------------


def test_the_primarys_agent_is_asked_first_to_take_the_leaving_one_out_of_the_record() -> None:
    made = plan(placed(), replicas=both(), **everywhere(west_1=True))
    assert is_asked(made)
    assert not patches(made, "v.west-1")
    assert "replication" not in status(made)
    assert not [a for a in made.actions if isinstance(a, ClaimNumber | Delete)]
    assert "takes west-1 out of the record first" in condition(made, "Progressing")["message"]


def test_nothing_is_touched_while_there_is_no_node_to_go_to() -> None:
    known = everywhere(west_1=True)
    full = tuple(c for c in known["candidates"] if c.name != "west-2")
    made = plan(placed(), replicas=both(), **{**known, "candidates": full})
    assert not is_asked(made)
    assert made.waits
    assert "no node for the other replica" in condition(made, "Progressing")["message"]


def test_a_replica_joins_only_where_the_pool_is_of_the_same_kind() -> None:
    """What is refused at creation is refused later too."""
    mixed = replace(cluster("west"), pools=(replace(cluster().pools[0], filesystem="btrfs"),))
    known = {**everywhere(), "clusters": {"east": cluster("east"), "west": mixed}}
    made = plan(single(), replicas=(replace(side("east-1"), replication=None),), **known)
    assert not creates(made)
    assert "placement" not in status(made)
    assert "fast is xfs in east, btrfs in west" in condition(made, "Progressing")["message"]


def test_members_port_and_record_change_in_one_write_and_the_device_stays() -> None:
    made = plan(placed(("east-1",)), replicas=both(), **everywhere(west_1=True))
    assert kinds(made) == ["ClaimNumber", "PatchStatus"]
    written = status(made)
    assert written["placement"]["nodes"] == ["east-1", "west-2"]
    assert written["replicationDevice"] == {"minor": 1000, "port": 7001, "retired": [7000]}
    assert written["replication"]["inSync"] == ["east-1"]
    assert written["replication"]["serial"] == 3


def test_the_new_replica_is_made_blank_and_both_are_told_of_one_another() -> None:
    old = side("west-1")
    made = plan(moved(), replicas=(side("east-1"), old), **everywhere(west_1=True))
    spec = creates(made)["v.west-2"]
    assert (spec["role"], spec["replication"]["peerNode"]) == ("Secondary", "east-1")
    assert spec["replication"]["port"] == 7001
    told = patches(made, "v.east-1")["replication"]
    assert (told["peerNode"], told["port"], told["minor"]) == ("west-2", 7001, 1000)
    assert not patches(made, "v.west-1"), "who left is told nothing more"
    assert not [a for a in made.actions if isinstance(a, Delete)], "an old copy is better than none"


def test_the_old_replica_goes_when_the_new_one_is_in_sync() -> None:
    replicas = (side("east-1"), side("west-1"), side("west-2"))
    made = plan(moved(("east-1", "west-2")), replicas=replicas, **everywhere(west_1=True))
    assert [a.meta.name for a in made.actions if isinstance(a, Delete)] == ["v.west-1"]
    assert condition(made, "Ready")["status"] == "True"
    assert condition(made, "Degraded")["status"] == "False"


def test_its_data_is_kept_when_a_person_wants_that() -> None:
    kept = replace(moved(("east-1", "west-2")), keep_removed=True)
    replicas = (side("east-1"), side("west-1"), side("west-2"))
    made = plan(kept, replicas=replicas, **everywhere(west_1=True))
    assert patches(made, "v.west-1") == {"keepData": True}


def test_pods_may_follow_by_a_label_that_the_persistent_volume_allows() -> None:
    replicas = (side("east-1"), side("west-1"), side("west-2"))
    known = {**everywhere(west_1=True), "labelled": frozenset({"west-1", "east-1"})}
    made = plan(moved(("east-1", "west-2")), replicas=replicas, **known)
    labels = [(a.node, a.key, a.present) for a in made.actions if isinstance(a, LabelNode)]
    assert labels == [
        ("west-1", "replica.twinvault.io/v", False),
        ("west-2", "replica.twinvault.io/v", True),
    ]


@pytest.mark.parametrize(
    ("of", "more", "said"),
    [
        (placed(), {"lost": {"east-1": "is silent"}}, "its replica must be well first"),
        (placed(("west-1",)), {}, "must be in sync first"),
        (placed(publishedTo=["west-1"]), {}, "the move of the pod ends first"),
    ],
)
def test_only_a_primary_that_is_well_and_at_rest_gives_up_its_other_replica(
    of: Volume, more: dict[str, Any], said: str
) -> None:
    made = plan(of, replicas=both(), **{**everywhere(west_1=True), **more})
    assert not is_asked(made)
    assert "placement" not in status(made)
    assert made.waits


def test_a_primary_whose_disk_failed_keeps_the_other_replica() -> None:
    ill = (side("east-1", report={"disk": "Diskless"}), side("west-1"))
    made = plan(placed(("east-1",)), replicas=ill, **everywhere(west_1=True))
    assert "placement" not in status(made)


def test_a_primary_on_a_node_that_is_to_be_empty_waits_for_its_pod() -> None:
    used = placed(publishedTo=["east-1"])
    made = plan(used, replicas=both(), **everywhere(east_1=True))
    assert "kubectl drain east-1" in condition(made, "Progressing")["message"]
    assert "replication" not in status(made)


def test_a_primary_that_nobody_uses_goes_to_the_other_node_by_itself() -> None:
    made = plan(placed(), replicas=both(), **everywhere(east_1=True))
    assert status(made)["replication"]["primary"] == "west-1"


def test_nothing_new_is_put_on_a_node_that_is_to_be_empty() -> None:
    known = everywhere(west_1=True, west_2=True)
    made = plan(placed(("east-1",)), replicas=both(), **known)
    assert "placement" not in status(made)
    assert "is being emptied" in condition(made, "Progressing")["message"]


def test_a_node_that_keeps_an_earlier_replicas_data_is_not_written_over() -> None:
    known = everywhere(west_1=True)
    orphans = tuple(
        replace(c, node=replace(c.node, orphans=("v",))) if c.name == "west-2" else c
        for c in known["candidates"]
    )
    made = plan(placed(("east-1",)), replicas=both(), **{**known, "candidates": orphans})
    assert "placement" not in status(made)
    assert "eraseOrphans of StorageNode west-2" in condition(made, "Progressing")["message"]


# -- lost for good ---------------------------------------------------------------------------------


def leftover(**more: Any) -> VolumeReplica:
    made = side("west-1")
    meta = replace(made.meta, deleting=True, finalizers=frozenset({"twinvault.io/data"}))
    return replace(made, meta=meta, **more)


def test_a_replica_of_a_lost_node_is_forgotten_only_on_a_persons_word() -> None:
    replicas = (side("east-1"), leftover(), side("west-2"))
    of = moved(("east-1", "west-2"))
    known = {**everywhere(west_1=True), "lost": {"west-1": "is silent"}}
    assert not [a for a in plan(of, replicas=replicas, **known).actions if _frees(a)]
    made = plan(of, replicas=replicas, **{**known, "gone": frozenset({"west-1"})})
    assert [type(a).__name__ for a in made.actions if _frees(a)] == ["PatchObject"]
    alive = plan(of, replicas=replicas, **{**known, "gone": frozenset({"west-1"}), "lost": {}})
    assert not [a for a in alive.actions if _frees(a)], "an agent that answers lets go itself"


def _frees(action: object) -> bool:
    return isinstance(action, PatchObject) and "metadata" in action.patch


# -- one leaves ------------------------------------------------------------------------------------


def alone(of: Volume) -> Volume:
    return replace(of, replication_pair="")


def test_the_second_replica_leaves_the_record_then_the_volume_then_its_node() -> None:
    asked = plan(alone(placed()), replicas=both(), **{**everywhere(), "pair": None})
    assert is_asked(asked)
    written = status(plan(alone(placed(("east-1",))), replicas=both(), pair=None, claims=OURS))
    assert written["placement"]["nodes"] == ["east-1"]
    left = alone(single(status={"replicationDevice": {"minor": 1000, "port": 7000}}))
    made = plan(left, replicas=both(), pair=None, claims=OURS)
    assert patches(made, "v.east-1") == {"replication": None}
    assert [a.meta.name for a in made.actions if isinstance(a, Delete)] == ["v.west-1"]
    assert condition(made, "Ready")["message"] == "ready on east-1"


# -- one joins -------------------------------------------------------------------------------------


def test_a_volume_with_one_replica_gets_a_second_one_at_the_other_site() -> None:
    only = (replace(side("east-1"), replication=None),)
    made = plan(single(), replicas=only, **{**everywhere(), "claims": ()})
    assert kinds(made) == ["ClaimNumber", "PatchStatus"]
    written = status(made)
    assert written["placement"]["nodes"][0] == "east-1"
    assert written["placement"]["nodes"][1] in ("west-1", "west-2")
    assert written["replicationDevice"] == {"minor": 1001, "port": 7001}


def test_what_its_image_holds_is_said_to_be_whole() -> None:
    only = (replace(side("east-1"), replication=None),)
    made = plan(placed(("east-1",)), replicas=only, addresses=ADDRESSES)
    assert patches(made, "v.east-1")["replication"]["firstSync"] == "Keep"
    assert creates(made)["v.west-1"]["replication"]["firstSync"] == ""


def test_a_volume_outside_the_pairs_sites_stays_as_it_is_and_says_why() -> None:
    only = (replace(side("east-1"), replication=None, storage_cluster="north"),)
    made = plan(single(), replicas=only, **everywhere())
    assert "which is not of pair metro" in condition(made, "Progressing")["message"]
    assert condition(made, "Ready")["status"] == "True"


def test_a_volume_that_was_never_ready_is_not_changed() -> None:
    of = placed(("east-1",), status={"sizeBytes": 0})
    made = plan(of, replicas=both(), **everywhere(west_1=True))
    assert "placement" not in status(made)


def test_a_volume_that_lives_keeps_its_claims_and_uses_no_port_twice() -> None:
    claims = (*OURS, Claim(1, "v", UID), Claim(2, "v", UID))
    known = {**everywhere(west_2=True), "claims": claims}
    of = moved(("east-1",))
    made = plan(of, replicas=(side("east-1"), side("west-2")), **known)
    assert not [a for a in made.actions if type(a).__name__ == "ReleaseNumber"]
    assert status(made)["replicationDevice"]["port"] == 7002
    known = {**known, "claims": OURS, "free_number": 1}
    again = plan(of, replicas=(side("east-1"), side("west-2")), **known)
    assert "replicationDevice" not in status(again), "the port it has now is not a new one"
