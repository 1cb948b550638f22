"""Leading and standing by: what happens when the Lease is taken and when it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from twinvault_kube.lease import LeaseKeeper

from .liveness import Liveness
from .triggers import Triggers
from .work_queue import WorkQueue
from .world import World

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
AGENTS_SECONDS = 1.0


class Leadership:
    """``leading`` follows the Lease at once; the queue is filled anew at each start of a lead.

    ``current``: whether the stores are kept current by now; there is no lead before that.
    """

    def __init__(
        self,
        keeper: LeaseKeeper,
        world: World,
        queue: WorkQueue,
        triggers: Triggers,
        liveness: Liveness,
        current: Callable[[], bool] = lambda: True,
    ) -> None:
        self._keeper, self._world = keeper, world
        self._queue, self._triggers, self._liveness = queue, triggers, liveness
        self._current = current
        self._led = False
        self.on_start: Callable[[], None] = lambda: None
        """Before anything is looked at: what an earlier lead of ours remembered may be old."""

    def leading(self) -> bool:
        """Whether writes are allowed at this very moment.

        1. A renewal is late: the Lease lapses, and work that comes up is dropped here.
        2. The renewal arrives before ``run`` looks again.
        3. So the lapse is noted here and now: the lead starts anew and looks at everything.
        """
        if self._led and not self._keeper.held:
            self._stop()
        return self._led

    async def run(self) -> None:
        """Follow the Lease, and the agents' Leases while leading, until cancelled."""
        turns = 0
        while True:
            held = self._keeper.held
            if held and not self._led and self._current():
                self._start()
            if self.leading() and turns % round(AGENTS_SECONDS / POLL_SECONDS) == 0:
                for node in self._liveness.find_changes(self._world.node_names()):
                    logger.info("agent of node %s: %s", node, self._liveness.state(node).value)
                    self._triggers.add_node(node)
            turns += 1
            await asyncio.sleep(POLL_SECONDS)

    def _start(self) -> None:
        """The agents' Leases were watched while we stood by: nothing has to be waited for."""
        logger.info("leading")
        self.on_start()
        self._led = True
        self._triggers.add_everything()

    def _stop(self) -> None:
        logger.warning("no longer leading")
        self._led = False
        self._queue.clear()
