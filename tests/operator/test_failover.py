"""Failover: who uses a lost node, when it is asked, what is told; the decisions are core's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast
from unittest.mock import patch

import pytest

from tests.operator.model_api import GIB, ModelApi, ModelOperator
from twinvault_core.actions import REPLICATION_PAIR, VOLUME
from twinvault_core.errors import UnavailableError
from twinvault_core.failover import EMPTY_SECONDS, RESYNCING_CLOSED_SECONDS
from twinvault_core.failover_phases import UNKNOWN, describe_phases, format_moment
from twinvault_core.failover_view import STUCK_AFTER_ATTEMPTS, Retry
from twinvault_core.ids import node_lease_name
from twinvault_core.names import (
    ANNOTATION_LOST,
    DRIVER_NAME,
    TAINT_LOST,
    TAINT_OUT_OF_SERVICE,
    TAINT_RESYNCING,
    TAINT_VALUE,
)
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import LEASES, Kind
from twinvault_operator import failover as runner
from twinvault_operator.announcer import Announcer
from twinvault_operator.evidence import parse_users
from twinvault_operator.failover import Failover
from twinvault_operator.failover_report import FailoverReport
from twinvault_operator.failover_steps import FailoverSteps
from twinvault_operator.metrics import Metrics
from twinvault_operator.work_queue import Key

Json = dict[str, Any]
NODES = ("east-1", "west-1")


# -- who uses volumes on a node --------------------------------------------------------------------


def pv(name: str, handle: str, driver: str = DRIVER_NAME, claim: str = "") -> Json:
    spec: Json = {"csi": {"driver": driver, "volumeHandle": handle}}
    if claim:
        spec["claimRef"] = {"namespace": "his", "name": claim}
    return {"metadata": {"name": name}, "spec": spec}


def pod(name: str, *claims: str, phase: str = "Running", ephemeral: str = "") -> Json:
    volumes: list[Json] = [{"name": c, "persistentVolumeClaim": {"claimName": c}} for c in claims]
    volumes.append({"name": "config", "configMap": {"name": "c"}})
    if ephemeral:
        volumes.append({"name": ephemeral, "ephemeral": {"volumeClaimTemplate": {}}})
    meta = {"name": name, "namespace": "his", "uid": f"uid-{name}"}
    spec = {"nodeName": "east-1", "volumes": volumes}
    return {"metadata": meta, "spec": spec, "status": {"phase": phase}}


def attachment(name: str, of: str, node: str = "east-1", attacher: str = DRIVER_NAME) -> Json:
    source = {"persistentVolumeName": of}
    spec = {"attacher": attacher, "nodeName": node, "source": source}
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "spec": spec}


def test_pods_are_matched_with_volumes_by_their_claims() -> None:
    volumes = [
        pv("pv-1", "v1", claim="data"),
        pv("pv-2", "other", driver="nfs.csi.k8s.io", claim="share"),
        pv("pv-3", "v3", claim="web-scratch"),
        {"metadata": {"name": "local"}, "spec": {"claimRef": {"namespace": "his", "name": "disk"}}},
    ]
    pods = [
        pod("db", "data"),
        pod("mixed", "data", "share"),
        pod("web", ephemeral="scratch"),
        pod("pinned", "disk"),
        pod("unbound", "nothing"),
        pod("done", "data", phase="Succeeded"),
    ]
    users = parse_users("east-1", pods, [], volumes)
    found = {p.name: (p.volumes, p.foreign) for p in users.pods}
    assert found == {
        "db": (("v1",), ()),
        "mixed": (("v1",), ("share",)),
        "web": (("v3",), ()),
        "pinned": ((), ("disk",)),
        "unbound": ((), ()),
    }


def test_attachments_of_other_drivers_and_other_nodes_are_told_apart() -> None:
    volumes = [pv("pv-1", "v1"), pv("pv-2", "x", driver="other")]
    found = parse_users(
        "east-1",
        [],
        [
            attachment("a", "pv-1"),
            attachment("b", "pv-1", node="west-1"),
            attachment("c", "pv-2", attacher="other"),
            attachment("d", "gone"),
        ],
        volumes,
    ).attachments
    assert {a.name: a.volume for a in found} == {"a": "v1", "c": "", "d": ""}


# -- the runner ------------------------------------------------------------------------------------


class _Kube:
    """What the runner calls, over the model. ``refuse``: plurals that do not answer; ``stale``:
    objects that somebody else writes all the time.
    """

    def __init__(self, api: ModelApi) -> None:
        self.api = api
        self.refuse: set[str] = set()
        self.stale: set[str] = set()
        self.calls: list[str] = []

    def _check(self, kind: Kind, verb: str) -> None:
        self.calls.append(f"{verb} {kind.plural}")
        if kind.plural in self.refuse:
            raise UnavailableError(f"{kind.plural}: no answer")

    async def get(self, kind: Kind, name: str, namespace: str | None = None) -> Json:
        self._check(kind, "get")
        return self.api.get(kind.plural, name)

    async def list(self, kind: Kind, **_: str) -> tuple[list[Json], str]:
        self._check(kind, "list")
        return self.api.all(kind.plural), "1"

    async def replace(self, kind: Kind, obj: Json, namespace: str | None = None) -> Json:
        self._check(kind, "replace")
        version = obj["metadata"]["resourceVersion"]
        name = obj["metadata"]["name"]
        return self.api.patch(kind.plural, name, {"spec": obj["spec"]}, resource_version=version)

    async def patch(self, kind: Kind, name: str, patch: Mapping[str, Any], **guards: str) -> Json:
        self._check(kind, "patch")
        return self.api.patch(kind.plural, name, patch, **guards)

    async def patch_status(
        self, kind: Kind, name: str, status: Mapping[str, Any], **guards: str
    ) -> Json:
        self._check(kind, "patch")
        if name in self.stale:
            raise ConflictError("somebody else wrote in between")
        return self.api.patch(kind.plural, name, {"status": status}, **guards)

    async def delete(self, kind: Kind, name: str, *, uid: str = "", **_: Any) -> None:
        self._check(kind, "delete")
        self.api.delete(kind.plural, name, uid)


class _Rig:
    """Volume v is primary at east-1 and in sync at west-1; its pod runs at east-1."""

    def __init__(self) -> None:
        self.api, self.clock, self.leading = ModelApi(), [0.0], True
        for node in NODES:
            self._add_node(node)
        pair: Json = {"clusters": ["east", "west"], "mode": "Sync"}
        pair["failover"] = {"leaseDurationSeconds": 5, "stableSeconds": 0}
        self.api.create("replicationpairs", {"metadata": {"name": "metro"}, "spec": pair})
        self._add_volume()
        self.api.create("pods", pod("db", "data"))
        self.api.create("persistentvolumes", pv("pv-1", "v", claim="data"))
        self.api.create("volumeattachments", attachment("va", "pv-1"))
        self.start_operator()

    def wall(self) -> float:
        return 1_800_000_000.0 + self.clock[0]

    def start_operator(self) -> None:
        """A new process, as after the loss of the leader: it knows what the API has."""
        self.operator = ModelOperator(self.api, self.clock)
        self.kube = _Kube(self.api)
        world, metrics = self.operator.world, Metrics()
        client = cast(KubeClient, self.kube)
        announcer = cast(Announcer, self.operator.announcer)
        world.wall = self.wall
        steps = FailoverSteps(
            client, world, announcer, metrics, "twinvault-system", lambda: self.leading, self.wall
        )
        self.report = FailoverReport(
            world,
            self.operator.queue,
            metrics,
            lambda: self.clock[0],
            lambda: format_moment(self.wall())[:19] + "Z",
            self.wall,
        )
        self.failover = Failover(
            client, world, steps, self.report, lambda: self.leading, "twinvault-system"
        )
        self.operator.triggers.on_volume = self.failover.volume_changed
        self.operator.triggers.on_replica = self.failover.replica_changed
        self.operator.world.attachments.on_change = self.failover.attachment_changed
        self.operator.triggers.on_pair = self.failover.pair_changed
        self.hear_attachments()

    def hear_attachments(self) -> None:
        """The watch of attachments, which leads to no plan of an object's own."""
        for made in self.api.all("volumeattachments"):
            self.operator.world.attachments.put(made)

    def _add_node(self, node: str) -> None:
        self.api.create("nodes", {"metadata": {"name": node}, "spec": {}})
        spec = {"storageCluster": node.partition("-")[0], "pools": []}
        self.api.create("storagenodes", {"metadata": {"name": node}, "spec": spec})
        self.api.create("leases", {"metadata": {"name": node_lease_name(node)}, "spec": {}})

    def add_second(self) -> None:
        """Another node at east with volume w."""
        self._add_node("east-2")
        self._add_volume("w", "east-2")
        self.operator.deliver()

    def _add_volume(self, name: str = "v", east: str = "east-1") -> None:
        spec = {"sizeBytes": GIB, "pool": "fast", "replicationPair": "metro"}
        spec["publishedTo"] = [east]
        nodes = [east, "west-1"]
        record = {"epoch": 1, "serial": 2, "primary": east, "inSync": nodes}
        status = {"sizeBytes": GIB, "placement": {"nodes": nodes}, "replication": record}
        made = self.api.create(
            "volumes", {"metadata": {"name": name}, "spec": spec, "status": status}
        )
        for node, peer in (nodes, nodes[::-1]):
            link = {"minor": 1000, "port": 7000, "address": "a", "peerNode": peer}
            full = {
                "volume": name,
                "volumeUID": made["metadata"]["uid"],
                "nodeName": node,
                "storageCluster": node.partition("-")[0],
                "pool": "fast",
                "sizeBytes": GIB,
                "replication": {**link, "peerAddress": "b"},
            }
            report = {"connection": "Connected", "disk": "UpToDate", "peerDisk": "UpToDate"}
            body = {"metadata": {"name": f"{name}.{node}"}, "spec": full}
            self.api.create("volumereplicas", {**body, "status": {"replication": report}})

    def hear(self, node: str) -> None:
        lease = self.api.patch(
            "leases", node_lease_name(node), {"spec": {"beat": str(self.clock[0])}}
        )
        self.operator.liveness.observe(node_lease_name(node), lease)
        self.failover.lease_heard(node_lease_name(node))

    def pass_time(self, seconds: int, *alive: str) -> None:
        for _ in range(seconds):
            self.clock[0] += 1
            for node in alive:
                self.hear(node)
            self.operator.liveness.contact()

    def cut(self, name: str = "v", connection: str = "WFConnection") -> None:
        """west-1 reports that the link is down."""
        status = {"replication": {"connection": connection}}
        self.api.patch("volumereplicas", f"{name}.west-1", {"status": status})
        self.operator.deliver()

    async def settle(self, until: Callable[[], bool] = lambda: True) -> None:
        """Let the runner do what is due at this moment of its clock. Counted in turns of the loop,
        of which a busy machine makes as many.
        """
        task = asyncio.create_task(self.failover.run())
        turns = 0
        async with asyncio.timeout(30):
            while turns < 30 or not until():
                await asyncio.sleep(0.005)
                turns += 1
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        self.operator.deliver()

    def list_leases(self) -> None:
        """What a process that just started learns; it waits the whole duration from now."""
        self.operator.deliver()
        for lease in self.api.all("leases"):
            self.operator.liveness.observe(lease["metadata"]["name"], lease)

    def tell_pair(self) -> None:
        """As the pair's plan does."""
        news = self.operator.world.pair_news["metro"]["lastFailover"]
        self.api.patch("replicationpairs", "metro", {"status": {"lastFailover": news}})

    def user_comes(self, *what: str) -> None:
        """At west-1 the volume is published, promoted, mounted; as far as ``what`` says."""
        if "publish" in what:
            self.api.patch("volumes", "v", {"spec": {"publishedTo": ["west-1"]}})
        if "attach" in what:
            made = attachment("va-west", "pv-1", node="west-1")
            self.api.create("volumeattachments", {**made, "status": {"attached": True}})
            self.hear_attachments()
        if "promote" in what:
            status: Json = {"replication": {"role": "Primary"}}
            self.api.patch("volumereplicas", "v.west-1", {"status": status})
        if "mount" in what:
            self.api.patch("volumereplicas", "v.west-1", {"status": {"inUse": True}})
        self.operator.deliver()

    def phases(self) -> dict[str, float | None]:
        """Seconds of each phase that is told; None for one that nobody saw."""
        told = self.operator.world.pair_news["metro"]["lastFailover"]["phases"]
        return {p["name"]: p.get("seconds") for p in told}

    def primary(self, name: str = "v") -> str:
        return str(self.api.get("volumes", name)["status"]["replication"]["primary"])


