"""One worker a volume; a request is told that it is busy instead of waiting for ever."""

from __future__ import annotations

import asyncio

import pytest

from twinvault_core.errors import BusyError
from twinvault_engine.agent.locks import VolumeLocks


async def test_a_busy_volume_is_refused_with_what_it_is_busy_with() -> None:
    locks = VolumeLocks()
    async with locks.hold(["volume a"], "the agent grows it"):
        with pytest.raises(BusyError, match="grows it"):
            async with locks.hold(["volume a"], "x", wait_seconds=0):
                pass
        async with locks.hold(["volume b"], "x", wait_seconds=0):
            pass
    async with locks.hold(["volume a"], "x", wait_seconds=0):
        pass


async def test_waiters_go_on_one_after_the_other() -> None:
    locks, inside, most = VolumeLocks(), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with locks.hold(["v"], "work"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 1


async def test_crossing_pairs_of_keys_never_block_each_other_for_ever() -> None:
    locks = VolumeLocks()

    async def work(*keys: str) -> None:
        for _ in range(50):
            async with locks.hold(keys, "work"):
                await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(work("a", "b"), work("b", "a"), work("b", "c"), work("c", "a"))


async def test_nothing_is_held_by_one_who_gave_up_or_failed() -> None:
    locks = VolumeLocks()
    async with locks.hold(["a"], "work"):
        waiter = asyncio.ensure_future(_hold(locks, "a", "b"))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    with pytest.raises(RuntimeError):
        async with locks.hold(["a", "b"], "work", wait_seconds=0):
            raise RuntimeError("failed")
    async with locks.hold(["a", "b"], "work", wait_seconds=0):
        pass


async def _hold(locks: VolumeLocks, *keys: str) -> None:
    async with locks.hold(keys, "work"):
        pass
