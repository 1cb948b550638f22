"""The plan of a Volume, case by case; tests/operator tries every order of events."""

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
    placed_status,
    replica,
    snapshot,
    volume,
)
from twinvault_core import reasons
from twinvault_core.actions import (
    CheckGone,
    Create,
    Delete,
    PatchObject,
    PatchStatus,
    Plan,
    Tell,
)
from twinvault_core.model import Volume
from twinvault_core.source_check import SourceView
from twinvault_core.volume_plan import plan_volume
from twinvault_core.volume_view import VolumeView

KEPT = {"finalizers": ["twinvault.io/replicas"]}
GOING = {**KEPT, "deletionTimestamp": NOW}
LOST = {"east-1": "has been silent since then"}


def view(of: Volume, **more: Any) -> VolumeView:
    known: dict[str, Any] = {
        "clusters": {"east": cluster()},
        "candidates": (candidate(),),
        **more,
    }
    return VolumeView("v", of, **known)


def plan(of: Volume, **more: Any) -> Plan:
    return plan_volume(view(of, **more), now=NOW)


def kinds(of: Plan) -> list[str]:
    return [type(a).__name__ for a in of.actions if not isinstance(a, Tell)]


def status(of: Plan) -> dict[str, Any]:
    return dict(next(a for a in of.actions if isinstance(a, PatchStatus)).status)


def condition(of: Plan, type_: str) -> dict[str, Any]:
    return next(dict(c) for c in status(of)["conditions"] if c["type"] == type_)


def ready_volume(**more: Any) -> Volume:
    """Ready, with the status that the operator itself writes for it."""
    bare = volume(meta=more.pop("meta", KEPT), status=placed_status(), **more)
    written = status(plan(bare, replicas=(replica(),)))
    return replace(bare, status={**bare.status, **written}, conditions=tuple(written["conditions"]))


def test_a_new_volume_is_marked_then_placed_then_made_in_this_order() -> None:
    made = plan(volume())
    assert kinds(made) == ["PatchObject", "PatchStatus", "Create"]
    written = status(made)
    assert written["placement"]["nodes"] == ["east-1"]
    assert written["replication"] == {
        "epoch": 1,
        "serial": 1,
        "primary": "east-1",
        "inSync": ["east-1"],
    }
    create = made.actions[-1]
    assert isinstance(create, Create)
    assert create.name == "v.east-1"
    assert create.body["metadata"]["finalizers"] == ["twinvault.io/data"]


def test_a_volume_that_came_with_the_finalizer_costs_one_write_less() -> None:
    assert kinds(plan(volume(meta=KEPT))) == ["PatchStatus", "Create"]


def test_a_choice_that_was_recorded_is_kept_whatever_would_be_better_now() -> None:
    half = volume(meta=KEPT, status={"placement": {"nodes": ["east-1"]}})
    better = (candidate("east-2"), candidate(promised_bytes=99 * GIB))
    made = plan(half, candidates=better)
    assert [a.name for a in made.actions if isinstance(a, Create)] == ["v.east-1"]


def test_a_ready_replica_makes_the_volume_ready_in_one_write_and_one_event() -> None:
    creating = volume(meta=KEPT, status={**placed_status(), "phase": "Creating", "sizeBytes": 0})
    made = plan(creating, replicas=(replica(),))
    assert kinds(made) == ["PatchStatus"]
    assert status(made)["phase"] == "Ready"
    assert status(made)["sizeBytes"] == GIB
    assert [a.reason for a in made.actions if isinstance(a, Tell)] == ["Ready"]


def test_nothing_is_written_when_nothing_changed() -> None:
    assert plan(ready_volume(), replicas=(replica(),)).actions == ()


