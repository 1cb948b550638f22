"""The operators of the model: a cache each, reads that may be old, and the real decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twinvault_core.failover_view import (
    Attachment,
    DeletePod,
    DeleteVolumeAttachment,
    LeaseWatch,
    MarkLost,
    NodeEvidence,
    NodeView,
    PairPolicy,
    PodUse,
    Swap,
    TaintResyncing,
    Untaint,
    VolumeEvidence,
    watch_lease,
)
from twinvault_core.model import FirstSync, Meta, ReplicaState, Volume, VolumeReplica
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.replication_state import Disk

from .api import Replica, Report
from .moves import plan_and_apply, site_of

if TYPE_CHECKING:
    from .world import World

EXPIRED_TICKS = 3
STABLE_TICKS = 4


class Operator:
    """One operator process with a cache of its own. Two may act at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.restart()

    def restart(self) -> None:
        self.alive = True
        self.seen: dict[str, LeaseWatch] = {}
        self.cache: dict[str, Any] = {}

    def sync(self) -> None:
        api, now = self.world.api, self.world.tick
        self.cache = {
            "record": api.record,
            "version": api.version,
            "reports": dict(api.reports),
            "marked": set(api.marked),
            "resyncing": dict(api.resyncing),
            "pod": api.pod,
            "published": api.published,
            "deleting": api.deleting,
            "replicas": dict(api.replicas),
            "device": api.device,
            "claims": set(api.claims),
            "leaving": set(api.leaving),
            "gone": set(api.gone),
            "paired": api.paired,
            "made": api.made,
        }
        for node in self.world.nodes:
            self.seen[node] = watch_lease(
                self.seen.get(node),
                str(api.lease[node]),
                read_began=now,
                read_ended=now,
                duration_seconds=EXPIRED_TICKS,
            )
        self.cache["heard"] = self.world.heard()

    def act(self) -> None:
        if not self.cache or self.cache["deleting"]:
            return
        nodes = {node: self._evidence(node) for node in self.world.nodes}
        volume = self._volume()
        if self.world.moves:
            plan_and_apply(self, volume, nodes)
        else:
            self._first_sync()
        pod = self.cache["pod"]
        pods = () if pod is None else (PodUse("his", "db", str(pod.uid), pod.node, ("v",)),)
        published = self.cache["published"]
        attachments = (Attachment("va", published, "v"),) if published else ()
        for node in self.world.nodes:
            view = NodeView(node, nodes, (volume,), pods, attachments)
            for step in self.world.decisions.node_failover(view):
                self._apply(step, nodes)
        move = self.world.decisions.switchover(volume, nodes)
        if isinstance(move, Swap):
            self._send(move)

    def _evidence(self, node: str) -> NodeEvidence:
        seen = self.seen[node]
        return NodeEvidence(
            node,
            site_of(node),
            expired=seen.expired(EXPIRED_TICKS),
            silent_seconds=seen.silent_seconds(),
            well_seconds=seen.well_seconds(EXPIRED_TICKS),
            marked=node in self.cache["marked"],
            resyncing=frozenset({"NoSchedule"} if node in self.cache["resyncing"] else ()),
            resyncing_seconds=self.world.tick - self.cache["resyncing"].get(node, 0),
        )

    def _volume(self) -> VolumeEvidence:
        published = (self.cache["published"],) if self.cache["published"] else ()
        volume = Volume(
            Meta("v", resource_version=str(self.cache["version"])),
            4096,
            "fast",
            published_to=published,
            record=self.cache["record"],
        )
        held = self.cache["replicas"] if self.world.moves else self.world.nodes
        replicas = tuple(self._replica(node) for node in sorted(held))
        return VolumeEvidence(volume, replicas, PairPolicy(stable_seconds=STABLE_TICKS))

    def _replica(self, node: str) -> VolumeReplica:
        report: Report | None = self.cache["reports"].get(node)
        known: Replica | None = self.cache["replicas"].get(node)
        return VolumeReplica(
            Meta(
                f"v.{node}",
                uid=str(known.uid) if known else "",
                deleting=known is not None and known.deleting,
                finalizers=frozenset({FINALIZER_REPLICA}),
            ),
            "v",
            "uid",
            node,
            site_of(node),
            "fast",
            4096,
            state=ReplicaState.READY,
            status_size_bytes=4096,
            in_use=report is not None and report.in_use,
            replication=known.spec if known else None,
            replication_status=replace(report.status, blank=report.blank) if report else None,
        )

    def _first_sync(self) -> None:
        reports = [self.cache["reports"].get(node) for node in self.world.nodes]
        new = all(
            r is not None
            and r.blank
            and not r.status.link_down
            and r.status.disk is Disk.INCONSISTENT
            for r in reports
        )
        if new:
            self.world.api.first_sync = FirstSync.SKIP.value

    def _apply(self, step: Any, nodes: dict[str, NodeEvidence]) -> None:
        api = self.world.api
        if isinstance(step, Swap):
            self.world.check_failover(step, self.cache["heard"])
            self._send(step)
        elif isinstance(step, MarkLost):
            api.marked.add(step.node)
            api.resyncing.pop(step.node, None)
        elif isinstance(step, TaintResyncing):
            api.resyncing.setdefault(step.node, self.world.tick)
            api.marked.discard(step.node)
        elif isinstance(step, Untaint):
            api.marked.discard(step.node)
            api.resyncing.pop(step.node, None)
        elif isinstance(step, DeletePod):
            same = api.pod is not None and str(api.pod.uid) == step.pod.uid
            planned = (step.epochs, step.primaries)
            if same and planned == ({"v": api.record.epoch}, {"v": api.record.primary}):
                self.world.check_eviction(step.pod.node)
                api.pod = None
        elif isinstance(step, DeleteVolumeAttachment):
            same = api.published == step.attachment.node
            record = (api.record.epoch, api.record.primary)
            if same and (step.epoch, step.primary) == record:
                self.world.check_eviction(step.attachment.node)
                api.published = ""

    def _send(self, swap: Swap) -> None:
        version = int(swap.volume.meta.resource_version)
        self.world.api.send(version, swap.after, "")
