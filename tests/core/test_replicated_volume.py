"""A Volume with two replicas: placement, numbers, first sync, status, switchover, letting go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.builders import GIB, NOW, candidate, cluster, holder, metadata, replica, snapshot
from tests.core.builders import volume as make_volume
from twinvault_core import reasons
from twinvault_core.actions import (
    CheckUnused,
    ClaimNumber,
    Create,
    Delete,
    PatchObject,
    PatchStatus,
    Plan,
    ReleaseNumber,
    Tell,
)
from twinvault_core.failover_view import NodeEvidence
from twinvault_core.model import ReplicationPair, Volume, VolumeReplica
from twinvault_core.numbers import AVOIDED_PORTS, FIRST_PORT, Claim, choose_number, device_of
from twinvault_core.placement import Candidate
from twinvault_core.source_check import SourceView
from twinvault_core.volume_plan import plan_volume
from twinvault_core.volume_view import VolumeView

KEPT = {"finalizers": ["twinvault.io/replicas"]}
ADDRESSES = {"east-1": "10.0.0.1", "west-1": "10.0.0.2"}
BOTH = ("east-1", "west-1")
LATER = "2026-01-01T01:00:00Z"


def pair(mode: str = "Sync", **spec: Any) -> ReplicationPair:
    full = {"clusters": ["east", "west"], "mode": mode, **spec}
    return ReplicationPair.parse({"metadata": metadata("metro"), "spec": full})


def node(name: str, *, ability: dict[str, Any] | None = None, **more: Any) -> Candidate:
    made = candidate(name, storage_cluster=name.partition("-")[0], **more)
    told = {"available": True} if ability is None else ability
    status = {**made.node.status, "replication": told}
    parsed = type(made.node).parse(
        {"metadata": metadata(name), "spec": made.node.spec, "status": status}
    )
    return replace(made, node=parsed, internal_ip=ADDRESSES.get(name, "10.0.0.9"))


def volume(**more: Any) -> Volume:
    meta = more.pop("meta", KEPT)
    return make_volume(meta=meta, replicationPair="metro", **more)


def view(of: Volume | None, **more: Any) -> VolumeView:
    known: dict[str, Any] = {
        "clusters": {"east": cluster("east"), "west": cluster("west")},
        "candidates": (node("east-1"), node("west-1")),
        "pair": pair(),
        "addresses": ADDRESSES,
        "nodes": {name: NodeEvidence(name) for name in BOTH},
        "free_number": 0,
        **more,
    }
    return VolumeView("v", of, **known)


def plan(of: Volume | None, **more: Any) -> Plan:
    return plan_volume(view(of, **more), now=NOW)


def kinds(of: Plan) -> list[str]:
    return [type(a).__name__ for a in of.actions if not isinstance(a, Tell)]


def status(of: Plan) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for action in of.actions:
        if isinstance(action, PatchStatus):
            merged |= action.status
    return merged


def condition(of: Plan, type_: str) -> dict[str, Any]:
    return next(dict(c) for c in status(of)["conditions"] if c["type"] == type_)


def creates(of: Plan) -> dict[str, dict[str, Any]]:
    return {a.name: dict(a.body["spec"]) for a in of.actions if isinstance(a, Create)}


def record(primary: str = "east-1", in_sync: tuple[str, ...] = BOTH, **more: int) -> dict[str, Any]:
    return {"epoch": 1, "serial": 2, **more, "primary": primary, "inSync": list(in_sync)}


def placed(in_sync: tuple[str, ...] = BOTH, *, primary: str = "east-1", **more: Any) -> Volume:
    written = {
        "phase": "Ready",
        "sizeBytes": GIB,
        "placement": {"nodes": ["east-1", "west-1"], "reasons": []},
        "replication": record(primary, in_sync),
        "replicationDevice": {"minor": 1000, "port": 7000},
        **more.pop("status", {}),
    }
    return volume(status=written, **more)


REPORT = {
    "connection": "Connected",
    "sync": "Established",
    "role": "Secondary",
    "disk": "UpToDate",
    "peerDisk": "UpToDate",
}


def side(name: str = "east-1", *, report: dict[str, Any] | None = None, **more: Any) -> Any:
    peer = "west-1" if name == "east-1" else "east-1"
    spec = {
        "storageCluster": name.partition("-")[0],
        "role": "Primary" if name == "east-1" else "Secondary",
        "replication": {
            "minor": 1000,
            "port": 7000,
            "address": ADDRESSES[name],
            "peerNode": peer,
            "peerAddress": ADDRESSES[peer],
            "epoch": 1,
        },
        **more.pop("spec", {}),
    }
    written = {"replication": {**REPORT, **(report or {})}, **more.pop("status", {})}
    return replica("v", name, status=written, **spec, **more)


def sides(**report: Any) -> tuple[VolumeReplica, ...]:
    return side("east-1", report=report), side("west-1", report=report)


# -- numbers ---------------------------------------------------------------------------------------


def test_numbers_are_the_smallest_free_ones_and_avoid_ports_of_other_programs() -> None:
    assert choose_number(set()) == 0
    assert choose_number({0, 1, 3}) == 2
    taken: set[int] = set()
    while (number := choose_number(taken)) is not None:
        assert FIRST_PORT + number not in AVOIDED_PORTS
        taken.add(number)
    assert len(taken) > 2500


def test_a_claim_that_a_killed_operator_made_is_used_again() -> None:
    made = plan(volume(), claims=(Claim(7, "v", "uid-v"),), free_number=8)
    claim = next(a for a in made.actions if isinstance(a, ClaimNumber))
    assert claim.number == 7
    assert status(made)["replicationDevice"] == {"minor": 1007, "port": 7007}


def test_a_claim_of_an_earlier_volume_is_released_only_after_asking() -> None:
    old = Claim(7, "v", "uid-of-another")
    made = plan(None, claims=(old,))
    assert [type(a) for a in made.actions] == [CheckUnused, ReleaseNumber]
    beside = plan(placed(), claims=(Claim(0, "v", "uid-v"), Claim(3, "v", "uid-v")))
    assert not [a for a in beside.actions if isinstance(a, ReleaseNumber)], "it may be under way"


def test_without_a_free_number_the_volume_waits_and_says_so() -> None:
    made = plan(volume(), free_number=None)
    assert made.waits
    assert condition(made, "Placed")["reason"] == reasons.NO_NUMBER


# -- placement -------------------------------------------------------------------------------------


def test_everything_is_decided_in_one_write_before_both_replicas_are_made() -> None:
    made = plan(volume(preferredCluster=""))
    assert kinds(made) == ["ClaimNumber", "PatchStatus", "Create", "Create"]
    written = status(made)
    assert written["placement"]["nodes"] == ["east-1", "west-1"]
    assert written["replication"] == record(in_sync=("east-1",)) | {"serial": 1}
    assert written["replicationDevice"] == device_of(0).to_dict()
    assert written["phase"] == "Creating"
    assert "sizeBytes" not in written
    made_specs = creates(made)
    assert made_specs["v.east-1"]["role"] == "Primary"
    assert made_specs["v.west-1"]["role"] == "Secondary"
    block = made_specs["v.west-1"]["replication"]
    assert (block["minor"], block["port"], block["epoch"]) == (1000, 7000, 1)
    assert (block["address"], block["peerAddress"]) == ("10.0.0.2", "10.0.0.1")
    assert (block["peerNode"], block["firstSync"]) == ("east-1", "")


@pytest.mark.parametrize(
    ("spec", "pair_spec", "nodes", "first"),
    [
        ({"accessibility": {"preferred": ["west-1", "east-1"]}}, {}, {}, "west-1"),
        ({"accessibility": {"requisite": ["west-1"]}}, {}, {}, "west-1"),
        ({"storageCluster": "west"}, {}, {}, "west-1"),
        ({}, {"preferredCluster": "west"}, {}, "west-1"),
        ({}, {}, {"east-1": 50 * GIB}, "west-1"),
        ({}, {}, {"west-1": 50 * GIB}, "east-1"),
    ],
)
def test_the_first_replica_goes_where_the_pod_or_the_pair_wants_it_else_to_the_emptier_site(
    spec: dict[str, Any], pair_spec: dict[str, Any], nodes: dict[str, int], first: str
) -> None:
    known = tuple(node(n, promised_bytes=nodes.get(n, 0)) for n in BOTH)
    made = plan(volume(**spec), pair=pair(**pair_spec), candidates=known)
    assert status(made)["placement"]["nodes"][0] == first
    assert set(status(made)["placement"]["nodes"]) == set(BOTH)


@pytest.mark.parametrize(
    ("more", "spec", "reason", "words"),
    [
        ({"pair": None}, {}, reasons.PAIR_UNKNOWN, "metro"),
        ({"pair": pair("Async")}, {}, reasons.PAIR_NOT_IMPLEMENTED, "mode Async"),
        ({"clusters": {"east": cluster("east")}}, {}, reasons.CLUSTER_UNKNOWN, "west"),
        ({}, {"storageCluster": "north"}, reasons.CLUSTER_UNKNOWN, "north"),
        (
            {"clusters": {"east": cluster("east"), "west": cluster("west", ("slow",))}},
            {},
            reasons.POOL_UNKNOWN,
            "west has no pool fast",
        ),
        (
            {"candidates": (node("east-1"), node("west-1", ability={}))},
            {},
            reasons.NO_REPLICATION,
            "west-1",
        ),
        (
            {
                "candidates": (
                    node("east-1"),
                    node("west-1", ability={"available": False, "message": "no module drbd"}),
                )
            },
            {},
            reasons.NO_REPLICATION,
            "no module drbd",
        ),
        (
            {"candidates": (node("east-1"), node("west-1", silent="its agent is silent"))},
            {},
            reasons.POOL_NOT_READY,
            "silent",
        ),
        (
            {"candidates": (node("east-1"), node("west-1", promised_bytes=100 * GIB))},
            {},
            reasons.NO_CAPACITY,
            "second replica",
        ),
        (
            {"pair": pair(network={"cidr": "192.168.7.0/24"})},
            {},
            reasons.NO_REPLICATION,
            "192.168.7.0/24",
        ),
    ],
)
def test_a_volume_that_cannot_have_two_replicas_gets_none_and_says_why(
    more: dict[str, Any], spec: dict[str, Any], reason: str, words: str
) -> None:
    made = plan(volume(**spec), **more)
    assert made.waits
    assert kinds(made) == ["PatchStatus"]
    told = condition(made, "Placed")
    assert told["reason"] == reason
    assert words in told["message"]


def test_a_named_network_gives_the_addresses() -> None:
    far = {
        name: {
            "available": True,
            "address": "10.9.9.9",
            "addresses": [
                {"interface": "eth0", "address": "10.0.0.5"},
                {"interface": "repl", "address": f"192.168.7.{number}"},
            ],
        }
        for number, name in enumerate(BOTH, start=1)
    }
    known = tuple(node(name, ability=far[name]) for name in BOTH)
    for network in ({"cidr": "192.168.7.0/24"}, {"interface": "repl"}):
        made = plan(volume(), pair=pair(network=network), candidates=known)
        assert creates(made)["v.east-1"]["replication"]["address"] == "192.168.7.1"
        assert creates(made)["v.east-1"]["replication"]["peerAddress"] == "192.168.7.2"


def test_pools_of_different_kinds_are_refused() -> None:
    other = cluster("west")
    mixed = replace(other, pools=(replace(other.pools[0], filesystem="btrfs"),))
    made = plan(volume(), clusters={"east": cluster("east"), "west": mixed})
    assert condition(made, "Placed")["reason"] == reasons.POOLS_DIFFER


def test_a_restore_begins_where_the_snapshot_is_and_the_other_side_is_filled_from_there() -> None:
    held = {
        "readyToUse": True,
        "sizeBytes": GIB,
        "volumeMode": "Filesystem",
        "holders": [holder("west-1")],
    }
    source = SourceView(snapshot=snapshot(status=held))
    wish = {"accessibility": {"preferred": ["east-1"]}, "source": {"snapshot": "s"}}
    made = plan(volume(**wish), source=source)
    assert status(made)["placement"]["nodes"] == ["west-1", "east-1"]
    assert creates(made)["v.west-1"]["source"] == {"snapshot": "s"}
    assert "source" not in creates(made)["v.east-1"]
    both = {**held, "holders": [holder("west-1"), holder("east-1")]}
    made = plan(volume(**wish), source=SourceView(snapshot=snapshot(status=both)))
    assert all(spec["source"] == {"snapshot": "s"} for spec in creates(made).values())


def test_a_kill_after_the_decision_is_made_good_from_the_status() -> None:
    half = placed(("east-1",), status={"sizeBytes": 0})
    made = plan(half, replicas=(side("east-1"),), free_number=None)
    assert list(creates(made)) == ["v.west-1"]
    assert creates(made)["v.west-1"]["replication"]["port"] == 7000


# -- first sync ------------------------------------------------------------------------------------

NEW = {"disk": "Inconsistent", "peerDisk": "Inconsistent", "blank": True}


def first_sync(of: Volume, replicas: tuple[VolumeReplica, ...]) -> list[str]:
    made = plan(of, replicas=replicas)
    patches = [a for a in made.actions if isinstance(a, PatchObject)]
    return [
        f"{a.meta.name} {a.patch['spec']['replication']['firstSync']}"
        for a in patches
        if "replication" in a.patch.get("spec", {})
    ]


def test_the_first_sync_is_skipped_only_when_both_agents_prove_that_all_is_blank() -> None:
    new = placed(("east-1",), status={"sizeBytes": 0})
    assert first_sync(new, sides(**NEW)) == ["v.east-1 Skip"]
    mixed = (side("east-1", report=NEW), side("west-1", report={**NEW, "blank": False}))
    assert first_sync(new, mixed) == ["v.east-1 Full"]
    restored = placed(("east-1",), status={"sizeBytes": 0}, source={"snapshot": "s"})
    assert first_sync(restored, sides(**NEW)) == ["v.east-1 Full"]


@pytest.mark.parametrize(
    "report",
    [
        {**NEW, "connection": "WFConnection"},
        {**NEW, "disk": "UpToDate"},
        {**NEW, "peerDisk": "UpToDate"},
    ],
)
def test_nothing_is_said_of_the_first_sync_before_both_are_connected_and_new(
    report: dict[str, Any],
) -> None:
    new = placed(("east-1",), status={"sizeBytes": 0})
    assert first_sync(new, sides(**report)) == []
    assert first_sync(new, (side("east-1", report=NEW),)) == []


def test_a_volume_that_was_ready_never_skips_and_what_was_said_is_taken_back() -> None:
    assert first_sync(placed(("east-1",)), sides(**NEW)) == []
    east = side("east-1")
    told = replace(east, replication=replace(east.replication, first_sync="Skip"))
    assert first_sync(placed(), (told, side("west-1"))) == ["v.east-1 "]


# -- status ----------------------------------------------------------------------------------------


def test_it_is_ready_for_the_first_time_only_with_both_in_sync() -> None:
    new = placed(("east-1",), status={"sizeBytes": 0, "phase": "Creating"})
    waiting = plan(new, replicas=sides())
    assert status(waiting).get("phase", "Creating") == "Creating"
    assert "sizeBytes" not in status(waiting)
    assert condition(waiting, "Progressing")["reason"] == reasons.FIRST_SYNC
    done = plan(placed(status={"sizeBytes": 0, "phase": "Creating"}), replicas=sides())
    assert status(done)["phase"] == "Ready"
    assert status(done)["sizeBytes"] == GIB
    assert status(done)["summary"]["inSync"] == "2/2"


def judged(of: Volume, replicas: tuple[VolumeReplica, ...], **more: Any) -> tuple[str, ...]:
    made = plan(of, replicas=replicas, **more)
    ready, degraded = condition(made, "Ready"), condition(made, "Degraded")
    phase = status(made).get("phase", of.status["phase"])
    return phase, ready["status"], degraded["status"], degraded["reason"]


LOST = {"west-1": "has been silent since then"}
GONE = {"east-1": "has been silent since then"}
RESYNC = {"resync": {"donePercent": 42.0, "remainingBytes": 5, "secondsLeft": 100}}


@pytest.mark.parametrize(
    ("in_sync", "reports", "lost", "expected"),
    [
        (BOTH, {}, {}, ("Ready", "True", "False", reasons.HEALTHY)),
        (("east-1",), {}, {}, ("Degraded", "True", "True", reasons.PEER_NOT_IN_SYNC)),
        (("east-1",), RESYNC, {}, ("Degraded", "True", "True", reasons.RESYNCING)),
        (
            BOTH,
            {"connection": "WFConnection"},
            {},
            ("Degraded", "True", "True", reasons.LINK_DOWN),
        ),
        (BOTH, {"frozen": True}, {}, ("Degraded", "False", "True", reasons.FROZEN)),
        (
            BOTH,
            {"stalledSince": "2026-03-01T01:00:00Z"},
            {},
            ("Degraded", "False", "True", reasons.STALLED),
        ),
        (BOTH, {}, LOST, ("Degraded", "True", "True", reasons.NODE_LOST)),
        (BOTH, {}, GONE, ("Degraded", "False", "True", reasons.NODE_LOST)),
        (("west-1",), {}, {}, ("Degraded", "True", "True", reasons.PEER_NOT_IN_SYNC)),
        (BOTH, {"diverged": True}, {}, ("Degraded", "True", "True", reasons.DIVERGED)),
    ],
)
def test_the_status_says_how_far_from_a_failure_the_volume_is(
    in_sync: tuple[str, ...],
    reports: dict[str, Any],
    lost: dict[str, str],
    expected: tuple[str, ...],
) -> None:
    assert judged(placed(in_sync), sides(**reports), lost=lost) == expected


def test_a_stall_is_told_as_a_warning() -> None:
    """Nothing else may tell a person: the pod hangs, and no probe of its node fails."""
    made = plan(placed(), replicas=sides(stalledSince="2026-03-01T01:00:00Z"))
    told = {(a.reason, a.warning) for a in made.actions if isinstance(a, Tell)}
    assert (reasons.STALLED, True) in told


def test_a_failover_that_is_stuck_says_so_in_the_status() -> None:
    gone = {"east-1": "has been silent since then"}
    made = plan(placed(), replicas=sides(), lost=gone, stuck="moving it failed 20 times")
    assert condition(made, "Progressing")["reason"] == reasons.FAILOVER_STUCK
    assert "moving it failed 20 times" in condition(made, "Progressing")["message"]
    assert "moving it failed 20 times" in condition(made, "Ready")["message"]
    served = plan(placed(primary="west-1"), replicas=sides(), stuck="ending the pod failed")
    assert condition(served, "Progressing")["reason"] == reasons.FAILOVER_STUCK


def test_a_degraded_volume_says_since_when_and_comes_to_rest() -> None:
    weak = placed(("east-1",))
    first = status(plan(weak, replicas=sides(**RESYNC)))
    assert f"since {NOW}" in next(
        c["message"] for c in first["conditions"] if c["type"] == "Degraded"
    )
    known = replace(weak, status={**weak.status, **first}, conditions=tuple(first["conditions"]))
    crept = {"resync": {"donePercent": 44.9, "remainingBytes": 4, "secondsLeft": 95}}
    later = plan_volume(view(known, replicas=sides(**crept)), now=LATER)
    assert [a for a in later.actions if isinstance(a, PatchStatus)] == []
    healed = replace(known, record=placed().record)
    over = plan_volume(view(healed, replicas=sides()), now=LATER)
    assert [a.reason for a in over.actions if isinstance(a, Tell)] == ["InSync"]


def test_a_volume_whose_pair_is_gone_says_that_nobody_could_let_the_other_site_take_over() -> None:
    made = plan(placed(), replicas=sides(), pair=None)
    found = condition(made, "Degraded")
    assert (found["status"], found["reason"]) == ("True", reasons.PAIR_UNKNOWN)
    assert "ReplicationPair metro does not exist" in found["message"]
    assert "Create it again" in found["message"]
    assert condition(made, "Ready")["status"] == "True"
    worse = plan(placed(("east-1",)), replicas=sides(), pair=None)
    assert condition(worse, "Degraded")["reason"] == reasons.PEER_NOT_IN_SYNC


# -- roles, switchover -----------------------------------------------------------------------------


def test_roles_and_epochs_follow_the_record() -> None:
    moved = placed(primary="west-1", status={"replication": record("west-1", epoch=4)})
    made = plan(moved, replicas=sides())
    patches = {a.meta.name: a.patch["spec"] for a in made.actions if isinstance(a, PatchObject)}
    assert patches["v.east-1"]["role"] == "Secondary"
    assert patches["v.west-1"]["role"] == "Primary"
    assert patches["v.west-1"]["replication"]["epoch"] == 4


def swapped(of: Volume, replicas: tuple[VolumeReplica, ...]) -> dict[str, Any] | None:
    found = status(plan(of, replicas=replicas)).get("replication")
    return dict(found) if found else None


def test_a_volume_published_at_the_other_site_moves_when_its_old_primary_let_go() -> None:
    wanted = placed(publishedTo=["west-1"])
    assert swapped(wanted, sides()) == record("west-1", epoch=2, serial=3)
    assert swapped(placed(publishedTo=["east-1"]), sides()) is None


@pytest.mark.parametrize(
    ("in_sync", "east", "east_status", "west"),
    [
        (BOTH, {"role": "Primary"}, {}, {}),
        (BOTH, {}, {"inUse": True}, {}),
        (BOTH, {}, {}, {"disk": "Outdated"}),
        (("east-1",), {}, {}, {}),
    ],
)
def test_a_switchover_waits_until_nothing_can_be_lost(
    in_sync: tuple[str, ...], east: dict[str, Any], east_status: dict[str, Any], west: Any
) -> None:
    wanted = placed(in_sync, publishedTo=["west-1"])
    both = (side("east-1", report=east, status=east_status), side("west-1", report=west))
    assert swapped(wanted, both) is None
    told = condition(plan(wanted, replicas=both), "Progressing")
    assert told["reason"] == reasons.MOVING
    assert told["message"].startswith("moving it from east-1 to west-1 waits: ")


def test_a_move_that_waits_is_told_also_while_the_volume_does_not_serve() -> None:
    wanted = placed(publishedTo=["west-1"])
    both = sides(frozen=True, connection="Connecting", role="Primary")
    told = condition(plan(wanted, replicas=both), "Progressing")
    assert told["message"].startswith("moving it from east-1 to west-1 waits: east-1 still uses")
    assert condition(plan(wanted, replicas=both), "Ready")["status"] == "False"


def test_what_the_pair_s_plan_told_a_replica_does_not_get_lost() -> None:
    told = {"verifyRequest": "2026-01-01T01:00:00Z", "resyncHold": "2026-01-01T00:00:00Z"}
    before = side("east-1").replication
    assert before is not None
    spec = {"replication": {**before.to_dict(), **told, "epoch": 1}}
    moved = placed(status={"replication": record(epoch=7)})
    made = plan(moved, replicas=(side("east-1", spec=spec), side("west-1")))
    patches = {a.meta.name: a.patch["spec"] for a in made.actions if isinstance(a, PatchObject)}
    assert patches["v.east-1"]["replication"].items() >= {**told, "epoch": 7}.items()


def test_a_forced_promotion_takes_a_snapshot_of_what_is_there_first_and_stays_on_record() -> None:
    word = {"node": "west-1", "volumeName": "v"}
    asked = placed(("east-1",), forcePrimary=word)
    gone = {"east-1": NodeEvidence("east-1", expired=True), "west-1": NodeEvidence("west-1")}
    first = plan(asked, replicas=sides(), nodes=gone)
    made = next(a for a in first.actions if isinstance(a, Create))
    assert made.body["metadata"]["annotations"] == {"twinvault.io/holder": "west-1"}
    assert "replication" not in status(first)
    forced = status(plan(asked, replicas=sides(), nodes=gone, rescue=made.name))
    assert forced["replication"] == record("west-1", ("west-1",), epoch=2, serial=3)
    assert forced["forcedPromotions"][0]["snapshot"] == made.name


WORD = {"node": "west-1", "volumeName": "v"}


def test_a_used_force_says_so_and_counts_again_when_it_was_cleared() -> None:
    forced = {"forcePrimaryUsed": "west-1", "replication": record("west-1", ("west-1",), epoch=2)}
    still = plan(placed(forcePrimary=WORD, status=forced), replicas=sides())
    assert "forcePrimaryUsed" not in status(still)
    assert "spec.forcePrimary was carried out" in condition(still, "Ready")["message"]
    diverged = plan(placed(forcePrimary=WORD, status=forced), replicas=sides(diverged=True))
    assert "clear it and set it again" in condition(diverged, "Degraded")["message"]
    cleared = status(plan(placed(status=forced), replicas=sides()))
    assert cleared["forcePrimaryUsed"] is None
    assert "forcePrimaryUsed" not in status(plan(placed(), replicas=sides()))


def test_a_force_that_would_help_nobody_is_refused_with_the_reason_and_the_record_stays() -> None:
    half = {"connection": "Connecting", "disk": "Inconsistent"}
    gone = {"east-1": NodeEvidence("east-1", expired=True), "west-1": NodeEvidence("west-1")}
    own = (side("east-1"), side("west-1", report=half))
    made = plan(placed(("east-1",), forcePrimary=WORD), replicas=own, nodes=gone, rescue="s")
    assert "replication" not in status(made)
    assert creates(made) == {}
    told = condition(made, "Progressing")
    assert (told["status"], told["reason"]) == ("True", reasons.MOVING)
    assert (
        "forcing west-1 to be primary waits: the replica on west-1 is Inconsistent"
        in (told["message"])
    )


@pytest.mark.parametrize("disk", ["Inconsistent", "Outdated", "Diskless"])
def test_a_primary_whose_disk_cannot_serve_is_not_ready(disk: str) -> None:
    alone = {"connection": "Connecting", "disk": disk, "peerDisk": "DUnknown"}
    useless = plan(placed(("east-1",)), replicas=sides(**alone))
    ready = condition(useless, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reasons.DISK_UNUSABLE)
    assert disk in ready["message"]
    through = plan(placed(("west-1",)), replicas=sides(disk=disk))
    assert condition(through, "Ready")["status"] == "True", "the other one's disk serves"


def test_an_outdated_replica_that_a_person_chose_serves() -> None:
    alone = {"connection": "Connecting", "disk": "Outdated", "peerDisk": "DUnknown"}
    chosen = {
        "replication": record("west-1", ("west-1",), epoch=2),
        "forcedPromotions": [{"time": NOW, "node": "west-1", "epoch": 2}],
    }
    made = plan(placed(status=chosen), replicas=sides(**alone))
    assert condition(made, "Ready")["status"] == "True"


# -- growing, letting go ---------------------------------------------------------------------------


def test_both_replicas_grow_or_none() -> None:
    bigger = placed(size_bytes=2 * GIB)
    made = plan(bigger, replicas=sides())
    grown = [a.meta.name for a in made.actions if isinstance(a, PatchObject)]
    assert grown == ["v.east-1", "v.west-1"]
    full = (node("east-1"), node("west-1", promised_bytes=100 * GIB))
    refused = plan(bigger, replicas=sides(), candidates=full)
    assert kinds(refused) == ["PatchStatus"]
    assert condition(refused, "Progressing")["reason"] == reasons.NO_CAPACITY


def test_a_pod_is_promised_the_new_size_only_when_the_device_has_it() -> None:
    """Kubelet asks a node once to grow; a node whose device cannot grow yet has to refuse."""
    asked = placed(size_bytes=2 * GIB)
    images = tuple(replace(r, size_bytes=2 * GIB, status_size_bytes=2 * GIB) for r in sides())

    def report(device_bytes: int) -> Plan:
        own = tuple(
            replace(r, replication_status=replace(r.replication_status, device_bytes=device_bytes))
            for r in images
        )
        return plan(asked, replicas=own)

    waiting = report(GIB)
    assert status(waiting).get("sizeBytes", GIB) == GIB
    assert condition(waiting, "Progressing")["reason"] == reasons.EXPANDING
    grown = report(2 * GIB)
    assert status(grown)["sizeBytes"] == 2 * GIB
    assert condition(grown, "Progressing")["status"] == "False"


def test_deletion_erases_both_also_while_resyncing_then_frees_the_number() -> None:
    going = placed(("east-1",), meta={**KEPT, "deletionTimestamp": NOW})
    made = plan(going, replicas=sides(**RESYNC))
    assert [a.meta.name for a in made.actions if isinstance(a, Delete)] == ["v.east-1", "v.west-1"]
    claim = Claim(0, "v", "uid-v", "uid-c")
    end = plan(going, claims=(claim,))
    assert kinds(end) == ["CheckGone", "CheckGone", "ReleaseNumber", "PatchObject"]


def test_a_removed_replica_is_made_anew_only_when_the_record_does_not_count_on_it() -> None:
    assert creates(plan(placed(), replicas=(side("east-1"),))) == {}
    again = plan(placed(("east-1",)), replicas=(side("east-1"),))
    assert list(creates(again)) == ["v.west-1"]
    assert condition(again, "Degraded")["reason"] == reasons.REPLICA_LOST
    nothing = plan(placed(("east-1",)), replicas=(side("west-1"),))
    assert creates(nothing) == {}
    assert condition(nothing, "Ready")["reason"] == reasons.REPLICA_LOST


def test_a_lost_replica_is_given_up_only_when_the_other_holds_every_write() -> None:
    dying = {"deletionTimestamp": NOW}
    given = side("west-1", meta=dying, spec={"giveUp": "west-1"})
    counted = plan(placed(), replicas=(side("east-1"), given), lost=LOST)
    assert not [a for a in counted.actions if isinstance(a, PatchObject)]
    free = plan(placed(("east-1",)), replicas=(side("east-1"), given), lost=LOST)
    released = [a for a in free.actions if isinstance(a, PatchObject)]
    assert [a.patch for a in released] == [{"metadata": {"finalizers": []}}]
