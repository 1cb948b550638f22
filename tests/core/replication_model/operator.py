"""The operators of the model: a cache each, reads that may be old, and the real decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    Policy,
    Swap,
    TaintResyncing,
    Untaint,
    VolumeEvidence,
    watch_lease,
)
from twinvault_core.model import FirstSync, Meta, ReplicaState, Volume, VolumeReplica
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.replication_state import Disk
from twinvault_core.switchover import choose_approval

from .api import Replica, Report
from .moves import plan_and_apply, site_of

if TYPE_CHECKING:
    from .world import World

EXPIRED_TICKS = 3
STABLE_TICKS = 4


@dataclass(frozen=True)
class Heard:
    """For how long nodes' agents had renewed no Lease, and who had told of a link last."""

    silent_ticks: dict[str, int]
    told_of_link: set[str]


class Operator:
    """One operator process with a cache of its own. Two may act at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.restart()

    def restart(self) -> None:
        self.alive = True
        self.seen: dict[str, LeaseWatch] = {}
        self.silent: dict[str, int] = {}
        self.cache: dict[str, Any] = {}

    def sync(self) -> None:
        """What its watches tell: everything but the Leases, which it reads apart."""
        api = self.world.api
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
            "approve": api.approve,
            "word": api.word,
            "approval_used": api.approval_used,
            "approval_taken": api.approval_taken,
            "told_of_link": self.world.told_of_link(),
        }

    def read_leases(self) -> None:
        api, now = self.world.api, self.world.tick
        for node in self.world.nodes:
            self.seen[node] = watch_lease(
                self.seen.get(node),
                str(api.lease[node]),
                read_began=now,
                read_ended=now,
                duration_seconds=EXPIRED_TICKS,
            )
        self.silent = self.world.silent_ticks()

    def act(self) -> None:
        if not self.cache or not self.seen or self.cache["deleting"]:
            return
        nodes = {node: self._evidence(node) for node in self.world.nodes}
        volume = self.observe_volume()
        self._keep_approval()
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

    def observe_volume(self) -> VolumeEvidence:
        published = (self.cache["published"],) if self.cache["published"] else ()
        volume = Volume(
            Meta("v", uid="uid", resource_version=str(self.cache["version"])),
            4096,
            "fast",
            published_to=published,
            record=self.cache["record"],
            status_size_bytes=4096 if self.cache["made"] else 0,
            status={"placement": {"nodes": self.world.members()}},
        )
        held = self.cache["replicas"] if self.world.moves else self.world.nodes
        replicas = tuple(self._replica(node) for node in sorted(held))
        return VolumeEvidence(volume, replicas, self.choose_policy())

    def choose_policy(self) -> PairPolicy:
        policy = Policy.MANUAL if self.world.api.manual else Policy.AUTOMATIC
        approved = choose_approval(self.cache["approve"], self.cache["approval_used"])[0]
        return PairPolicy(policy, approved, STABLE_TICKS)

    def _keep_approval(self) -> None:
        """An approval counts once; cleared and set again it counts again."""
        api, cache = self.world.api, self.cache
        known = ("approve", "word", "approval_used", "approval_taken")
        if any(cache[name] != getattr(api, name) for name in known):
            return
        _, used = choose_approval(cache["approve"], cache["approval_used"])
        if cache["approval_taken"]:
            used, api.approval_taken = cache["approval_taken"], ""
            used = choose_approval(cache["approve"], used)[1]
        api.approval_used = used

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
            state=ReplicaState.FAILED if report and report.broken else ReplicaState.READY,
            message="the disk gives errors" if report and report.broken else "",
            status_size_bytes=4096,
            in_use=report is not None and report.in_use,
            replication=known.spec if known else None,
            replication_status=replace(report.status, blank=report.blank) if report else None,
        )

    def _first_sync(self) -> None:
        if self.finds_both_blank():
            self.world.api.first_sync = FirstSync.SKIP.value

    def finds_both_blank(self) -> bool:
        reports = [self.cache["reports"].get(node) for node in self.world.nodes]
        return all(
            r is not None
            and r.blank
            and not r.status.link_down
            and r.status.disk is Disk.INCONSISTENT
            for r in reports
        )

    def _apply(self, step: Any, nodes: dict[str, NodeEvidence]) -> None:
        api = self.world.api
        if isinstance(step, Swap):
            heard = Heard(self.silent, self.cache["told_of_link"])
            self.world.check_failover(step, heard)
            approve = self.cache["approve"] if self.world.api.manual else ""
            self.world.check_approval(step, approve, self.cache["approval_used"])
            self._send(step, approve)
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
            if same and self._is_current(step.epochs["v"], step.primaries["v"]):
                self.world.check_eviction(step.pod.node)
                api.pod = None
        elif isinstance(step, DeleteVolumeAttachment):
            same = api.published == step.attachment.node
            if same and self._is_current(step.epoch, step.primary):
                self.world.check_eviction(step.attachment.node)
                api.published = ""

    def _is_current(self, epoch: int, primary: str) -> bool:
        record = self.world.api.record
        reads = self.world.decisions.reads_the_epoch
        return not reads or (epoch, primary) == (record.epoch, record.primary)

    def _send(self, swap: Swap, approve: str = "") -> None:
        version = int(swap.volume.meta.resource_version)
        word = self.cache["word"] if approve else 0
        self.world.api.send(version, swap.after, "", approve=approve, word=word)
