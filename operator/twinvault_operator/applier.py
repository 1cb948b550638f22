"""Carries out plans: each step one request, repeatable, compare-and-swap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from twinvault_core.actions import (
    VOLUME_REPLICA,
    Action,
    CheckGone,
    CheckNoVolumes,
    ClaimNumber,
    Create,
    Delete,
    LabelNode,
    PatchObject,
    PatchStatus,
    Plan,
    ReleaseNumber,
    Tell,
)
from twinvault_core.errors import AlreadyExistsError, NotFoundError
from twinvault_core.model import Meta
from twinvault_core.names import LABEL_REPLICA_VALUE, LEASE_NAMESPACE_DEFAULT
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError

from .announcer import Announcer
from .claims import Claims
from .errors import NotLeadingError, StaleError
from .metrics import Metrics
from .world import World

logger = logging.getLogger(__name__)


class Applier:
    """Applies plans while ``leading`` says so; every answer goes into the stores at once."""

    def __init__(
        self,
        client: KubeClient,
        world: World,
        announcer: Announcer,
        metrics: Metrics,
        leading: Callable[[], bool],
        namespace: str = LEASE_NAMESPACE_DEFAULT,
    ) -> None:
        self._client, self._world = client, world
        self._claims = Claims(client, world, namespace)
        self._announcer, self._metrics, self.leading = announcer, metrics, leading

    async def apply(self, plan: Plan) -> None:
        """All steps in order. StaleError: plan again now; other TwinvaultErrors: later."""
        versions: dict[tuple[str, str], str] = {}
        claimed = [a for a in plan.actions if isinstance(a, ClaimNumber)]
        for claim in claimed:
            self._world.numbers.promise(claim)
        try:
            for action in plan.actions:
                if not self.leading():
                    raise NotLeadingError("another operator leads")
                await self._apply_one(action, versions)
        finally:
            for claim in claimed:
                self._world.numbers.settle(claim)

    async def _apply_one(self, action: Action, versions: dict[tuple[str, str], str]) -> None:
        if isinstance(action, Tell):
            self._announcer.tell(action)
            return
        self._metrics.writes.labels(type(action).__name__, action.kind).inc()
        if isinstance(action, Create):
            await self._create(action)
        elif isinstance(action, PatchObject):
            await self._patch_object(action, versions)
        elif isinstance(action, PatchStatus):
            await self._patch(action.kind, action.meta, action.status, versions, status=True)
        elif isinstance(action, Delete):
            await self._delete(action)
        elif isinstance(action, CheckGone | CheckNoVolumes):
            await self._check(action)
        elif isinstance(action, LabelNode):
            await self._label(action)
        elif isinstance(action, ClaimNumber):
            await self._claims.claim(action)
        elif isinstance(action, ReleaseNumber):
            await self._claims.release(action)
        else:
            await self._claims.check_unused(action)

    async def _create(self, action: Create) -> None:
        """1. The space is entered in the ledger. 2. The object is made. 3. The store has it.

        Somebody else (an earlier leader) may have made it: then we read what is there.
        """
        store = self._world.stores[action.kind]
        promised = action.kind == VOLUME_REPLICA
        if promised:
            spec = action.body["spec"]
            self._world.ledger.promise(
                action.name, spec["nodeName"], spec["pool"], spec["sizeBytes"]
            )
        try:
            store.put(await self._client.create(store.kind, action.body))
            logger.info("%s %s made", action.kind, action.name)
        except AlreadyExistsError:
            store.put(await self._client.get(store.kind, action.name))
        finally:
            if promised:
                self._world.ledger.settle(action.name, self._world.replicas.get(action.name))

    async def _patch_object(
        self, action: PatchObject, versions: dict[tuple[str, str], str]
    ) -> None:
        """A replica that grows is entered in the ledger first, like a new one."""
        replicas, name = self._world.replicas, action.meta.name
        size = (action.patch.get("spec") or {}).get("sizeBytes")
        known = replicas.get(name) if action.kind == VOLUME_REPLICA and size else None
        if known is not None and size:
            self._world.ledger.promise(name, known.node, known.pool, size)
        try:
            await self._patch(action.kind, action.meta, action.patch, versions, status=False)
        finally:
            if known is not None:
                self._world.ledger.settle(name, replicas.get(name))

    async def _patch(
        self,
        kind: str,
        meta: Meta,
        patch: Mapping[str, Any],
        versions: dict[tuple[str, str], str],
        *,
        status: bool,
    ) -> None:
        store = self._world.stores[kind]
        version = versions.get((kind, meta.name), meta.resource_version)
        write = self._client.patch_status if status else self._client.patch
        try:
            answer = await write(
                store.kind, meta.name, patch, resource_version=version, uid=meta.uid
            )
        except (ConflictError, NotFoundError) as error:
            await self._refresh(kind, meta)
            raise StaleError(error.message) from error
        versions[(kind, meta.name)] = str(answer["metadata"]["resourceVersion"])
        if _is_gone(answer):
            store.gone(meta.name, meta.uid)
        else:
            store.put(answer)

    async def _delete(self, action: Delete) -> None:
        store = self._world.stores[action.kind]
        try:
            await self._client.delete(store.kind, action.meta.name, uid=action.meta.uid)
            logger.info("%s %s: deletion asked for", action.kind, action.meta.name)
        except (NotFoundError, ConflictError) as error:
            await self._refresh(action.kind, action.meta)
            if isinstance(error, ConflictError):
                raise StaleError(error.message) from error

    async def _label(self, action: LabelNode) -> None:
        """A node that is gone needs none."""
        store = self._world.stores[action.kind]
        value = LABEL_REPLICA_VALUE if action.present else None
        patch = {"metadata": {"labels": {action.key: value}}}
        try:
            store.put(await self._client.patch(store.kind, action.node, patch))
        except NotFoundError:
            logger.info("node %s is gone; not labelled", action.node)

    async def _check(self, action: CheckGone | CheckNoVolumes) -> None:
        """The API server itself is asked; StaleError when it has what should not be there."""
        store = self._world.stores[action.kind]
        if isinstance(action, CheckNoVolumes):
            every, _ = await self._client.list(store.kind)
            found = [obj for obj in every if obj["spec"].get("replicationPair") == action.pair]
        else:
            try:
                found = [await self._client.get(store.kind, action.name)]
            except NotFoundError:
                return
        for obj in found:
            store.put(obj)
        if found:
            raise StaleError(f"{action.kind} {found[0]['metadata']['name']} exists")

    async def _refresh(self, kind: str, meta: Meta) -> None:
        """Learn from the API server itself what became of the object."""
        store = self._world.stores[kind]
        try:
            answer = await self._client.get(store.kind, meta.name)
        except NotFoundError:
            store.gone(meta.name, meta.uid)
            return
        if answer["metadata"]["uid"] != meta.uid:
            store.gone(meta.name, meta.uid)
        store.put(answer)


def _is_gone(answer: Mapping[str, Any]) -> bool:
    """Taking the last finalizer off an object that is being deleted removes it."""
    meta = answer["metadata"]
    return bool(meta.get("deletionTimestamp")) and not meta.get("finalizers")
