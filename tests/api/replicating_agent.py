"""Agents of replicated volumes that live in the test: a link between them, and pods that use them.

They keep R1 to R3 as real ones do, through the same core functions, only without a kernel.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.api.operator_rig import FakeAgent
from tests.operator.fake_drbd import next_record, report_replication
from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.model import ReplicationRecord
from twinvault_core.replication_record import RecordRefusal, fence_peer
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient

EVERY_SECONDS = 0.05
LONG_AGO = "2026-01-01T00:00:00Z"
ADDRESSES = {"east-1": "10.0.0.1", "west-1": "10.0.0.2", "west-2": "10.0.0.3"}


@dataclass
class Link:
    """The network between the sites."""

    up: bool = True


@dataclass
class ReplicatingAgent(FakeAgent):
    """``used``: volumes that a pod has open here. ``able``: whether its kernel can replicate.

    While ``silent`` no further write is begun: its power is cut.
    """

    link: Link = field(default_factory=Link)
    able: bool = True
    used: set[str] = field(default_factory=set)

    async def _node(self, name: str) -> None:
        await super()._node(name)
        told = {"available": self.able, "address": ADDRESSES[self.node]}
        if not self.able:
            told = {"available": False, "message": "the module drbd is missing"}
        obj = await self.client.get(kinds.STORAGE_NODES, name)
        if (obj.get("status") or {}).get("replication") != told:
            status = {"replication": told}
            await self.client.patch_status(kinds.STORAGE_NODES, name, status)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._replicate_forever())

    async def _replicate_forever(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            if self.silent:
                continue
            for name, obj in list(self.replicas.store.items()):
                if obj["spec"].get("replication") and not obj["metadata"].get("deletionTimestamp"):
                    with suppress(TwinvaultError):
                        await self._replicate(name)

    async def _replicate(self, name: str) -> None:
        mine = await self.client.get(kinds.VOLUME_REPLICAS, name)
        volume = await self.client.get(kinds.VOLUMES, mine["spec"]["volume"])
        record = ReplicationRecord.parse((volume.get("status") or {}).get("replication"))
        if record is None or (mine.get("status") or {}).get("state") != "Ready":
            return
        peer = await self._peer(mine)
        ready = bool(volume["status"].get("sizeBytes"))
        in_use = mine["spec"]["volume"] in self.used and record.primary == self.node
        seen = {**mine, "status": {**mine["status"], "inUse": in_use}}
        report = report_replication(seen, peer if self.link.up else None, record, was_ready=ready)
        if report["connection"] != "Connected":
            report["disconnectedSince"] = LONG_AGO
        told = {"disconnectedSince": None, **report}
        status: dict[str, Any] = {"inUse": in_use, "replication": told}
        now = mine["status"]
        if self.silent:
            return
        if now.get("inUse", False) != in_use or now.get("replication") != report:
            uid = mine["metadata"]["uid"]
            await self.client.patch_status(kinds.VOLUME_REPLICAS, name, status, uid=uid)
        await self._write_record(volume, {**seen, "status": {**now, **status}}, peer, record)

    async def _peer(self, mine: Json) -> Json | None:
        name = f"{mine['spec']['volume']}.{mine['spec']['replication']['peerNode']}"
        with suppress(NotFoundError):
            return await self.client.get(kinds.VOLUME_REPLICAS, name)
        return None

    async def _write_record(
        self, volume: Json, mine: Json, peer: Json | None, record: ReplicationRecord
    ) -> None:
        after: Any = next_record(mine, peer, record) if self.link.up else None
        alone = record.in_sync == {self.node}
        if not self.link.up and mine["status"]["inUse"] and not alone:
            after = fence_peer(record, self.node)
        if after is None or isinstance(after, RecordRefusal) or self.silent:
            return
        await self.client.patch_status(
            kinds.VOLUMES,
            volume["metadata"]["name"],
            {"replication": after.to_dict()},
            resource_version=volume["metadata"]["resourceVersion"],
        )


async def add_user(client: KubeClient, volume: str, node: str, **extra: Any) -> None:
    """What Kubernetes has of a running pod with this volume: PV, VolumeAttachment, Pod."""
    pv = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "csi.twinvault.io", "volumeHandle": volume},
        "claimRef": {"namespace": "default", "name": f"claim-{volume}"},
    }
    await client.create(
        kinds.PERSISTENT_VOLUMES, {"metadata": {"name": f"pv-{volume}"}, "spec": pv}
    )
    attachment = {
        "attacher": "csi.twinvault.io",
        "nodeName": node,
        "source": {"persistentVolumeName": f"pv-{volume}"},
    }
    metadata = {"name": f"va-{volume}", "finalizers": ["external-attacher/csi-twinvault-io"]}
    await client.create(kinds.VOLUME_ATTACHMENTS, {"metadata": metadata, "spec": attachment})
    await add_pod(client, f"pod-{volume}", node, f"claim-{volume}", **extra)
    patch = {"spec": {"publishedTo": [node]}}
    await client.patch(kinds.VOLUMES, volume, patch)


async def attach(client: KubeClient, volume: str, node: str) -> None:
    """What the attacher tells when the volume may be staged on ``node``."""
    name = f"va-{volume}-{node}"
    spec = {
        "attacher": "csi.twinvault.io",
        "nodeName": node,
        "source": {"persistentVolumeName": f"pv-{volume}"},
    }
    await client.create(kinds.VOLUME_ATTACHMENTS, {"metadata": {"name": name}, "spec": spec})
    await client.patch_status(kinds.VOLUME_ATTACHMENTS, name, {"attached": True})


async def add_pod(client: KubeClient, name: str, node: str, *claims: str) -> None:
    volumes = [
        {"name": f"v{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(claims)
    ]
    spec = {
        "nodeName": node,
        "containers": [{"name": "main", "image": "none"}],
        "volumes": volumes,
    }
    body = {"metadata": {"name": name, "namespace": "default"}, "spec": spec}
    await client.create(kinds.PODS, body, "default")


async def remove_users(client: KubeClient) -> None:
    """Every pod, attachment and PersistentVolume of the test."""
    for pod in (await client.list(kinds.PODS))[0]:
        meta = pod["metadata"]
        with suppress(NotFoundError):
            await client.delete(
                kinds.PODS, meta["name"], namespace=meta["namespace"], grace_seconds=0
            )
    for kind in (kinds.VOLUME_ATTACHMENTS, kinds.PERSISTENT_VOLUMES):
        for obj in (await client.list(kind))[0]:
            name = obj["metadata"]["name"]
            with suppress(NotFoundError):
                await client.delete(kind, name)
                await client.patch(kind, name, {"metadata": {"finalizers": None}})
