"""Drills: how pods are read, and what is done with the API server's answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from twinvault_core.drill_view import EvictPod
from twinvault_core.errors import NotFoundError, TwinvaultError, UnavailableError
from twinvault_core.names import DRIVER_NAME, TAINT_DRILL
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import NODES, Kind
from twinvault_operator.applier import Applier
from twinvault_operator.drill_evidence import find_claims, parse_pods, parse_volumes
from twinvault_operator.drills import Drills
from twinvault_operator.liveness import Liveness
from twinvault_operator.metrics import Metrics
from twinvault_operator.world import World

Json = dict[str, Any]
NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def pv(claim: str, handle: str, driver: str = DRIVER_NAME) -> Json:
    ref = {"namespace": "his", "name": claim}
    spec = {"csi": {"driver": driver, "volumeHandle": handle}, "claimRef": ref}
    return {"metadata": {"name": f"pv-{claim}"}, "spec": spec}


def pod(name: str, *claims: str, **more: Any) -> Json:
    volumes: list[Json] = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims]
    spec = {"nodeName": "east-1", "volumes": volumes, **more.pop("spec", {})}
    meta = {"name": name, "namespace": "his", "uid": f"uid-{name}", **more.pop("meta", {})}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running", **more}}


def test_pods_are_read_with_what_a_drill_asks_about_them() -> None:
    handles = parse_volumes([pv("data", "v1"), pv("share", "x", "nfs"), pv("web-tmp", "v2")])
    assert find_claims(handles, ["v1", "v2", "v3"]) == {"v1": "his/data", "v2": "his/web-tmp"}
    owners = [{"kind": "Node"}, {"kind": "StatefulSet", "controller": True}]
    ending = {
        "deletionTimestamp": "2026-03-01T02:00:30Z",
        "deletionGracePeriodSeconds": 30,
        "ownerReferences": owners,
    }
    temporary = {
        "volumes": [{"name": "tmp", "ephemeral": {"x": 1}}, {"name": "c", "configMap": {}}]
    }
    ready = [{"type": "Ready", "status": "True"}]
    found = parse_pods(
        [
            pod("db", "data", "share", "nothing", meta=ending, conditions=ready),
            pod("web", spec=temporary, conditions=[{"type": "Ready", "status": "False"}]),
            pod("done", "data", phase="Succeeded"),
        ],
        handles,
    )
    assert [p.name for p in found] == ["db", "web"]
    db, web = found
    assert (db.volumes, db.foreign, db.ephemeral) == (("v1",), ("share",), ())
    assert (db.controller, db.ready, db.deleting) == ("StatefulSet", True, True)
    assert db.deleting_since == NOW
    assert (web.volumes, web.ephemeral) == (("v2",), ("v2",))
    assert (web.controller, web.ready, web.deleting_since) == ("", False, None)


class _Kube:
    """Answers evictions with ``error``, and keeps the nodes."""

    def __init__(self) -> None:
        self.error: TwinvaultError | None = None
        self.evicted: list[str] = []
        self.nodes: dict[str, Json] = {}

    async def evict(self, name: str, namespace: str, *, uid: str) -> None:
        self.evicted.append(uid)
        if self.error is not None:
            raise self.error

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        assert kind is NODES
        return self.nodes[name]

    async def patch(self, kind: Kind, name: str, patch: Json, *, resource_version: str) -> Json:
        node = self.nodes[name]
        assert resource_version == node["metadata"]["resourceVersion"]
        meta = {**node["metadata"], "resourceVersion": str(int(resource_version) + 1)}
        self.nodes[name] = {"metadata": meta, "spec": {"taints": patch["spec"]["taints"] or []}}
        return self.nodes[name]


class _Leader:
    def __init__(self) -> None:
        self.leads = True

    def leading(self) -> bool:
        return self.leads


@pytest.fixture
def kube() -> _Kube:
    return _Kube()


@pytest.fixture
def leader() -> _Leader:
    return _Leader()


@pytest.fixture
def drills(kube: _Kube, leader: _Leader) -> Drills:
    world = World(Liveness())
    applier = cast(Applier, leader)
    return Drills(cast(KubeClient, kube), world, applier, Metrics(), lambda: NOW)


@pytest.mark.parametrize(
    ("error", "evicted", "blocked"),
    [
        (None, True, False),
        (NotFoundError("gone"), False, False),
        (ConflictError("another uid"), False, False),
        (UnavailableError("the disruption budget his needs 1"), False, True),
    ],
)
async def test_what_the_api_server_says_to_an_eviction_is_kept(
    kube: _Kube, drills: Drills, error: TwinvaultError | None, evicted: bool, blocked: bool
) -> None:
    kube.error = error
    await drills._evict(EvictPod("his", "db-0", "u1"))
    memory = drills._memory
    assert ("u1" in memory.evictions) is evicted
    assert ("u1" in memory.blocked) is blocked
    assert memory.tried == {"u1": NOW}


async def test_who_does_not_lead_evicts_nobody(
    kube: _Kube, drills: Drills, leader: _Leader
) -> None:
    leader.leads = False
    await drills._evict(EvictPod("his", "db-0", "u1"))
    assert kube.evicted == []


async def test_a_node_that_an_operator_before_us_left_closed_is_opened(
    kube: _Kube, drills: Drills
) -> None:
    other = {"key": "gpu", "effect": "NoSchedule"}
    ours = {"key": TAINT_DRILL, "value": "gone", "effect": "NoSchedule"}
    meta = {"name": "east-1", "uid": "n1", "resourceVersion": "7"}
    kube.nodes["east-1"] = {"metadata": meta, "spec": {"taints": [other, ours]}}
    drills._world.nodes.put(kube.nodes["east-1"])
    await drills.step()
    assert kube.nodes["east-1"]["spec"]["taints"] == [other]
    await drills._set_taint("east-1", "metro")
    closed = {**ours, "value": "metro"}
    assert kube.nodes["east-1"]["spec"]["taints"] == [other, closed]