@pytest.fixture
def rig() -> _Rig:
    made = _Rig()
    for node in NODES:
        made.hear(node)
    made.pass_time(2, *NODES)
    return made


async def test_a_lost_primary_is_swapped_marked_tainted_and_emptied(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    assert rig.primary() == "west-1"
    assert rig.api.all("pods") == []
    assert rig.api.all("volumeattachments") == []
    assert not rig.api.get("volumes", "v")["spec"].get("publishedTo")
    assert ANNOTATION_LOST in rig.api.get("storagenodes", "east-1")["metadata"]["annotations"]
    taints = rig.api.get("nodes", "east-1")["spec"]["taints"]
    detaching = [(TAINT_LOST, "NoSchedule"), (TAINT_OUT_OF_SERVICE, "NoSchedule")]
    assert [(t["key"], t["effect"]) for t in taints] == detaching
    rig.pass_time(int(EMPTY_SECONDS), "west-1")
    await rig.settle()
    taints = rig.api.get("nodes", "east-1")["spec"]["taints"]
    evicting = (TAINT_OUT_OF_SERVICE, "NoExecute")
    assert [(t["key"], t["effect"]) for t in taints] == [*detaching, evicting]
    phases = rig.operator.world.pair_news["metro"]["lastFailover"]["phases"]
    assert [p["name"] for p in phases] == ["detect", "fence", "evict"]
    assert phases[0]["seconds"] == 5.0


async def test_the_lost_node_is_closed_before_its_pods_are_ended(rig: _Rig) -> None:
    """Made anew in the moment in which it was deleted, a pod would be sent there again."""
    closed_at_the_end = []

    async def delete(kind: Kind, name: str, **guards: Any) -> None:
        taints = rig.api.get("nodes", "east-1")["spec"].get("taints") or ()
        closed_at_the_end.append([t["effect"] for t in taints])
        rig.api.delete(kind.plural, name, guards.get("uid", ""))

    rig.kube.delete = delete  # type: ignore[method-assign]
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    assert closed_at_the_end
    assert all("NoSchedule" in effects for effects in closed_at_the_end)


async def test_a_race_for_the_node_object_does_not_leave_it_open(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is written first, and a node that is marked is not marked again."""
    lost, patch = 0, rig.kube.patch

    async def patch_late(kind: Kind, name: str, body: Mapping[str, Any], **guards: str) -> Json:
        nonlocal lost
        if kind.plural == "nodes" and lost < 2:
            lost += 1
            raise ConflictError("the Node was written in between")
        return await patch(kind, name, body, **guards)

    monkeypatch.setattr(rig.kube, "patch", patch_late)
    # With another driver's volume there, no later taint closes the node.
    rig.api.create("volumeattachments", attachment("nfs", "pv-2", attacher="other"))
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    assert lost == 2
    assert rig.primary() == "west-1"
    taints = rig.api.get("nodes", "east-1")["spec"]["taints"]
    assert [(t["key"], t["effect"]) for t in taints] == [(TAINT_LOST, "NoSchedule")]


async def test_the_leads_that_were_lost_with_a_node_are_free_at_once(rig: _Rig) -> None:
    for name, holder in (("attacher", "db"), ("resizer", "another-pod"), ("free", "")):
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 8}
        rig.api.create("leases", {"metadata": {"name": name}, "spec": spec})
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    holders = {
        n: rig.api.get("leases", n)["spec"]["holderIdentity"] for n in ("attacher", "resizer")
    }
    assert holders == {"attacher": "", "resizer": "another-pod"}


async def test_nothing_is_done_a_moment_before_the_lease_ran_out(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(4, "west-1")
    await rig.settle()
    assert rig.primary() == "east-1"
    assert not [c for c in rig.kube.calls if not c.startswith("get")]


async def test_a_standby_does_nothing(rig: _Rig) -> None:
    rig.leading = False
    rig.cut()
    rig.pass_time(9, "west-1")
    await rig.settle()
    assert rig.kube.calls == []


async def test_without_a_read_that_proves_the_silence_nothing_moves(rig: _Rig) -> None:
    rig.kube.refuse.add(LEASES.plural)
    rig.cut()
    rig.pass_time(9, "west-1")
    await rig.settle()
    assert rig.primary() == "east-1"


async def test_a_lease_that_was_renewed_unheard_is_found_by_the_read(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(9, "west-1")
    rig.api.patch("leases", node_lease_name("east-1"), {"spec": {"beat": "unheard"}})
    await rig.settle()
    assert rig.primary() == "east-1"


async def test_a_silent_agent_with_its_link_up_is_left_alone(rig: _Rig) -> None:
    rig.pass_time(9, "west-1")
    await rig.settle()
    assert rig.primary() == "east-1"
    assert "does not report its link down" in rig.operator.world.failover_waits["v"]
    assert len(rig.api.all("pods")) == 1


async def test_a_swap_that_met_another_writer_is_planned_anew_at_once(rig: _Rig) -> None:
    rig.cut()
    rig.api.patch("volumes", "v", {"status": {"usedBytes": 1}})  # not delivered: we are behind
    rig.pass_time(5, "west-1")
    await rig.settle()
    assert rig.primary() == "west-1"


async def test_what_the_record_says_by_now_counts_not_what_we_remember(rig: _Rig) -> None:
    rig.cut()
    alone = {"epoch": 1, "serial": 3, "primary": "east-1", "inSync": ["east-1"]}
    rig.api.patch("volumes", "v", {"status": {"replication": alone}})  # not delivered
    rig.pass_time(5, "west-1")
    await rig.settle()
    assert rig.primary() == "east-1"
    assert len(rig.api.all("pods")) == 1


# -- a decision that is old when it is carried out -------------------------------------------------


def come_back(rig: _Rig) -> None:
    """The volume is primary at east-1 again; our watch does not tell of it."""
    record = {"epoch": 3, "serial": 9, "primary": "east-1", "inSync": ["east-1"]}
    rig.api.patch("volumes", "v", {"status": {"replication": record}})


async def test_a_leader_that_slept_ends_nothing_of_a_volume_that_came_back(rig: _Rig) -> None:
    """1. It plans to end the pod, and is stopped. 2. The record moves back. 3. It wakes."""
    list_all = rig.kube.list

    async def list_and_sleep(kind: Kind, **fields: str) -> tuple[list[Json], str]:
        found = await list_all(kind, **fields)
        if kind.plural == "pods" and rig.primary() == "west-1":
            come_back(rig)
        return found

    with patch.object(rig.kube, "list", list_and_sleep):
        rig.cut()
        rig.pass_time(5, "west-1")
        await rig.settle()
    assert rig.primary() == "east-1"
    assert len(rig.api.all("pods")) == 1
    assert len(rig.api.all("volumeattachments")) == 1
    assert rig.api.get("volumes", "v")["spec"]["publishedTo"] == ["east-1"]


async def test_a_leader_that_lost_its_lead_before_the_last_look_ends_nothing(rig: _Rig) -> None:
    get = rig.kube.get

    async def get_and_sleep(kind: Kind, name: str, namespace: str | None = None) -> Json:
        found = await get(kind, name, namespace)
        rig.leading = rig.leading and kind.plural != "volumes"
        return found

    with patch.object(rig.kube, "get", get_and_sleep):
        rig.cut()
        rig.pass_time(5, "west-1")
        await rig.settle()
    assert rig.primary() == "west-1"
    assert not rig.leading
    assert len(rig.api.all("pods")) == 1
    assert len(rig.api.all("volumeattachments")) == 1


# -- what a person hears of it ---------------------------------------------------------------------


async def test_who_was_ended_is_told_where_its_volume_is_now(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    told = {t.kind: t for t in rig.operator.announcer.told if t.reason == "Failover"}
    assert (told["Pod"].meta.namespace, told["Pod"].meta.name) == ("his", "db")
    assert told["Pod"].warning
    assert all(w in told["Pod"].message for w in ("east-1", "Volume v", "west-1"))
    assert "VolumeAttachment va" in told["Volume"].message


async def test_what_fails_again_and_again_is_told_until_it_is_done(
    rig: _Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "choose_retry", lambda attempt: Retry(attempt, 0.0))
    rig.kube.refuse.add("volumes")
    rig.cut()
    rig.pass_time(5, "west-1")
    stuck = rig.operator.world.failover_stuck
    await rig.settle(lambda: bool(stuck.get(("v", "east-1"))))
    assert "moving the primary from east-1 to west-1 failed" in stuck["v", "east-1"]
    assert "volumes: no answer" in rig.operator.world.observe_volume("v").stuck
    told = [t for t in rig.operator.announcer.told if t.reason == "FailoverStuck"]
    assert [(t.kind, t.warning) for t in told] == [("Volume", True)]
    assert f"failed {STUCK_AFTER_ATTEMPTS} times" in told[0].message
    rig.kube.refuse.clear()
    rig.pass_time(1, "west-1")
    rig.failover.look_at(["east-1"])  # the model ended its task in the middle
    await rig.settle()
    assert rig.primary() == "west-1"
    assert rig.operator.world.observe_volume("v").stuck == ""


# -- the way back ----------------------------------------------------------------------------------


def taints(rig: _Rig) -> list[tuple[str, str]]:
    found = rig.api.get("nodes", "east-1")["spec"].get("taints") or ()
    return [(t["key"], t["effect"]) for t in found]


async def lose_and_return(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    rig.pass_time(3, *NODES)
    await rig.settle()


async def resync(rig: _Rig) -> None:
    record = {"epoch": 2, "serial": 9, "primary": "west-1", "inSync": [*NODES]}
    rig.api.patch("volumes", "v", {"status": {"replication": record}})
    rig.operator.deliver()
    await rig.settle()


async def test_a_returned_node_is_used_again_when_its_volumes_are_in_sync(rig: _Rig) -> None:
    await lose_and_return(rig)
    assert taints(rig) == [(TAINT_RESYNCING, "NoSchedule")]
    annotations = rig.api.get("storagenodes", "east-1")["metadata"].get("annotations") or {}
    assert ANNOTATION_LOST not in annotations
    await resync(rig)
    assert taints(rig) == []


async def test_a_new_operator_goes_on_with_a_node_that_resyncs(rig: _Rig) -> None:
    await lose_and_return(rig)
    await new_leader(rig)
    rig.pass_time(2, *NODES)
    await rig.settle()
    assert taints(rig) == [(TAINT_RESYNCING, "NoSchedule")]
    rig.pass_time(int(RESYNCING_CLOSED_SECONDS), *NODES)
    await rig.settle()
    assert taints(rig) == [(TAINT_RESYNCING, "PreferNoSchedule")]
    await resync(rig)
    assert taints(rig) == []


async def test_a_node_without_replicas_is_opened_by_whoever_leads(rig: _Rig) -> None:
    """An operator that was killed may have left it; nothing else will ever tell of that node."""
    ours = {"key": TAINT_RESYNCING, "value": TAINT_VALUE, "effect": "NoSchedule"}
    theirs = {"key": "dedicated", "value": "his", "effect": "NoSchedule"}
    made = {"metadata": {"name": "old"}, "spec": {"taints": [theirs, ours]}}
    rig.api.create("nodes", made)
    await new_leader(rig)
    rig.pass_time(16, *NODES)
    await rig.settle()
    assert rig.api.get("nodes", "old")["spec"]["taints"] == [theirs]


# -- what is told of it, whoever leads -------------------------------------------------------------


async def new_leader(rig: _Rig, after_seconds: int = 0) -> None:
    rig.clock[0] += after_seconds
    rig.start_operator()
    rig.list_leases()
    await rig.settle()


async def test_a_leader_that_was_lost_right_after_the_swap_loses_no_figure(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    rig.kube.refuse |= {"pods", "volumeattachments"}
    await rig.settle()
    assert rig.primary() == "west-1"
    assert len(rig.api.all("pods")) == 1
    await new_leader(rig, after_seconds=2)
    rig.pass_time(7, "west-1")
    await rig.settle()
    assert rig.api.all("pods") == []
    rig.pass_time(1, "west-1")
    rig.user_comes("publish")
    rig.pass_time(3, "west-1")
    rig.user_comes("attach")
    rig.pass_time(2, "west-1")
    rig.user_comes("promote")
    rig.pass_time(1, "west-1")
    rig.user_comes("mount")
    told = rig.phases()
    assert told["detect"] == 5.0
    assert told["fence"] == 0.0
    assert told["evict"] == 9.0
    assert (told["reschedule"], told["attach"]) == (1.0, 3.0)
    assert (told["promote"], told["mount"]) == (2.0, 1.0)
    assert told["total"] == 21.0


async def test_a_phase_that_ended_while_nobody_led_is_unknown_and_never_wrong(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    rig.tell_pair()
    before = rig.phases()
    rig.user_comes("publish", "attach", "promote")
    await new_leader(rig, after_seconds=3)
    rig.pass_time(2, "west-1")
    rig.user_comes("mount")
    told = rig.phases()
    assert {name: told[name] for name in before} == before
    assert [told[n] for n in ("reschedule", "attach", "promote", "mount")] == [None] * 4
    assert told["total"] == 10.0


async def test_an_attachment_that_nobody_saw_is_unknown_and_holds_nothing_up(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    rig.pass_time(1, "west-1")
    rig.user_comes("publish", "promote")
    rig.pass_time(2, "west-1")
    rig.user_comes("mount")
    told = rig.phases()
    assert (told["reschedule"], told["attach"], told["promote"]) == (1.0, None, None)
    assert (told["mount"], told["total"]) == (2.0, 8.0)


async def test_only_the_attachment_of_that_volume_at_the_new_node_ends_the_phase(
    rig: _Rig,
) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    rig.user_comes("publish")
    others = (
        attachment("of-another", "pv-2", node="west-1"),
        attachment("elsewhere", "pv-1"),
        attachment("not-ours", "pv-1", node="west-1", attacher="other"),
        attachment("not-done", "pv-1", node="west-1"),
    )
    for made in others:
        done = made["metadata"]["name"] != "not-done"
        rig.api.create("volumeattachments", {**made, "status": {"attached": done}})
    rig.hear_attachments()
    rig.pass_time(2, "west-1")
    rig.user_comes("attach", "promote", "mount")
    told = rig.phases()
    assert (told["reschedule"], told["attach"], told["promote"]) == (0.0, 2.0, 0.0)


async def test_an_eviction_that_a_lost_leader_finished_but_did_not_tell_is_unknown(
    rig: _Rig,
) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    await new_leader(rig, after_seconds=3)
    rig.pass_time(7, "west-1")
    await rig.settle()
    told = rig.phases()
    assert told["detect"] == 5.0
    assert told["evict"] is None


async def test_what_was_told_to_its_end_is_not_begun_again(rig: _Rig) -> None:
    rig.cut()
    rig.pass_time(5, "west-1")
    await rig.settle()
    rig.user_comes("publish", "attach", "promote", "mount")
    rig.tell_pair()
    assert "total" in rig.phases()
    await new_leader(rig)
    assert "metro" not in rig.operator.world.pair_news


def test_clocks_that_disagree_make_a_phase_unknown_not_negative() -> None:
    told = describe_phases(100.0, [("detect", 105.0), ("fence", 90.0)], complete=False)
    assert [p.get("seconds") for p in told] == [5.0, None]
    told = describe_phases(100.0, [("detect", 105.0), ("fence", UNKNOWN)], complete=True)
    assert [(p["name"], p.get("seconds")) for p in told] == [
        ("detect", 5.0),
        ("fence", None),
        ("total", None),
    ]


# -- what a person changes reaches the volumes that live -------------------------------------------


def test_a_changed_pair_or_pool_is_told_to_the_volumes_that_live(rig: _Rig) -> None:
    pool = {"name": "fast", "devices": {"paths": ["/dev/vdb"]}}
    spec = {"nodeSelector": {"matchLabels": {"site": "east"}}, "pools": [pool]}
    rig.api.create("storageclusters", {"metadata": {"name": "east"}, "spec": spec})
    changes: tuple[tuple[str, str, Json], ...] = (
        ("replicationpairs", "metro", {"network": {"roundTripMilliseconds": 7}}),
        ("storageclusters", "east", {"pools": [{**pool, "alExtents": 100}]}),
    )
    for plural, name, changed in changes:
        rig.operator.deliver()
        rig.operator.queue.due.clear()
        rig.api.patch(plural, name, {"spec": changed})
        rig.operator.deliver()
        assert Key(VOLUME, "v") in rig.operator.queue.due, plural


def test_a_changed_priority_is_looked_at_by_the_pair(rig: _Rig) -> None:
    rig.operator.queue.due.clear()
    rig.api.patch("volumes", "v", {"spec": {"resyncPriority": 3}})
    rig.operator.deliver()
    assert Key(REPLICATION_PAIR, "metro") in rig.operator.queue.due
