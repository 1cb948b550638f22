"""Carries out the steps of a failover: each one write or two, repeatable, bounded in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from twinvault_core.actions import NODE, POD, STORAGE_NODE, VOLUME, Tell
from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.failover_phases import format_moment
from twinvault_core.failover_view import (
    DeletePod,
    DeleteVolumeAttachment,
    FailoverWork,
    MarkLost,
    Swap,
    Taint,
    TaintResyncing,
)
from twinvault_core.failover_words import describe_detachment, describe_eviction
from twinvault_core.model import Meta, Volume
from twinvault_core.names import (
    ANNOTATION_LOST,
    TAINT_LOST,
    TAINT_OUT_OF_SERVICE,
    TAINT_RESYNCING,
    TAINT_VALUE,
)
from twinvault_kube import kinds
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError

from .announcer import Announcer
from .errors import NotLeadingError
from .evidence import Users, parse_users
from .failover_course import describe_swap
from .metrics import Metrics
from .world import World, is_our_taint

logger = logging.getLogger(__name__)

LIST_SECONDS = 5.0
PARALLEL = 32
CLOSE_ATTEMPTS = 5
_CLOSED = {"key": TAINT_LOST, "value": TAINT_VALUE, "effect": "NoSchedule"}
_DETACHING = {"key": TAINT_OUT_OF_SERVICE, "value": TAINT_VALUE, "effect": "NoSchedule"}
_EVICTING = {**_DETACHING, "effect": "NoExecute"}


class Outcome(StrEnum):
    DONE = "Done"
    STALE = "Stale"
    """Somebody else wrote in between; what is there is known by now. Plan again at once."""
    FAILED = "Failed"


@dataclass(frozen=True)
class Result:
    """``problem``: why it was not done, for a person."""

    outcome: Outcome
    problem: str = ""


class FailoverSteps:
    """Repeatable; what was not done is planned anew by the caller. Nothing is done while
    ``leading`` says no.
    """

    def __init__(
        self,
        client: KubeClient,
        world: World,
        announcer: Announcer,
        metrics: Metrics,
        namespace: str,
        leading: Callable[[], bool],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._world, self._namespace = client, world, namespace
        self._leading, self._wall = leading, wall
        self._announcer, self._metrics = announcer, metrics
        self._slots = asyncio.Semaphore(PARALLEL)

    async def do(self, step: FailoverWork) -> Result:
        try:
            async with self._slots, asyncio.timeout(step.retry.deadline_seconds):
                self._check_leading()
                await self._do(step)
        except (ConflictError, NotLeadingError) as error:
            logger.info("%s: %s; planning again", type(step).__name__, error.message)
            return Result(Outcome.STALE, error.message)
        except (TwinvaultError, TimeoutError) as error:
            self._metrics.failover_errors.labels(type(step).__name__).inc()
            log = logger.error if step.retry.stuck else logger.warning
            log("%s: %s; trying again", type(step).__name__, error)
            return Result(Outcome.FAILED, str(error) or "no answer in time")
        self._metrics.writes.labels(type(step).__name__, "Failover").inc()
        return Result(Outcome.DONE)

    def tell(self, event: Tell) -> None:
        """Queued; no step waits for it."""
        self._announcer.tell(event)

    def _check_leading(self) -> None:
        if not self._leading():
            raise NotLeadingError("another operator leads")

    async def list_users(self, node: str) -> Users | None:
        """Pods and attachments of the node; None when the API server did not say in time."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                pods, attachments, volumes = await asyncio.gather(
                    self._client.list(kinds.PODS, fields=f"spec.nodeName={node}"),
                    self._client.list(kinds.VOLUME_ATTACHMENTS),
                    self._client.list(kinds.PERSISTENT_VOLUMES),
                )
        except (TwinvaultError, TimeoutError) as error:
            logger.warning("who uses volumes on %s cannot be listed: %s", node, error)
            return None
        return parse_users(node, pods[0], attachments[0], volumes[0])

    async def _do(self, step: FailoverWork) -> None:
        if isinstance(step, Swap):
            await self._swap(step)
        elif isinstance(step, DeletePod):
            await self._delete_pod(step)
        elif isinstance(step, DeleteVolumeAttachment):
            await self._detach(step)
        elif isinstance(step, MarkLost):
            await self._mark(step.node, step.message)
            # The mark is there, so this step is not planned again: what follows tries by itself.
            await asyncio.gather(self._close(step.node), self._free_leases(step.node))
            self._tell_node(step.node, "NodeLost", step.message)
        elif isinstance(step, Taint):
            evicting = (_EVICTING,) if step.evicting else ()
            await self._set_taints(step.node, (_CLOSED, _DETACHING, *evicting))
            self._tell_node(step.node, "OutOfService", step.message)
        elif isinstance(step, TaintResyncing):
            await self._set_taints(step.node, (self._make_resyncing(step.strict),))
            await self._unmark(step.node)
            self._tell_node(step.node, "Resyncing", step.message, warning=False)
        else:
            await self._set_taints(step.node, ())
            await self._unmark(step.node)
            self._tell_node(step.node, "InService", step.message, warning=False)

    async def _swap(self, step: Swap) -> None:
        """The one write that decides; a conflict means that somebody else wrote the Volume."""
        meta, store = step.volume.meta, self._world.volumes
        status = {"replication": step.after.to_dict(), **step.also, **self._date(step)}
        try:
            answer = await self._client.patch_status(
                store.kind,
                meta.name,
                status,
                resource_version=meta.resource_version,
                uid=meta.uid,
            )
        except ConflictError:
            store.put(await self._client.get(store.kind, meta.name))
            raise
        store.put(answer)
        logger.warning("Volume %s: %s", meta.name, step.message)
        self._announcer.tell(Tell(VOLUME, meta, step.reason, step.message, warning=True))

    def _date(self, step: Swap) -> dict[str, Any]:
        """When this failover began and was decided, in the same write: nobody else can tell."""
        node, at = self._world.observe_node(step.before.primary), self._wall()
        lost_at = at - node.silent_seconds if node.expired else at
        found = describe_swap(step.volume, step.after.primary, step.reason, lost_at, at)
        return {"lastFailover": found}

    async def _check_fenced(
        self, epochs: Mapping[str, int], primaries: Mapping[str, str]
    ) -> dict[str, Volume]:
        """The records are as the decision saw them, and the lead is ours, at this very moment.

        1. A leader decides to end a pod, and is stopped.  2. Another one leads; the volume comes
        back to the pod's node.  3. The first one wakes: without this it would end a pod that works.
        """
        found = await asyncio.gather(*(self._read_volume(name) for name in epochs))
        for volume in found:
            name, record = volume.meta.name, volume.record
            planned = (epochs[name], primaries[name])
            if record is None or (record.epoch, record.primary) != planned:
                raise ConflictError(f"Volume {name} has moved on since that was decided")
        self._check_leading()
        return {volume.meta.name: volume for volume in found}

    async def _read_volume(self, name: str) -> Volume:
        """As the API server has it now, not a cache; ConflictError when it is gone."""
        store = self._world.volumes
        try:
            obj = await self._client.get(store.kind, name)
        except NotFoundError:
            known = store.get(name)
            if known is not None:
                store.gone(name, known.meta.uid)
            raise ConflictError(f"Volume {name} is gone") from None
        store.put(obj)
        return Volume.parse(obj)

    async def _delete_pod(self, step: DeletePod) -> None:
        pod = step.pod
        grace = 0 if step.force else None
        await self._check_fenced(step.epochs, step.primaries)
        try:
            await self._client.delete(
                kinds.PODS, pod.name, namespace=pod.namespace, uid=pod.uid, grace_seconds=grace
            )
        except (NotFoundError, ConflictError):
            return  # gone, or another pod of this name by now
        logger.warning("pod %s/%s on %s ended: %s", pod.namespace, pod.name, pod.node, step.message)
        meta = Meta(pod.name, uid=pod.uid, namespace=pod.namespace)
        self.tell(Tell(POD, meta, "Failover", describe_eviction(step), warning=True))

    async def _detach(self, step: DeleteVolumeAttachment) -> None:
        """1. The Volume is not published there any more. 2. The attachment goes. 3. And its
        finalizer: the attacher would ask a node that cannot answer.
        """
        held = step.attachment
        found = await self._check_fenced({held.volume: step.epoch}, {held.volume: step.primary})
        await self._unpublish(found[held.volume], held.node)
        self._check_leading()
        try:
            await self._client.delete(kinds.VOLUME_ATTACHMENTS, held.name, uid=held.uid)
        except (NotFoundError, ConflictError):
            logger.debug("VolumeAttachment %s is gone already", held.name)
            return
        patch: Mapping[str, Any] = {"metadata": {"finalizers": None}}
        with suppress(NotFoundError, ConflictError):
            await self._client.patch(kinds.VOLUME_ATTACHMENTS, held.name, patch, uid=held.uid)
        volume = self._world.volumes.get(held.volume)
        meta = volume.meta if volume is not None else Meta(held.volume)
        self.tell(Tell(VOLUME, meta, "Failover", describe_detachment(step), warning=True))

    async def _unpublish(self, volume: Volume, node: str) -> None:
        """By compare-and-swap on what was just read: the record names another node."""
        if volume.published_to != (node,):
            return
        store, meta = self._world.volumes, volume.meta
        store.put(
            await self._client.patch(
                store.kind,
                meta.name,
                {"spec": {"publishedTo": None}},
                resource_version=meta.resource_version,
                uid=meta.uid,
            )
        )

    async def _mark(self, node: str, message: str | None) -> None:
        store = self._world.storage_nodes
        patch = {"metadata": {"annotations": {ANNOTATION_LOST: message}}}
        store.put(await self._client.patch(store.kind, node, patch))

    async def _unmark(self, node: str) -> None:
        with suppress(NotFoundError):
            await self._mark(node, None)

    def _make_resyncing(self, strict: bool) -> Mapping[str, str]:
        """With the moment in it: whoever leads later counts from there."""
        effect = "NoSchedule" if strict else "PreferNoSchedule"
        since = format_moment(self._wall())[:19] + "Z"
        ours = {"key": TAINT_RESYNCING, "value": TAINT_VALUE, "effect": effect}
        return {**ours, "timeAdded": since}

    async def _close(self, node: str) -> None:
        """Kubernetes writes to the Node of a lost machine too: a lost race is run again."""
        for _ in range(CLOSE_ATTEMPTS):
            try:
                await self._set_taints(node, (_CLOSED,))
            except ConflictError:
                continue
            return
        logger.warning("node %s changes all the time: it is closed with its next taint", node)

    async def _free_leases(self, node: str) -> None:
        """The leads that our controllers' pods on a lost node hold, given up for them.

        1. The attacher that leads was lost with its node.  2. Until its Lease runs out no volume is
        attached anywhere.  3. It cannot write any more than the agent beside it, whose silence is
        proven; if both come back, two that lead for a moment do the same things twice, as they may.
        """
        client, namespace = self._client, self._namespace
        try:
            pods, leases = await asyncio.gather(
                client.list(kinds.PODS, namespace=namespace, fields=f"spec.nodeName={node}"),
                client.list(kinds.LEASES, namespace=namespace),
            )
        except TwinvaultError as error:
            logger.warning("leads lost with %s run out by themselves: %s", node, error.message)
            return
        names = {pod["metadata"]["name"] for pod in pods[0]}
        for lease in leases[0]:
            if lease["spec"].get("holderIdentity") not in names:
                continue
            free = {**lease, "spec": {**lease["spec"], "holderIdentity": ""}}
            try:
                await client.replace(kinds.LEASES, free, namespace)
            except (NotFoundError, ConflictError):
                continue  # another one leads by now
            except TwinvaultError as error:
                logger.warning("a lead lost with %s runs out by itself: %s", node, error.message)
                continue
            logger.warning("the lead %s of a pod on %s is free", lease["metadata"]["name"], node)

    async def _set_taints(self, node: str, wanted: tuple[Mapping[str, str], ...]) -> None:
        """Other taints stay; compare-and-swap, because the list is written whole."""
        store = self._world.stores[NODE]
        try:
            obj = await self._client.get(kinds.NODES, node)
        except NotFoundError:
            return
        taints = list((obj["spec"] or {}).get("taints") or ())
        others = [taint for taint in taints if not is_our_taint(taint)]
        taken = {_identify(t) for t in others}
        new = [*others, *(t for t in wanted if _identify(t) not in taken)]
        if {_identify(t) for t in new} == {_identify(t) for t in taints}:
            store.put(obj)
            return
        version = obj["metadata"]["resourceVersion"]
        patch = {"spec": {"taints": new or None}}
        store.put(await self._client.patch(kinds.NODES, node, patch, resource_version=version))

    def _tell_node(self, node: str, reason: str, message: str, *, warning: bool = True) -> None:
        known = self._world.storage_nodes.get(node)
        meta = known.meta if known is not None else Meta(node)
        self._announcer.tell(Tell(STORAGE_NODE, meta, reason, f"{node}: {message}", warning))
        logger.warning("node %s: %s: %s", node, reason, message)


def _identify(taint: Mapping[str, Any]) -> tuple[Any, Any]:
    return taint.get("key"), taint.get("effect")