def test_a_percent_of_use_is_not_worth_a_write() -> None:
    little = replica(status={"allocatedBytes": GIB // 200})
    much = replica(status={"allocatedBytes": GIB // 2})
    assert plan(ready_volume(), replicas=(little,)).actions == ()
    assert status(plan(ready_volume(), replicas=(much,)))["usedBytes"] == GIB // 2


def test_a_replica_that_somebody_removed_is_not_made_anew() -> None:
    made = plan(ready_volume(), replicas=())
    assert "Create" not in kinds(made)
    assert condition(made, "Ready")["reason"] == reasons.REPLICA_LOST


def test_a_volume_on_a_silent_node_is_degraded_and_says_so() -> None:
    made = plan(ready_volume(), replicas=(replica(),), lost=LOST)
    assert status(made)["phase"] == "Degraded"
    assert condition(made, "Degraded")["status"] == "True"
    assert "bring it back" in condition(made, "Ready")["message"]


def test_a_failed_replica_shows_its_message() -> None:
    broken = replica(state="Failed", status={"message": "no space left"})
    made = plan(ready_volume(), replicas=(broken,))
    assert status(made)["phase"] == "Failed"
    assert "no space left" in condition(made, "Ready")["message"]


def test_a_volume_that_cannot_be_placed_waits_and_is_told_once() -> None:
    first = plan(volume(meta=KEPT, size_bytes=200 * GIB))
    assert first.waits
    assert [a.reason for a in first.actions if isinstance(a, Tell)] == [reasons.NO_CAPACITY]
    written = status(first)
    known = volume(meta=KEPT, size_bytes=200 * GIB, status=written)
    assert plan(known).actions == ()


# -- growing --------------------------------------------------------------------------------------


def test_growth_goes_to_the_replica_when_there_is_room() -> None:
    made = plan(replace(ready_volume(), size_bytes=2 * GIB), replicas=(replica(),))
    patch = next(a for a in made.actions if isinstance(a, PatchObject))
    assert patch.patch == {"spec": {"sizeBytes": 2 * GIB}}
    assert condition(made, "Progressing")["reason"] == reasons.EXPANDING


def test_growth_without_room_changes_nothing_but_a_condition() -> None:
    full = (candidate(promised_bytes=100 * GIB),)
    grown = replace(ready_volume(), size_bytes=2 * GIB)
    made = plan(grown, replicas=(replica(),), candidates=full)
    assert kinds(made) == ["PatchStatus"]
    stuck = condition(made, "Progressing")
    assert (stuck["status"], stuck["reason"]) == ("False", reasons.NO_CAPACITY)
    assert condition(made, "Ready")["status"] == "True"
    assert made.waits


# -- letting go -----------------------------------------------------------------------------------


def going(**more: Any) -> Volume:
    return volume(meta=GOING, status=placed_status(), **more)


def test_a_deleted_volume_erases_its_replica_then_goes() -> None:
    made = plan(going(), replicas=(replica(),))
    assert kinds(made) == ["Delete", "PatchStatus"]
    erased = plan(going())
    assert kinds(erased) == ["CheckGone", "PatchObject"]
    check = erased.actions[0]
    assert isinstance(check, CheckGone)
    assert check.name == "v.east-1"


def test_a_volume_that_was_never_placed_goes_at_once() -> None:
    assert kinds(plan(volume(meta=GOING))) == ["PatchObject"]


@pytest.mark.parametrize(
    ("spec", "replica_status", "readers", "reason"),
    [
        ({"publishedTo": ["east-1"]}, {}, (), reasons.PUBLISHED),
        ({}, {"inUse": True}, (), reasons.STAGED),
        ({}, {}, ("Volume clone",), reasons.SOURCE_OF_CLONE),
    ],
)
def test_a_volume_in_use_is_held_and_says_by_whom(
    spec: dict[str, Any], replica_status: dict[str, Any], readers: tuple[str, ...], reason: str
) -> None:
    used = (replica(status=replica_status),)
    made = plan(going(**spec), replicas=used, readers=readers)
    assert kinds(made) == ["PatchStatus"]
    assert condition(made, "InUse")["reason"] == reason
    assert [a.reason for a in made.actions if isinstance(a, Tell)] == ["DeletionWaits"]


DYING = {"deletionTimestamp": NOW}


def test_a_lost_node_is_given_up_only_on_a_persons_word() -> None:
    waiting = plan(going(), replicas=(replica(meta=DYING),), lost=LOST)
    assert kinds(waiting) == ["PatchStatus"]
    assert 'giveUp":"east-1' in condition(waiting, "Ready")["message"]
    given = (replica(meta=DYING, giveUp="east-1"),)
    released = plan(going(), replicas=given, lost=LOST)
    assert kinds(released)[0] == "PatchObject"


def test_a_living_node_is_never_given_up() -> None:
    given = (replica(meta=DYING, giveUp="east-1"),)
    assert kinds(plan(going(), replicas=given)) == ["PatchStatus"]


def test_giving_up_also_passes_over_the_use_that_a_dead_node_last_reported() -> None:
    given = (replica(meta=DYING, giveUp="east-1", status={"inUse": True}),)
    assert "PatchObject" in kinds(plan(going(), replicas=given, lost=LOST))


# -- without a Volume -----------------------------------------------------------------------------


def test_a_replica_without_its_volume_goes_only_if_it_never_was_ready() -> None:
    fresh = plan_volume(VolumeView("v", None, (replica(state=""),)), now=NOW)
    assert [type(a) for a in fresh.actions] == [Delete]
    holding = plan_volume(VolumeView("v", None, (replica(),)), now=NOW)
    assert [type(a) for a in holding.actions] == [Tell]


def test_a_replica_of_an_earlier_volume_of_the_same_name_is_not_taken_for_ours() -> None:
    old = replica(volumeUID="another")
    made = plan(volume(meta=KEPT, status={"placement": {"nodes": ["east-1"]}}), replicas=(old,))
    assert "Create" not in kinds(made)
    assert "earlier volume" in condition(made, "Ready")["message"]


# -- sources --------------------------------------------------------------------------------------

HELD = {
    "readyToUse": True,
    "sizeBytes": GIB,
    "volumeMode": "Filesystem",
    "holders": [holder("east-2")],
}


@pytest.mark.parametrize(
    ("source", "spec", "reason"),
    [
        (SourceView(), {}, reasons.SOURCE_MISSING),
        (SourceView(snapshot=snapshot()), {}, reasons.SOURCE_NOT_READY),
        (
            SourceView(snapshot=snapshot(status=HELD, meta={"deletionTimestamp": NOW})),
            {},
            reasons.SOURCE_MISSING,
        ),
        (
            SourceView(snapshot=snapshot(status={**HELD, "sizeBytes": 2 * GIB})),
            {},
            reasons.SOURCE_UNSUITABLE,
        ),
        (SourceView(snapshot=snapshot(status=HELD)), {"pool": "slow"}, reasons.SOURCE_UNSUITABLE),
        (SourceView(snapshot=snapshot(status=HELD)), {"fsType": "xfs"}, reasons.SOURCE_UNSUITABLE),
        (
            SourceView(snapshot=snapshot(status=HELD)),
            {"volumeMode": "Block"},
            reasons.SOURCE_UNSUITABLE,
        ),
        (SourceView(snapshot=snapshot(status=HELD)), {}, reasons.NO_NODE),
    ],
)
def test_a_source_that_does_not_fit_is_refused_by_its_reason(
    source: SourceView, spec: dict[str, Any], reason: str
) -> None:
    made = plan(volume(meta=KEPT, source={"snapshot": "s"}, **spec), source=source)
    assert condition(made, "Placed")["reason"] == reason


def test_a_restore_goes_where_the_snapshot_is() -> None:
    nodes = (candidate("east-1"), candidate("east-2", promised_bytes=90 * GIB))
    source = SourceView(snapshot=snapshot(status=HELD))
    made = plan(volume(meta=KEPT, source={"snapshot": "s"}), candidates=nodes, source=source)
    create = made.actions[-1]
    assert isinstance(create, Create)
    assert create.name == "v.east-2"
    assert create.body["spec"]["source"] == {"snapshot": "s"}


def test_a_clone_goes_where_its_origin_is_ready_and_nowhere_before() -> None:
    origin = volume("o", status=placed_status())
    source = SourceView(volume=origin, replicas=(replica("o"),))
    made = plan(volume(meta=KEPT, source={"volume": "o"}), source=source)
    assert kinds(made) == ["PatchStatus", "Create"]
    unready = SourceView(volume=origin, replicas=(replica("o", state="Creating"),))
    refused = plan(volume(meta=KEPT, source={"volume": "o"}), source=unready)
    assert condition(refused, "Placed")["reason"] == reasons.SOURCE_NOT_READY
