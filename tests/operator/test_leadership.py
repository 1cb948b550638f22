"""Taking, losing and lapsing of the lead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import cast

from tests.operator.model_api import ModelApi, ModelOperator
from twinvault_kube.lease import LeaseKeeper
from twinvault_operator import leadership
from twinvault_operator.leadership import Leadership
from twinvault_operator.work_queue import Key


class _Keeper:
    held = False


class _Rig:
    def __init__(self) -> None:
        api = ModelApi()
        spec = {"sizeBytes": 4096, "pool": "fast"}
        api.create("volumes", {"metadata": {"name": "v"}, "spec": spec})
        self.operator = ModelOperator(api, [0.0])
        self.keeper, self.current = _Keeper(), True
        self.lead = Leadership(
            cast(LeaseKeeper, self.keeper),
            self.operator.world,
            self.operator.queue,
            self.operator.triggers,
            self.operator.liveness,
            lambda: self.current,
        )

    async def turn(self) -> None:
        """Until ``run`` has looked again."""
        await asyncio.sleep(leadership.POLL_SECONDS * 1.5)


@asynccontextmanager
async def _running() -> AsyncIterator[_Rig]:
    rig = _Rig()
    task = asyncio.create_task(rig.lead.run())
    try:
        yield rig
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_new_leader_looks_at_everything() -> None:
    async with _running() as rig:
        rig.operator.queue.due.clear()
        assert not rig.lead.leading()
        rig.keeper.held = True
        await rig.turn()
        assert rig.lead.leading()
        assert Key("Volume", "v") in rig.operator.queue.due


async def test_what_an_earlier_lead_remembered_is_forgotten_before_anything_is_looked_at() -> None:
    async with _running() as rig:
        seen: list[bool] = []
        rig.operator.queue.due.clear()
        rig.lead.on_start = lambda: seen.append(bool(rig.operator.queue.due))
        for held in (True, False, True):
            rig.keeper.held = held
            rig.lead.leading()
            await rig.turn()
            rig.operator.queue.due.clear()
        assert seen == [False, False]


async def test_no_lead_starts_on_stores_that_nobody_kept_current() -> None:
    async with _running() as rig:
        rig.current, rig.keeper.held = False, True
        await rig.turn()
        assert not rig.lead.leading()
        rig.current = True
        await rig.turn()
        assert rig.lead.leading()


async def test_a_lost_lease_stops_writes_at_once() -> None:
    async with _running() as rig:
        rig.keeper.held = True
        await rig.turn()
        rig.keeper.held = False
        assert not rig.lead.leading()


async def test_a_lapse_that_was_over_before_anybody_looked_still_starts_the_lead_anew() -> None:
    async with _running() as rig:
        rig.keeper.held = True
        await rig.turn()
        rig.operator.queue.due.clear()
        rig.keeper.held = False
        assert not rig.lead.leading()
        rig.keeper.held = True
        assert not rig.lead.leading()
        await rig.turn()
        assert rig.lead.leading()
        assert Key("Volume", "v") in rig.operator.queue.due
