"""Two operators with stale caches, agents, users and kills in any order: the invariants hold."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection
from typing import Any

import pytest

from tests.operator.fake_drbd import next_record, report_replication
from tests.operator.model_api import GIB, KilledError, ModelApi, ModelOperator
from twinvault_core.errors import AlreadyExistsError, NotFoundError
from twinvault_core.model import ReplicationRecord
from twinvault_core.names import ANNOTATION_GIVE_UP, FINALIZER_VOLUME
from twinvault_operator.work_queue import Key

NODES = ("east-1", "west-1")
ADDRESSES = {"east-1": "10.0.0.1", "west-1": "10.0.0.2"}
POOL_BYTES = 20 * GIB
NAMES = ("a", "a", "b", "c", "r", "q")
REPLICATED = ("r", "q")
"""Volumes of these names ask for a ReplicationPair."""
STEPS = 250
SEEDS = int(os.environ.get("TWINVAULT_SEEDS", "40"))

Json = dict[str, Any]


class Interleavings:
    """Every public method is one step of somebody; ``random`` chooses."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.api = ModelApi()
        self.clock = [0.0]
        self.renewals = 0
        self.lost: set[str] = set()
        self.ever_lost: set[str] = set()
        self.erasing: set[str] = set()
        for node in NODES:
            site = node.partition("-")[0]
            labels = {"metadata": {"name": node, "labels": {"site": site}}}
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            ready["addresses"] = [{"type": "InternalIP", "address": ADDRESSES[node]}]
            self.api.create("nodes", {**labels, "status": ready})
            spec = {
                "nodeSelector": {"matchLabels": {"site": site}},
                "pools": [{"name": "fast", "devices": {"paths": ["/dev/vdb"]}}],
            }
            self.api.create("storageclusters", {"metadata": {"name": site}, "spec": spec})
        pair = {"clusters": ["east", "west"], "mode": "Sync"}
        self.api.create("replicationpairs", {"metadata": {"name": "metro"}, "spec": pair})
        self.api.on_store = self._check_store
        self.operators = [ModelOperator(self.api, self.clock) for _ in range(2)]
        self.operators[0].settle()
        for node in NODES:
            self.report_pools(node)
        self.agents_renew()
        for operator in self.operators:
            operator.settle()

    def report_pools(self, node: str) -> None:
        pool = {
            "name": "fast",
            "state": "Ready",
            "sizeBytes": POOL_BYTES,
            "usedBytes": 0,
            "freeBytes": POOL_BYTES,
        }
        status = {"pools": [pool], "replication": {"available": True}}
        self.api.patch("storagenodes", node, {"status": status})

    # -- users ---------------------------------------------------------------------------------

    def create_volume(
        self,
        name: str,
        size: int,
        where: str,
        finalizer: bool,
        seen: bool,
        source: str,
        origin: str,
    ) -> None:
        spec: Json = {"sizeBytes": size * GIB, "pool": "fast"}
        if where:
            spec["storageCluster"] = where
        if name in REPLICATED:
            spec["replicationPair"] = "metro"
        if source:
            spec["source"] = {source: origin if source == "volume" else f"s-{origin}"}
        metadata: Json = {"name": name}
        if finalizer:
            metadata["finalizers"] = [FINALIZER_VOLUME]
        try:
            self.api.create("volumes", {"metadata": metadata, "spec": spec})
        except AlreadyExistsError:
            return
        if seen:
            for operator in self.operators:
                operator.deliver()

    def delete_volume(self, name: str) -> None:
        self._try(self.api.delete, "volumes", name)

    def publish(self, name: str, node: str) -> None:
        """As ControllerPublish does: only a living volume, only where its replica is ready."""
        volume = self.api.objects.get(("volumes", name))
        if volume is None or volume["metadata"].get("deletionTimestamp"):
            return
        replica = self.api.objects.get(("volumereplicas", f"{name}.{node}"))
        if replica is not None and (replica.get("status") or {}).get("state") == "Ready":
            self._try(self.api.patch, "volumes", name, {"spec": {"publishedTo": [node]}})

    def unpublish(self, name: str) -> None:
        for node in NODES:
            self._try(
                self.api.patch, "volumereplicas", f"{name}.{node}", {"status": {"inUse": False}}
            )
        self._try(self.api.patch, "volumes", name, {"spec": {"publishedTo": []}})

    def expand(self, name: str, more: int) -> None:
        volume = self.api.objects.get(("volumes", name))
        if volume is not None:
            size = volume["spec"]["sizeBytes"] + more * GIB
            self.api.patch("volumes", name, {"spec": {"sizeBytes": size}})

    def create_snapshot(self, name: str) -> None:
        body = {"metadata": {"name": f"s-{name}"}, "spec": {"volume": name}}
        try:
            self.api.create("snapshots", body)
        except AlreadyExistsError:
            return

    def delete_snapshot(self, name: str) -> None:
        self._try(self.api.delete, "snapshots", f"s-{name}")

    def give_up(self, name: str, node: str) -> None:
        self._try(self.api.patch, "volumereplicas", f"{name}.{node}", {"spec": {"giveUp": node}})
        patch = {"metadata": {"annotations": {ANNOTATION_GIVE_UP: node}}}
        self._try(self.api.patch, "snapshots", f"s-{name}", patch)

    # -- nodes and agents ------------------------------------------------------------------------

    def lose(self, node: str) -> None:
        self.lost.add(node)
        self.ever_lost.add(node)
        for _ in range(6):
            self.clock[0] += 2
            self.agents_renew()

    def return_(self, node: str) -> None:
        self.lost.discard(node)
        self.agents_renew()

    def agents_renew(self) -> None:
        self.renewals += 1
        for operator in self.operators:
            operator.hear_anything()
            for node in NODES:
                if node not in self.lost:
                    operator.hear(node, self.renewals)
            for node in operator.liveness.find_changes(NODES):
                operator.triggers.add_node(node)

    def agent_works(self, name: str, node: str, fails: bool) -> None:
        if node not in self.lost:
            self._work(f"{name}.{node}", fails)
            self._copy(f"s-{name}", node)

    def stage(self, name: str, node: str) -> None:
        volume = self.api.objects.get(("volumes", name))
        if volume and node in (volume["spec"].get("publishedTo") or ()) and node not in self.lost:
            self._try(
                self.api.patch, "volumereplicas", f"{name}.{node}", {"status": {"inUse": True}}
            )

    def _work(self, name: str, fails: bool = False) -> None:
        replica = self.api.objects.get(("volumereplicas", name))
        if replica is None:
            return
        if replica["metadata"].get("deletionTimestamp"):
            if not (replica.get("status") or {}).get("inUse"):
                self.api.patch("volumereplicas", name, {"metadata": {"finalizers": []}})
            return
        state = {"state": "Ready", "sizeBytes": replica["spec"]["sizeBytes"]}
        if fails and not (replica.get("status") or {}).get("sizeBytes"):
            state = {"state": "Failed", "message": "no luck"}
        peer = self._find_peer(replica)
        if replica["spec"].get("replication"):
            record = self._record_of(replica)
            now = {**replica, "status": {**(replica.get("status") or {}), **state}}
            volume = self.api.objects.get(("volumes", replica["spec"]["volume"])) or {}
            ready = bool((volume.get("status") or {}).get("sizeBytes"))
            state["replication"] = report_replication(now, peer, record, was_ready=ready)
        self.api.patch("volumereplicas", name, {"status": state})
        self._write_record(name, peer)

    def _find_peer(self, replica: Json) -> Json | None:
        node = (replica["spec"].get("replication") or {}).get("peerNode")
        peer = self.api.objects.get(("volumereplicas", f"{replica['spec']['volume']}.{node}"))
        same = peer is not None and peer["spec"]["volumeUID"] == replica["spec"]["volumeUID"]
        return peer if same else None

    def _record_of(self, replica: Json) -> ReplicationRecord | None:
        volume = self.api.objects.get(("volumes", replica["spec"]["volume"]))
        if volume is None or volume["metadata"]["uid"] != replica["spec"]["volumeUID"]:
            return None
        return ReplicationRecord.parse((volume.get("status") or {}).get("replication"))

    def _write_record(self, name: str, peer: Json | None) -> None:
        """The primary's agent adds and drops its peer."""
        replica = self.api.objects.get(("volumereplicas", name))
        record = self._record_of(replica) if replica is not None else None
        if replica is None or record is None:
            return
        after = next_record(replica, peer, record)
        if after is not None:
            status = {"replication": after.to_dict()}
            self.api.patch("volumes", replica["spec"]["volume"], {"status": status})

    def _copy(self, name: str, node: str) -> None:
        snapshot = self.api.objects.get(("snapshots", name))
        if snapshot is None or f"holder.twinvault.io/{node}" not in snapshot["metadata"].get(
            "labels", {}
        ):
            return
        gone = bool(snapshot["metadata"].get("deletionTimestamp"))
        holders = [dict(h) for h in snapshot["status"]["holders"]]
        for holder in holders:
            if holder["node"] == node:
                holder["state"] = "Erased" if gone else "Ready"
        self.api.patch("snapshots", name, {"status": {"holders": holders}})

    # -- operators -------------------------------------------------------------------------------

    def work_off(self, who: int) -> None:
        """Operator and agents, until nothing is due."""
        self._settle_all(self.operators[who], self.lost)

    def deliver(self, who: int, count: int) -> None:
        self.operators[who].deliver(count)

    def reconcile(self, who: int, kind: str, name: str, kill_at: int | None) -> None:
        """With whatever it knows; a killed one starts again from lists."""
        key = Key(kind, name if kind == "Volume" else f"s-{name}")
        try:
            self.operators[who].reconcile(key, kill_at)
        except KilledError:
            self.operators[who].close()
            self.operators[who] = ModelOperator(self.api, self.clock)

    def send_next_request(self, who: int, kind: str, name: str) -> None:
        """One request of a plan; the next one is under way for as long as it takes."""
        key = Key(kind, name if kind == "Volume" else f"s-{name}")
        self.operators[who].step(key, slow=True)

    def _check_store(self, plural: str, event: str, obj: Json) -> None:
        """At the moment of a write, not only after a rule."""
        if plural == "volumes" and event == "DELETED":
            uid = obj["metadata"]["uid"]
            left = [r for r in self.api.all("volumereplicas") if r["spec"]["volumeUID"] == uid]
            assert not [r for r in left if r.get("status")], "data outlived its Volume"
        if plural == "snapshots" and event == "DELETED":
            labels = obj["metadata"].get("labels") or {}
            for holder in (obj.get("status") or {}).get("holders") or ():
                told = f"holder.twinvault.io/{holder['node']}" in labels
                lost = holder["node"] in self.ever_lost
                assert not told or lost or holder["state"] == "Erased", (
                    "a copy outlived its Snapshot"
                )
        if plural == "volumereplicas" and event == "MODIFIED":
            self._check_erasure(obj)

    def _check_erasure(self, replica: Json) -> None:
        name, status = replica["metadata"]["name"], replica.get("status") or {}
        if not replica["metadata"].get("deletionTimestamp") or name in self.erasing:
            return
        self.erasing.add(name)
        volume = self.api.objects.get(("volumes", replica["spec"]["volume"]))
        if volume is None or volume["metadata"]["uid"] != replica["spec"]["volumeUID"]:
            assert not status.get("sizeBytes"), "data without a Volume was erased"
            return
        assert volume["metadata"].get("deletionTimestamp"), "a living volume's data was erased"
        assert not volume["spec"].get("publishedTo"), "erased while published"
        given_up = replica["spec"].get("giveUp") and self.ever_lost
        assert given_up or not status.get("inUse"), "erased while in use"

    # -- what always holds -------------------------------------------------------------------------

    def one_replica_where_the_record_says(self) -> None:
        for replica in self.api.all("volumereplicas"):
            volume = self.api.objects.get(("volumes", replica["spec"]["volume"]))
            if volume is None or volume["metadata"]["uid"] != replica["spec"]["volumeUID"]:
                continue
            nodes = volume["status"]["placement"]["nodes"]
            assert replica["spec"]["nodeName"] in nodes
            assert len(nodes) == (2 if volume["metadata"]["name"] in REPLICATED else 1)
            assert volume["status"]["replication"]["primary"] in nodes
            assert FINALIZER_VOLUME in volume["metadata"]["finalizers"]

    def no_two_volumes_have_one_device_number(self) -> None:
        """Whoever it was made by; what lives on a node is what counts."""
        owners: dict[int, str] = {}
        for replica in self.api.all("volumereplicas"):
            told, uid = replica["spec"].get("replication"), replica["spec"]["volumeUID"]
            if told is not None and replica.get("status"):
                assert owners.setdefault(told["minor"], uid) == uid
                assert told["port"] - 7000 == told["minor"] - 1000

    def a_replica_that_was_ready_is_never_made_again(self) -> None:
        """A new one would be empty and look like the old one."""
        ready: dict[str, str] = {}
        for plural, _, obj in self.api.history:
            if obj["metadata"]["name"].partition(".")[0] in REPLICATED:
                continue
            if plural == "volumereplicas" and (obj.get("status") or {}).get("sizeBytes"):
                uid = obj["spec"]["volumeUID"]
                assert ready.setdefault(uid, obj["metadata"]["uid"]) == obj["metadata"]["uid"]

    def remove_replica_by_hand(self, name: str, node: str) -> None:
        """A mistake of a person: the data is gone, and it must show."""
        replica = f"{name}.{node}"
        self.erasing.add(replica)
        self._try(self.api.delete, "volumereplicas", replica)

    def no_pool_promises_more_than_it_has_by_one_operator_slip(self) -> None:
        for node in NODES:
            promised = sum(
                r["spec"]["sizeBytes"]
                for r in self.api.all("volumereplicas")
                if r["spec"]["nodeName"] == node
            )
            # Two operators that do not see one another may each promise the rest once.
            assert promised <= 2 * POOL_BYTES

    def teardown(self) -> None:
        """One operator, healthy agents: everything gets ready or says why, then goes."""
        self.lost.clear()
        for slow in self.operators:
            slow.close()
        operator = ModelOperator(self.api, self.clock)
        self.operators = [operator]
        self._settle_all(operator)
        for volume in self.api.all("volumes"):
            conditions = {c["type"]: c for c in volume["status"]["conditions"]}
            assert conditions["Ready"]["message"], volume
            if not volume["metadata"].get("deletionTimestamp"):
                ready = volume["status"]["phase"] in ("Ready", "Expanding")
                reason = conditions["Ready"]["reason"]
                # One that a person removed while it was in use goes when its pod does.
                reason = conditions["Degraded"]["reason"] if reason == "Ready" else reason
                assert ready or reason in ("NotPlaced", "ReplicaLost")
        for plural in ("volumes", "snapshots", "volumereplicas"):
            for obj in self.api.all(plural):
                self.api.patch(plural, obj["metadata"]["name"], {"status": {"inUse": False}})
                if plural == "volumes":
                    name = obj["metadata"]["name"]
                    self.api.patch(plural, name, {"spec": {"publishedTo": []}})
                self.erasing.add(obj["metadata"]["name"])
                self._try(self.api.delete, plural, obj["metadata"]["name"])
        self.api.delete("replicationpairs", "metro")
        for cluster in self.api.all("storageclusters"):
            self._try(self.api.delete, "storageclusters", cluster["metadata"]["name"])
        self._settle_all(operator)
        left = [key for key in self.api.objects if key[0] != "nodes"]
        assert not left, left

    def _settle_all(self, operator: ModelOperator, lost: Collection[str] = ()) -> None:
        for _ in range(30):
            before = len(self.api.history)
            self.agents_renew()
            operator.settle()
            for replica in self.api.all("volumereplicas"):
                if replica["spec"]["nodeName"] not in lost:
                    self._work(replica["metadata"]["name"])
            for snapshot in self.api.all("snapshots"):
                for node in set(NODES) - set(lost):
                    self._copy(snapshot["metadata"]["name"], node)
            operator.settle()
            if len(self.api.history) == before:
                return
        raise AssertionError("agents and operator never come to rest")

    @staticmethod
    def _try(call: Any, *args: Any) -> None:
        try:
            call(*args)
        except NotFoundError:
            return

    # -- the walk ----------------------------------------------------------------------------------

    def walk(self) -> None:
        """STEPS steps, the invariants after each; the trace is in the error."""
        trace: list[str] = []
        weights = [weight for weight, _, _ in self._moves()]
        try:
            for _ in range(STEPS):
                _, name, choose = self.random.choices(self._moves(), weights)[0]
                arguments = choose()
                trace.append(f"{name}{arguments}")
                getattr(self, name)(*arguments)
                self.one_replica_where_the_record_says()
                self.no_pool_promises_more_than_it_has_by_one_operator_slip()
                self.no_two_volumes_have_one_device_number()
            self.a_replica_that_was_ready_is_never_made_again()
            self.teardown()
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *trace[-60:]])) from error

    def _moves(self) -> list[tuple[float, str, Callable[[], tuple[Any, ...]]]]:
        pick = self.random.choice

        def name() -> str:
            return pick(NAMES)

        def node() -> str:
            return pick(NODES)

        def who() -> int:
            return self.random.randrange(2)

        def kind() -> str:
            return pick(("Volume", "Volume", "Snapshot"))

        return [
            (5, "create_volume", self._choose_volume),
            (1, "delete_volume", lambda: (name(),)),
            (4, "publish", lambda: (name(), node())),
            (4, "stage", lambda: (name(), node())),
            (2, "unpublish", lambda: (name(),)),
            (1, "expand", lambda: (name(), self.random.randint(1, 8))),
            (2, "create_snapshot", lambda: (name(),)),
            (1, "delete_snapshot", lambda: (name(),)),
            (0.5, "give_up", lambda: (name(), node())),
            (0.3, "lose", lambda: (node(),)),
            (1, "return_", lambda: (node(),)),
            (1, "agents_renew", tuple),
            (8, "agent_works", lambda: (name(), node(), self.random.random() < 0.05)),
            (2, "work_off", lambda: (who(),)),
            (6, "deliver", lambda: (who(), self.random.randint(1, 6))),
            (4, "reconcile", lambda: (who(), kind(), name(), pick((None, 0, 1, 2)))),
            (12, "send_next_request", lambda: (who(), kind(), name())),
            (0.1, "remove_replica_by_hand", lambda: (name(), node())),
        ]

    def _choose_volume(self) -> tuple[Any, ...]:
        chance, pick = self.random.random, self.random.choice
        return (
            pick(NAMES),
            self.random.randint(1, 6),
            pick(("", "", "", "east", "west", "north")),
            chance() < 0.7,
            chance() < 0.6,
            pick(("", "", "", "volume", "snapshot")),
            pick(NAMES),
        )


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_interleaving_loses_or_doubles_a_volume(seed: int) -> None:
    Interleavings(seed).walk()
