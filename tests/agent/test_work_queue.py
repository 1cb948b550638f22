"""The queue: each key once, never twice at a time, failures repeated with growing patience."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from twinvault_core.errors import BusyError
from twinvault_engine.agent.work_queue import Handler, Key, Subject, WorkQueue


def key(name: str) -> Key:
    return Key(Subject.REPLICA, name)


@contextlib.asynccontextmanager
async def running(handle: Handler, **options: float) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(handle, **options)  # type: ignore[arg-type]
    task = asyncio.ensure_future(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_key_added_often_waits_once() -> None:
    handled: list[Key] = []

    async def handle(one: Key) -> float | None:
        handled.append(one)
        return None

    queue = WorkQueue(handle)
    for _ in range(5):
        queue.add(key("a"))
    queue.add(key("b"))
    task = asyncio.ensure_future(queue.run())
    await until(lambda: len(handled) == 2)
    await asyncio.sleep(0.01)
    task.cancel()
    assert handled == [key("a"), key("b")]


async def test_a_key_added_while_it_is_handled_is_handled_once_more() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    at_once = most = runs = 0

    async def handle(one: Key) -> float | None:
        nonlocal at_once, most, runs
        at_once, runs = at_once + 1, runs + 1
        most = max(most, at_once)
        started.set()
        await go_on.wait()
        at_once -= 1
        return None

    async with running(handle) as queue:
        queue.add(key("a"))
        await started.wait()
        queue.add(key("a"))
        queue.add(key("a"))
        go_on.set()
        await until(lambda: runs == 2)
        await asyncio.sleep(0.01)
    assert (runs, most) == (2, 1)


async def test_no_more_workers_than_allowed_are_busy() -> None:
    busy = most = done = 0

    async def handle(one: Key) -> float | None:
        nonlocal busy, most, done
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.001)
        busy, done = busy - 1, done + 1
        return None

    async with running(handle, workers=3) as queue:
        for number in range(20):
            queue.add(key(str(number)))
        await until(lambda: done == 20)
    assert most == 3


@pytest.mark.parametrize("error", [BusyError("busy"), RuntimeError("a bug")])
async def test_a_failure_is_repeated_and_harms_no_other_key(error: Exception) -> None:
    tries = {"bad": 0, "good": 0}

    async def handle(one: Key) -> float | None:
        tries[one.name] += 1
        if one.name == "bad" and tries["bad"] < 4:
            raise error
        return None

    async with running(handle, least_seconds=0.001, workers=1) as queue:
        queue.add(key("bad"))
        queue.add(key("good"))
        await until(lambda: tries == {"bad": 4, "good": 1})
        assert queue.depth == 0 or await asyncio.sleep(0.01) is None


async def test_delays_double_up_to_the_most_and_success_forgets_them() -> None:
    queue = WorkQueue(_nothing, least_seconds=1, most_seconds=6)
    delays = [queue._next_delay(key("a")) for _ in range(5)]
    assert delays == [1, 2, 4, 6, 6]
    assert queue._next_delay(key("b")) == 1
    queue.forget(key("a"))
    assert queue._next_delay(key("a")) == 1


async def test_an_add_cuts_a_delay_short() -> None:
    handled = 0

    async def handle(one: Key) -> float | None:
        nonlocal handled
        handled += 1
        return 3600.0

    async with running(handle) as queue:
        queue.add(key("a"))
        await until(lambda: handled == 1)
        queue.add(key("a"))
        await until(lambda: handled == 2)
        queue.add_after(key("a"), 0.001)
        await until(lambda: handled == 3)


async def _nothing(one: Key) -> float | None:
    return None
