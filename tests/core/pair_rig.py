"""A pair with volumes, as objects of an API server that plans are applied to, and their agents."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.core.builders import GIB, metadata
from twinvault_core.actions import (
    REPLICATION_PAIR,
    VOLUME,
    VOLUME_REPLICA,
    PatchObject,
    PatchStatus,
    Plan,
    Tell,
)
from twinvault_core.model import ReplicationPair, Volume, VolumeReplica
from twinvault_core.pair_plan import PairView, plan_pair
from twinvault_core.pair_volume import PairVolume

EAST, WEST = "east-1", "west-1"
NODES = (EAST, WEST)
START = datetime(2026, 1, 1, tzinfo=UTC)


def merge(into: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """A merge patch, as the API server does it."""
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            inner = into.setdefault(key, {})
            if not isinstance(inner, dict):
                inner = into[key] = {}
            merge(inner, value)
        else:
            into[key] = copy.deepcopy(value)


class Rig:
    """``plan`` is one turn of the operator for the pair; ``told`` are the Events so far."""

    def __init__(self, names: tuple[str, ...] = (), **spec: Any) -> None:
        full = {"clusters": ["east", "west"], "mode": "Sync", **spec}
        meta = metadata("metro", finalizers=["twinvault.io/volumes"])
        self.pair: dict[str, Any] = {"metadata": meta, "spec": full, "status": {}}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.replicas: dict[str, dict[str, Any]] = {}
        self.lost: dict[str, str] = {}
        self.snapshotting: set[str] = set()
        self.told: list[Tell] = []
        self.now = START
        for name in names:
            self.add(name)

    @property
    def now_text(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def add(self, name: str) -> None:
        status = {
            "sizeBytes": GIB,
            "placement": {"nodes": list(NODES)},
            "replication": {"epoch": 1, "serial": 1, "primary": EAST, "inSync": list(NODES)},
            "replicationDevice": {"minor": 1000, "port": 7000},
        }
        spec = {"sizeBytes": GIB, "pool": "fast", "replicationPair": "metro"}
        self.volumes[name] = {"metadata": metadata(name), "spec": spec, "status": status}
        for node, peer in ((EAST, WEST), (WEST, EAST)):
            replication = {
                "minor": 1000,
                "port": 7000,
                "address": "10.0.0.1",
                "peerNode": peer,
                "peerAddress": "10.0.0.2",
            }
            self.replicas[f"{name}.{node}"] = {
                "metadata": metadata(f"{name}.{node}"),
                "spec": {
                    "volume": name,
                    "volumeUID": f"uid-{name}",
                    "nodeName": node,
                    "storageCluster": node[:4],
                    "pool": "fast",
                    "sizeBytes": GIB,
                    "replication": replication,
                },
                "status": {"state": "Ready", "sizeBytes": GIB},
            }
            self.report(name, node)

    def report(self, name: str, node: str = EAST, **fields: Any) -> None:
        """What the node's agent says; whole where nothing else is given."""
        status = self.replicas[f"{name}.{node}"]["status"]
        before = status.get("replication") or {
            "connection": "Connected",
            "sync": "Established",
            "role": "Primary" if node == EAST else "Secondary",
            "disk": "UpToDate",
            "peerDisk": "UpToDate",
        }
        status["replication"] = before
        merge(before, fields)

    def degrade(self, name: str, since: str = "") -> None:
        status = self.volumes[name]["status"]
        status["replication"]["inSync"] = [EAST]
        since = since or self.now_text
        entry = {"type": "Degraded", "status": "True", "reason": "LinkDown", "message": "m"}
        status["conditions"] = [{**entry, "lastTransitionTime": since}]

    def restore(self, name: str) -> None:
        status = self.volumes[name]["status"]
        status["replication"]["inSync"] = list(NODES)
        status["conditions"] = []

    def move(self, name: str, to: str = WEST) -> None:
        self.volumes[name]["status"]["replication"]["primary"] = to

    def spec_of(self, name: str, node: str = EAST) -> dict[str, Any]:
        found: dict[str, Any] = self.replicas[f"{name}.{node}"]["spec"]["replication"]
        return found

    def observe(self) -> PairView:
        upkeep = []
        for name, raw in sorted(self.volumes.items()):
            replicas = tuple(VolumeReplica.parse(self.replicas[f"{name}.{n}"]) for n in NODES)
            parsed = Volume.parse(raw)
            upkeep.append(PairVolume(parsed, replicas, self.lost, name in self.snapshotting))
        volumes = tuple(v.volume for v in upkeep)
        return PairView(ReplicationPair.parse(self.pair), {}, volumes, (), tuple(upkeep))

    def plan(self) -> Plan:
        made = plan_pair(self.observe(), now=self.now_text)
        for action in made.actions:
            if isinstance(action, Tell):
                self.told.append(action)
            elif isinstance(action, PatchStatus):
                merge(self._find(action.kind, action.meta.name)["status"], action.status)
            else:
                assert isinstance(action, PatchObject)
                merge(self._find(action.kind, action.meta.name), action.patch)
        return made

    def _find(self, kind: str, name: str) -> dict[str, Any]:
        if kind == REPLICATION_PAIR:
            return self.pair
        return {VOLUME: self.volumes, VOLUME_REPLICA: self.replicas}[kind][name]

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.pair["status"]
        return found

    def condition(self, type_: str) -> dict[str, Any]:
        return next((c for c in self.status["conditions"] if c["type"] == type_), {})
