"""What speaks against a drill, and where a pod may run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.core.drill_courses import DAILY, NOW, condition, last, make, run
from tests.core.drill_world import START, World
from twinvault_core.drill_check import refuse_place, tolerates
from twinvault_core.drill_state import parse_time
from twinvault_core.drill_view import CloseNode, EvictPod
from twinvault_core.failover_view import Policy

# -- refused ---------------------------------------------------------------------------------------


def _alone(world: World) -> None:
    world.volumes["his"].in_sync = {"east-1"}


def _report(**report: Any) -> Any:
    return lambda world: world.volumes["his"].report.update(report)


def _node(**evidence: Any) -> Any:
    def change(world: World) -> None:
        world.nodes["west-1"] = replace(world.nodes["west-1"], **evidence)

    return change


def _kube(**known: Any) -> Any:
    def change(world: World) -> None:
        world.kube["west-1"] = replace(world.kube["west-1"], **known)

    return change


def _pod(**change: Any) -> Any:
    def apply(world: World) -> None:
        pod = world.apps[0].pod
        assert pod is not None
        world.apps[0].pod = replace(pod, **change)

    return apply


def _vol(**change: Any) -> Any:
    def apply(world: World) -> None:
        for name, value in change.items():
            setattr(world.volumes["his"], name, value)

    return apply


def _set(**change: Any) -> Any:
    def apply(world: World) -> None:
        for name, value in change.items():
            setattr(world, name, value)

    return apply


def _not_ready(world: World) -> None:
    told = {"type": "Ready", "status": "False", "reason": "X", "message": "no pool"}
    world.status["conditions"] = [{**told, "lastTransitionTime": "x"}]


TOLERANT = {"tolerations": [{"operator": "Exists"}]}
SNAPSHOT = {"snapshots": {"his"}}
OTHER = {"others": ("campus",)}


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        (_alone, "NotInSync", "west-1 is not in sync"),
        (
            lambda w: w.spec["drill"].update(volumes=[f"v{n}" for n in range(101)]),
            "TooMany",
            "at most 100",
        ),
        (_report(frozen=True), "Frozen", "frozen"),
        (_report(connection="Connecting"), "LinkDown", "Connecting"),
        (_report(resync={"donePercent": 1}), "Resyncing", "resyncs"),
        (_report(disk="Diskless"), "Disk", "Diskless"),
        (_report(diverged=True), "Diverged", "writes of their own"),
        (_vol(force="west-1"), "ForcePending", "asks for west-1"),
        (_vol(phase="Degraded"), "NotReady", "phase is Degraded"),
        (_vol(published="", in_use=False), "NotUsed", "no pod uses it"),
        (_vol(pair="campus"), "NotOfPair", "does not belong"),
        (lambda w: w.spec["drill"].update(volumes=["gone", "his"]), "Unknown", "no such Volume"),
        (_node(expired=True, silent_seconds=7), "NodeLost", "silent for 7 s"),
        (_node(marked=True), "NodeLost", "not trusted"),
        (_node(taints=frozenset({"NoSchedule"})), "NodeLost", "not trusted"),
        (lambda w: w.nodes.pop("west-1"), "NodeLost", "not known"),
        (_kube(unschedulable=True), "Pinned", "cordoned"),
        (_kube(ready=False), "Pinned", "not Ready"),
        (_kube(every_taint=(("gpu", "", "NoSchedule"),)), "Pinned", "taint gpu"),
        (_pod(controller=""), "NoController", "never evicted"),
        (_pod(controller="Job"), "Immovable", "Job"),
        (_pod(controller="DaemonSet"), "Immovable", "DaemonSet"),
        (_pod(foreign=("share",)), "OtherDriver", "share"),
        (_pod(ephemeral=("his",)), "Ephemeral", "deleted with it"),
        (_pod(volumes=("his", "lab")), "NotAllChosen", "volume lab"),
        (_pod(placement=TOLERANT), "Tolerates", "same node"),
        (_pod(placement={"nodeSelector": {"site": "east"}}), "Pinned", "site=east"),
        (_not_ready, "PairNotReady", "no pool"),
        (lambda w: w.spec.update(mode="Async"), "NotSync", "mode Sync"),
    ],
)
def test_it_is_refused_with_the_reason_and_nothing_is_touched(
    change: Any, reason: str, says: str
) -> None:
    world = make(NOW)
    change(world)
    run(world)
    assert last(world)["result"] == "Refused"
    assert last(world)["reason"] == reason
    assert says in last(world)["message"]
    assert "spec.drill.runAt" in condition(world)["message"]
    assert not world.closed
    assert not [e for e in world.effects if isinstance(e, EvictPod | CloseNode)]
    assert world.turn() > 0  # used up: it does not start again by itself
    assert world.results == ["Refused"]


@pytest.mark.parametrize(
    ("change", "back", "reason"),
    [
        (_set(**SNAPSHOT), _set(snapshots=set()), "SnapshotOpen"),
        (_set(**OTHER), _set(others=()), "OtherDrill"),
        (_set(cannot_list=True), _set(cannot_list=False), "PodsUnknown"),
        (_vol(phase="Expanding"), _vol(phase="Ready"), "NotReady"),
        (_node(well_seconds=3.0), _node(well_seconds=99.0), "NodeNotStable"),
        (_report(sync="VerifyS"), _report(sync="Established"), "Verifying"),
        (_pod(ready=False), _pod(ready=True), "PodNotReady"),
        (_vol(published="west-1"), _vol(published="east-1"), "Moving"),
    ],
)
def test_what_passes_by_itself_is_waited_for_inside_the_window(
    change: Any, back: Any, reason: str
) -> None:
    world = make(NOW)
    change(world)
    for _ in range(5):
        world.pass_time(world.turn())
    assert not world.status.get("drill")
    back(world)
    world.turn()
    assert world.status["drill"]["phase"] == "Leaving"
    late = make(NOW)
    change(late)
    for _ in range(600):
        late.pass_time(late.turn())
        if late.results:
            break
    assert (last(late)["result"], last(late)["reason"]) == ("Refused", reason)
    assert parse_time(last(late)["ended"]) - START < timedelta(minutes=15, seconds=5)


def test_with_the_manual_policy_only_a_person_starts_one() -> None:
    world = make({**DAILY, "announceMinutes": 0})
    world.policy = Policy.MANUAL
    run(world, 7200)
    assert last(world)["reason"] == "ManualPolicy"
    world = make(NOW)
    world.policy = Policy.MANUAL
    run(world)
    assert last(world)["result"] == "Succeeded"


def test_volumes_are_chosen_by_their_claims_too() -> None:
    """Names of volumes are made up by the provisioner; a manifest knows the claims."""
    world = make({**NOW, "volumes": ["emr"], "claims": ["his/his", "his/emr"]})
    run(world)
    assert last(world)["result"] == "Succeeded"
    assert [v["volume"] for v in last(world)["volumes"]] == ["emr", "his"]
    world = make({**NOW, "claims": ["his/nothing"]})
    run(world)
    assert "his/nothing: no volume of this pair" in last(world)["message"]


def test_a_pod_with_two_volumes_moves_when_both_are_chosen() -> None:
    world = make({**NOW, "volumes": ["emr", "his"]}, his="east-1", emr="east-1")
    world.apps[0].volumes = ("his", "emr")
    world.apps[0].pod = replace(
        world.apps[0].pod or world._new_pod(world.apps[0]), volumes=("his", "emr")
    )
    world.apps.pop()
    run(world)
    assert last(world)["result"] == "Succeeded"
    assert len([e for e in world.effects if isinstance(e, EvictPod)]) == 2


# -- where pods may run ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toleration", "covers"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v", "effect": "NoExecute"}, False),
        ({"key": "k", "value": "w"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations_are_read_as_the_scheduler_reads_them(
    toleration: dict[str, str], covers: bool
) -> None:
    assert tolerates([toleration], ("k", "v", "NoSchedule")) is covers


@pytest.mark.parametrize(
    ("terms", "fits"),
    [
        ([{"matchExpressions": [{"key": "site", "operator": "In", "values": ["west"]}]}], True),
        ([{"matchExpressions": [{"key": "site", "operator": "In", "values": ["east"]}]}], False),
        ([{"matchExpressions": [{"key": "site", "operator": "NotIn", "values": ["x"]}]}], True),
        ([{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}], False),
        ([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}], True),
        ([{"matchExpressions": [{"key": "disks", "operator": "Gt", "values": ["3"]}]}], True),
        ([{"matchExpressions": [{"key": "disks", "operator": "Lt", "values": ["3"]}]}], False),
        ([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}], False),
        ([{}], False),
        ([{}, {"matchExpressions": [{"key": "site", "operator": "Exists"}]}], True),
    ],
)
def test_required_node_affinity_is_read_as_the_scheduler_reads_it(
    terms: list[dict[str, Any]], fits: bool
) -> None:
    node = replace(World(DAILY).kube["west-1"], labels={"site": "west", "disks": "4"})
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    spec = {"affinity": {"nodeAffinity": required}}
    assert (refuse_place(spec, node) == "") is fits
