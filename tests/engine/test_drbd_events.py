from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.engine.test_drbd_state import FRESH, FROZEN
from twinvault_core.replication_state import Disk, DrbdRole
from twinvault_engine.drbd_events import DrbdEvents
from twinvault_engine.drbd_state import HelperCall, ProcMinor, Resource

WAIT_SECONDS = 10.0


class Followed:
    """A stream over a script that stands in for drbdsetup, and all that it told."""

    def __init__(self, script: Path) -> None:
        self.told: asyncio.Queue[tuple[str, Resource | None]] = asyncio.Queue()
        self.helpers: list[HelperCall] = []
        self.minors: dict[int, ProcMinor] = {}
        self.stream = DrbdEvents(
            lambda name, resource: self.told.put_nowait((name, resource)),
            on_helper=self.helpers.append,
            command=["sh", str(script)],
            observe_minors=lambda: self.minors,
        )

    async def next(self) -> tuple[str, Resource | None]:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.told.get()


@asynccontextmanager
async def following(tmp_path: Path, script: str) -> AsyncIterator[Followed]:
    path = tmp_path / "events2"
    path.write_text(script)
    for name, text in (("fresh", FRESH), ("frozen", FROZEN)):
        (tmp_path / name).write_text(text)
    followed = Followed(path)
    task = asyncio.create_task(followed.stream.run())
    try:
        yield followed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_what_is_there_is_told_and_then_every_change(tmp_path: Path) -> None:
    script = f"""cat {tmp_path}/fresh
echo change resource name:tv-pg role:Primary
echo call helper name:tv-pg helper:fence-peer
echo change connection name:tv-pg connection:NetworkFailure role:Unknown
sleep 0.2
echo destroy resource name:tv-pg
sleep 60"""
    async with following(tmp_path, script) as followed:
        name, first = await followed.next()
        assert name == "tv-pg"
        assert first is not None
        assert first.state.connected
        _, changed = await followed.next()
        assert changed is not None
        assert changed.state.primary
        assert not changed.state.connected, "one change of the kernel is told whole"
        assert await followed.next() == ("tv-pg", None)
        assert followed.helpers == [HelperCall("tv-pg", "fence-peer", None)]


async def test_tool_that_ends_is_started_again_and_what_was_missed_is_told(tmp_path: Path) -> None:
    script = f"""if [ -e {tmp_path}/again ]; then cat {tmp_path}/frozen; sleep 60; fi
touch {tmp_path}/again
cat {tmp_path}/fresh"""
    async with following(tmp_path, script) as followed:
        _, first = await followed.next()
        _, second = await followed.next()
        assert first is not None
        assert second is not None
        assert not first.state.frozen
        assert second.state.frozen


async def test_tool_that_says_nothing_more_is_ended(tmp_path: Path) -> None:
    script = f"""if [ -e {tmp_path}/again ]; then cat {tmp_path}/frozen; sleep 60; fi
touch {tmp_path}/again
cat {tmp_path}/fresh
sleep 60"""
    async with following(tmp_path, script) as followed:
        await followed.next()
        frozen = ProcMinor(1000, DrbdRole.PRIMARY, Disk.UP_TO_DATE, True, 0)
        followed.minors = {1000: frozen}
        _, told = await followed.next()
        assert told is not None
        assert told.state.frozen
        assert followed.stream.resources["tv-pg"] == told


async def test_missing_tool_is_no_end(tmp_path: Path) -> None:
    stream = DrbdEvents(lambda _name, _resource: None, command=[str(tmp_path / "missing")])
    task = asyncio.create_task(stream.run())
    await asyncio.sleep(0.05)
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
