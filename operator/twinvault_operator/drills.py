"""Carries drills out: one task for all pairs, so that two drills never begin side by side.

What is decided stands in core (drill.py there). A round takes the world as it is, asks, does what
was answered, and asks again; nothing that counts is kept here between two rounds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from twinvault_core.actions import REPLICATION_PAIR, PatchStatus, Plan
from twinvault_core.drill import closed_by, plan_drill, plan_opening
from twinvault_core.drill_view import (
    CloseNode,
    DrillStep,
    DrillUsers,
    EvictPod,
    Look,
    Remember,
    Sleep,
)
from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.model import ReplicationPair, Volume, VolumeReplica
from twinvault_core.names import DRIVER_NAME, TAINT_DRILL
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.errors import ConflictError

from .applier import Applier
from .drill_evidence import (
    Memory,
    find_claims,
    observe_drill,
    parse_pods,
    parse_volumes,
)
from .errors import NotLeadingError, StaleError
from .metrics import Metrics
from .taints import change_taints
from .world import World

logger = logging.getLogger(__name__)

CALL_SECONDS = 5.0
RETRY_SECONDS = 1.0
IDLE_SECONDS = 60.0
BUG_SECONDS = 5.0
ROUNDS = 20
"""So many steps of one pair in a row; then the others have their turn."""


class Drills:
    """``run`` until cancelled; does nothing while the applier does not lead."""

    def __init__(
        self,
        client: KubeClient,
        world: World,
        applier: Applier,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._world, self._applier = client, world, applier
        self._metrics, self._now = metrics, now
        self._memory = Memory()
        self._due: dict[str, float] = {}
        self._wake = asyncio.Event()

    # -- what happened -----------------------------------------------------------------------------

    def pairs_changed(self) -> None:
        """A spec changed, or we lead from now on: every pair is looked at."""
        self._due.clear()
        self._wake.set()

    def volume_changed(self, before: Volume | None, after: Volume | None) -> None:
        known = after or before
        if known is not None and known.replication_pair:
            self._look_at(known.replication_pair, known.meta.name)

    def replica_changed(self, before: VolumeReplica | None, after: VolumeReplica | None) -> None:
        known = after or before
        volume = self._world.volumes.get(known.volume) if known is not None else None
        if volume is not None and volume.replication_pair:
            self._look_at(volume.replication_pair, volume.meta.name)

    def _look_at(self, name: str, volume: str) -> None:
        """At once, if a drill that is under way moves the volume."""
        pair = self._world.pairs.get(name)
        moved = (pair.status.get("drill") or {}).get("volumes") or () if pair is not None else ()
        if volume in {one.get("volume") for one in moved}:
            self._due.pop(name, None)
            self._wake.set()

    # -- the loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Asleep until something is due, or something happened."""
        while True:
            self._wake.clear()
            delay = await self.step() if self._applier.leading() else RETRY_SECONDS
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self) -> float:
        """One turn for every pair that is due; seconds until the next one is."""
        loop = asyncio.get_running_loop()
        await self._open_nodes()  # what an operator before us left closed
        names = self._world.pairs.names()
        self._due = {name: at for name, at in self._due.items() if name in names}
        for name in names:
            if self._due.get(name, 0.0) > loop.time():
                continue
            # Before the turn: what happens meanwhile must not be slept over.
            self._due[name] = loop.time() + IDLE_SECONDS
            try:
                delay = await self._advance(name)
            except Exception:
                logger.exception("drill of %s: a bug in the operator; trying again", name)
                delay = BUG_SECONDS
            if name in self._due:
                self._due[name] = loop.time() + delay
        if not any(pair.status.get("drill") for pair in self._world.pairs.values()):
            self._memory.clear()
        delay = await self._open_nodes()
        return min([delay, *(max(0.01, at - loop.time()) for at in self._due.values())])

    async def _advance(self, name: str) -> float:
        """Rounds of looking, deciding and doing until there is nothing but waiting."""
        users: DrillUsers | None = None
        problem = ""
        for _ in range(ROUNDS):
            pair = self._world.pairs.get(name)
            if pair is None or not self._applier.leading():
                return IDLE_SECONDS
            view = observe_drill(self._world, pair, self._now(), self._memory, users, problem)
            steps = plan_drill(view)
            look = next((s for s in steps if isinstance(s, Look)), None)
            if look is not None:
                users, problem = await self._list_users(look)
                continue
            users, problem = None, ""
            await asyncio.gather(*(self._evict(s) for s in steps if isinstance(s, EvictPod)))
            for step in steps:
                if not await self._do(pair, step):
                    return RETRY_SECONDS
            # Before anything else is done: whatever the drill does not want closed is in the way.
            await self._open_nodes()
            last = steps[-1]
            if isinstance(last, Sleep):
                return last.seconds
        return 0.01

    async def _do(self, pair: ReplicationPair, step: DrillStep) -> bool:
        """False: it did not work out now."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                if isinstance(step, Remember):
                    await self._remember(pair, step)
                elif isinstance(step, CloseNode):
                    await self._set_taint(step.node, pair.meta.name)
        except (ConflictError, StaleError) as error:
            logger.info("drill of %s: %s; looking again", pair.meta.name, error.message)
        except NotLeadingError:
            return False
        except (TwinvaultError, TimeoutError) as error:
            logger.warning("drill of %s: %s: %s", pair.meta.name, type(step).__name__, error)
            return False
        return True

    async def _remember(self, pair: ReplicationPair, step: Remember) -> None:
        patch = PatchStatus(REPLICATION_PAIR, pair.meta, step.status)
        await self._applier.apply(Plan((patch, *step.tells)))
        if step.ended:
            self._metrics.drills.labels(pair.meta.name, step.ended).inc()
            message = (step.status.get("lastDrill") or {}).get("message")
            logger.warning("drill of %s: %s: %s", pair.meta.name, step.ended, message)

    # -- pods --------------------------------------------------------------------------------------

    async def _list_users(self, look: Look) -> tuple[DrillUsers | None, str]:
        """Who uses the volumes; None and why when the API server did not say in time."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._read_users(look), ""
        except (TwinvaultError, TimeoutError) as error:
            text = f"the API server did not say which pods use the volumes: {error}"
            logger.warning("drill: %s", text)
            return None, text

    async def _read_users(self, look: Look) -> DrillUsers:
        claims = {name: look.claims[name] for name in look.volumes if name in look.claims}
        handles = {
            (ref.partition("/")[0], ref.partition("/")[2]): (DRIVER_NAME, volume)
            for volume, ref in claims.items()
        }
        if len(claims) < len(look.volumes):
            handles = parse_volumes((await self._client.list(kinds.PERSISTENT_VOLUMES))[0])
            claims = find_claims(handles, look.volumes)
        namespaces = sorted({ref.partition("/")[0] for ref in claims.values()})
        lists = await asyncio.gather(
            *(self._client.list(kinds.PODS, namespace=namespace) for namespace in namespaces)
        )
        pods = [pod for items, _ in lists for pod in items]
        return DrillUsers(parse_pods(pods, handles), claims)

    async def _evict(self, step: EvictPod) -> None:
        """A refusal is remembered, and asked again by a later plan."""
        if not self._applier.leading():
            return
        memory, asked = self._memory, self._now()
        memory.tried[step.uid] = asked
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._client.evict(step.name, step.namespace, uid=step.uid)
        except (NotFoundError, ConflictError):
            return  # gone, or another pod of this name by now
        except (TwinvaultError, TimeoutError) as error:
            memory.blocked[step.uid] = str(error) or "no answer in time"
            logger.warning("pod %s/%s is not evicted: %s", step.namespace, step.name, error)
            return
        memory.evictions[step.uid] = asked
        logger.warning("pod %s/%s evicted for a drill", step.namespace, step.name)

    # -- taints ------------------------------------------------------------------------------------

    async def _open_nodes(self) -> float:
        """Take our taint off every node that no drill wants closed, whoever put it on."""
        closed = {node.name: closed_by(node) for node in self._world.nodes.values()}
        closed = {node: pair for node, pair in closed.items() if pair}
        delay = IDLE_SECONDS
        for node in plan_opening(self._world.pairs.values(), closed):
            if not self._applier.leading():
                break
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._set_taint(node, "")
            except (TwinvaultError, TimeoutError) as error:
                logger.warning("node %s: the drill's taint cannot be removed: %s", node, error)
                delay = RETRY_SECONDS
        return delay

    async def _set_taint(self, node: str, pair: str) -> None:
        """Close the node for ``pair``; empty: open it."""

        def change(taints: list[Json]) -> list[Json]:
            others = [taint for taint in taints if taint.get("key") != TAINT_DRILL]
            ours = {"key": TAINT_DRILL, "value": pair, "effect": "NoSchedule"}
            return [*others, ours] if pair else others

        await change_taints(self._client, self._world.nodes, node, change)
        logger.info("node %s is %s", node, f"closed for a drill of {pair}" if pair else "open")
