"""One object at a time: observe it, plan, apply."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from twinvault_core.actions import (
    REPLICATION_PAIR,
    SNAPSHOT,
    STORAGE_CLUSTER,
    VOLUME,
    Plan,
)
from twinvault_core.cluster_plan import plan_cluster
from twinvault_core.errors import TwinvaultError
from twinvault_core.pair_plan import plan_pair
from twinvault_core.snapshot_plan import plan_snapshot
from twinvault_core.volume_plan import plan_volume

from .applier import Applier
from .errors import NotLeadingError, StaleError
from .metrics import Metrics
from .triggers import WAITING, Triggers
from .work_queue import Key, WorkQueue
from .world import World

logger = logging.getLogger(__name__)

NOTHING = Plan()


def rfc3339_now() -> str:
    """The time as conditions have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reconciler:
    """``handle`` is what a worker of the queue runs."""

    def __init__(
        self,
        world: World,
        queue: WorkQueue,
        triggers: Triggers,
        applier: Applier,
        metrics: Metrics,
    ) -> None:
        self._world, self._queue, self._triggers = world, queue, triggers
        self._applier, self._metrics = applier, metrics

    async def handle(self, key: Key) -> bool:
        """Whether it is done for now; False asks for another try after a delay.

        A standby does nothing: whoever takes the lead looks at everything.
        """
        if not self._applier.leading():
            return True
        started = time.monotonic()
        try:
            await self._reconcile(key)
        except NotLeadingError:
            return True
        except StaleError as error:
            logger.debug("%s %s: planning again: %s", key.kind, key.name, error.message)
            self._queue.add(key)
            return True
        except TwinvaultError as error:
            self._metrics.reconcile_errors.labels(key.kind, error.code.value).inc()
            logger.warning("%s %s: %s; trying again", key.kind, key.name, error.message)
            return False
        except Exception:
            # A bug in one plan must not end the worker that all other objects depend on.
            self._metrics.reconcile_errors.labels(key.kind, "Bug").inc()
            logger.exception("%s %s: a bug in the operator; trying again", key.kind, key.name)
            return False
        finally:
            elapsed = time.monotonic() - started
            self._metrics.reconcile_seconds.labels(key.kind).observe(elapsed)
        return True

    async def _reconcile(self, key: Key) -> None:
        if key == WAITING:
            for name in sorted(self._triggers.waiting):
                self._queue.add(Key(VOLUME, name))
            return
        plan = self.plan(key)
        if key.kind == VOLUME:
            if plan.waits:
                self._triggers.waiting.add(key.name)
            else:
                self._triggers.waiting.discard(key.name)
        await self._applier.apply(plan)

    def plan(self, key: Key) -> Plan:
        """Observe and decide; nothing is awaited between the two."""
        now = rfc3339_now()
        if key.kind == VOLUME:
            return plan_volume(self._world.observe_volume(key.name), now=now)
        if key.kind == SNAPSHOT:
            snapshot = self._world.observe_snapshot(key.name)
            return plan_snapshot(snapshot, now=now) if snapshot else NOTHING
        if key.kind == STORAGE_CLUSTER:
            cluster = self._world.observe_cluster(key.name)
            return plan_cluster(cluster, now=now) if cluster else NOTHING
        if key.kind == REPLICATION_PAIR:
            pair = self._world.observe_pair(key.name)
            return plan_pair(pair, now=now) if pair else NOTHING
        raise ValueError(f"no plan for a {key.kind}")
