"""A replicated volume whose I/O stands still without being frozen is told, and so is its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.agent.fake_drbd import MINOR, VOLUME
from tests.agent.metro_world import EAST, REPLICAS, MetroWorld
from twinvault_core.replication_state import Disk, DrbdRole
from twinvault_engine.agent.stall_watch import StallWatch
from twinvault_engine.drbd_stall import PATIENCE_SECONDS
from twinvault_engine.drbd_state import ProcMinor


async def test_a_stall_stands_in_the_replicas_status_until_it_is_over(tmp_path: Path) -> None:
    metro = MetroWorld(tmp_path)
    seen = ProcMinor(MINOR, DrbdRole.PRIMARY, Disk.UP_TO_DATE, False, 0, pending=1, counters="x")
    told: list[frozenset[str]] = []
    now = 0.0

    def look() -> dict[int, ProcMinor]:
        nonlocal now
        now += PATIENCE_SECONDS / 2
        return {MINOR: seen}

    async with metro.running():
        await metro.east.stage()
        agent = metro.east.agent
        assert agent is not None
        reporter = agent.replication.reporter

        def on_change(volumes: frozenset[str]) -> None:
            told.append(volumes)
            reporter.stalled(volumes)

        watch = StallWatch(
            agent.replication.feed, on_change, observe=look, look_seconds=0, now=lambda: now
        )
        task = asyncio.ensure_future(watch.run())
        await metro.until(lambda: bool(metro.east.status.get("stalledSince")), "the stall")
        seen = ProcMinor(MINOR, DrbdRole.PRIMARY, Disk.UP_TO_DATE, False, 0)
        await metro.until(lambda: "stalledSince" not in metro.east.status, "its end")
        task.cancel()
    assert told == [{VOLUME}, frozenset()]
    assert metro.record.primary == EAST


async def test_a_new_agent_does_not_go_on_telling_of_a_stall_that_is_over(tmp_path: Path) -> None:
    metro = MetroWorld(tmp_path)
    async with metro.running():
        await metro.until_in_sync()
    obj = metro.api.objects[(REPLICAS, f"{VOLUME}.{EAST}")]
    told = {**obj["status"]["replication"], "stalledSince": "2026-03-01T01:00:00Z"}
    await metro.api.put(REPLICAS, {**obj, "status": {**obj["status"], "replication": told}})
    async with metro.east.running():
        await metro.until(lambda: "stalledSince" not in metro.east.status, "the stall to be over")
