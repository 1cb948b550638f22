"""Lives in each kernel: one engine with its fence server and its event stream, told what to do by
lines of JSON on standard input, answering by lines on standard output.

What an agent would decide is decided by the test: it sets the answer to each fence question.

Each call has a thread of its own, and what is said goes out by one more: a call that hangs on
frozen I/O takes nothing from the others, and neither a slow reader nor a slow disk stops the event
loop that answers the kernel's questions. With a pool, as many hanging calls as it has threads
(five, with one processor) made the engine dumb.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import Expand, Publish, Stage, Unpublish, Unstage
from twinvault_core.errors import TwinvaultError
from twinvault_core.model import (
    Meta,
    PoolSpec,
    PoolState,
    ReplicationSpec,
    VolumeMode,
    VolumeReplica,
)
from twinvault_engine import steps
from twinvault_engine.agent.fence_server import FenceServer, Question
from twinvault_engine.drbd_events import DrbdEvents
from twinvault_engine.drbd_state import Resource
from twinvault_engine.engine import Engine
from twinvault_engine.replication import Act

POOL = "fast"
DATA = Path("/var/lib/twinvault")
KUBELET = Path("/var/lib/kubelet")
HELPER = Path("/run/host/fence-peer")


class Driver:
    def __init__(self) -> None:
        self.engine = Engine(DATA, "node", KUBELET, helper_source=HELPER)
        self.recovery = self.engine.recover()
        self.answers = {"fence-peer": 1, "before-resync-target": 0}
        self.asked: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.stream = DrbdEvents(self._changed)
        self.tasks: list[asyncio.Task[None]] = []

    def pool(self, device: str) -> str:
        status = self.engine.ensure_pool(PoolSpec(POOL, paths=(device,)), "east")
        assert status.state is PoolState.READY, status
        return status.state.value

    async def serve(self) -> None:
        """Fence server and event stream, as the agent runs them."""
        await in_thread(self.engine.replication.ensure_module)
        await in_thread(self.engine.replication.ensure_helper)
        await FenceServer(self.engine.replication.fence_paths().socket, self._decide).start()
        self.tasks.append(asyncio.create_task(self.stream.run()))
        await self.stream.wait_for_first(10)

    async def _decide(self, question: Question) -> int:
        answer = self.answers.get(question.handler, 0)
        self.asked.append({**asdict(question), "at": time.time(), "answer": answer})
        return answer

    def _changed(self, name: str, resource: Resource | None) -> None:
        said = describe(resource) if resource else None
        self.events.append({"name": name, "at": time.time(), "resource": said})

    def volume(self, name: str, size_bytes: int, mode: str = "Filesystem") -> dict[str, Any]:
        wanted = VolumeReplica(
            meta=Meta(f"{name}.node"),
            volume=name,
            volume_uid=f"uid-{name}",
            node="node",
            storage_cluster="east",
            pool=POOL,
            size_bytes=size_bytes,
            volume_mode=VolumeMode(mode),
            fs_type="ext4" if mode == "Filesystem" else "",
        )
        return facts_of(self.engine.ensure_volume(wanted))

    def replica(
        self, name: str, spec: dict[str, Any], diskless: bool = False, whole: bool = False
    ) -> dict[str, Any]:
        parsed = ReplicationSpec.parse(spec)
        assert parsed is not None
        made = self.engine.replication.ensure_replica(
            POOL, name, parsed, diskless=diskless, whole=whole
        )
        return describe_replica(made)

    def renew_metadata(self, name: str) -> None:
        self.engine.replication.renew_metadata(POOL, name)

    def take_down(self, name: str) -> None:
        self.engine.replication.take_down(POOL, name, f"uid-{name}")

    def rejoin(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        parsed = ReplicationSpec.parse(spec)
        assert parsed is not None
        return describe_replica(self.engine.replication.rejoin(POOL, name, parsed))

    def observe(self, name: str) -> dict[str, Any]:
        return describe_replica(self.engine.replication.observe_replica(POOL, name))

    def recover(self) -> None:
        found = self.engine.recover()
        assert not found.left_alone, found.left_alone

    def act(self, name: str, act: str) -> None:
        self.engine.replication.act(POOL, name, Act(act))

    def go_on_alone(self, name: str) -> None:
        self.engine.replication.go_on_alone(POOL, name)

    def fail_frozen_io(self, name: str) -> None:
        self.engine.replication.fail_frozen_io(POOL, name)

    def resize(self, name: str, peer_part_is_blank: bool) -> int:
        return self.engine.replication.resize(POOL, name, peer_part_is_blank=peer_part_is_blank)

    def quiesce(self, name: str, token: str, seconds: float) -> str:
        return self.engine.replication.quiesce(POOL, name, token, seconds=seconds).value

    def release(self, token: str) -> None:
        self.engine.replication.release(token)

    def snapshot(self, name: str, snapshot: str, quiesced: bool) -> str:
        facts = self.engine.ensure_snapshot(POOL, snapshot, name, f"uid-{name}", quiesced=quiesced)
        return facts.creation_time

    def stage(self, name: str, mode: str = "Filesystem") -> str:
        fs_type = "ext4" if mode == "Filesystem" else ""
        request = Stage(name, str(KUBELET / name), mode, fs_type)
        return str(self.engine.stage(request)["devicePath"])

    def lift(self, name: str) -> bool:
        """Whether it must be staged anew, as it is when it is to be replicated and is not yet."""
        return self.engine.lift(name, replicated=True) is not None

    def publish(self, name: str, target: str, mode: str = "Filesystem") -> None:
        request = Publish(name, str(KUBELET / name), str(KUBELET / target), mode)
        self.engine.publish(request)

    def unpublish(self, name: str, target: str) -> None:
        self.engine.unpublish(Unpublish(name, str(KUBELET / target)))

    def unstage(self, name: str) -> None:
        self.engine.unstage(Unstage(name, str(KUBELET / name)))

    def expand(self, name: str, size_bytes: int) -> int:
        return int(self.engine.expand(Expand(name, str(KUBELET / name), size_bytes))["sizeBytes"])

    def erase(self, name: str) -> None:
        self.engine.erase_volume(POOL, name, f"uid-{name}")

    def remove_replica(self, name: str) -> None:
        self.engine.replication.remove_replica(POOL, name)

    def restore_helper(self) -> str:
        self.engine.replication.restore_helper()
        return self.engine.replication.replicas.fence.observe_configured()

    def holdings(self) -> list[str]:
        return [f"{h.kind} {h.name}" for h in self.engine.list_holdings() if h.kind != "pool-mount"]

    def answer(self, handler: str, code: int) -> None:
        self.answers[handler] = code

    def take_asked(self) -> list[dict[str, Any]]:
        asked, self.asked = self.asked, []
        return asked

    def take_events(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events

    def kill_stream(self) -> int:
        """End events2 as a fault would; the stream must come back by itself."""
        ended = 0
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"events2" in words and b"all" in words:
                    os.kill(int(entry.name), signal.SIGKILL)
                    ended += 1
        return ended


def facts_of(facts: Any) -> dict[str, Any]:
    return {"size_bytes": facts.size_bytes, "ready": facts.ready, "device": facts.device_path}


def describe(resource: Resource) -> dict[str, Any]:
    state = resource.state
    return {
        "connection": state.connection,
        "sync": state.sync,
        "role": state.role,
        "peer_role": state.peer_role,
        "disk": state.disk,
        "peer_disk": state.peer_disk,
        "suspended": sorted(state.suspended),
        "frozen": state.frozen,
        "in_sync": state.in_sync,
        "size_bytes": resource.size_bytes,
        "out_of_sync_bytes": resource.out_of_sync_bytes,
        "held": state.held,
    }


def describe_replica(facts: Any) -> dict[str, Any]:
    said = {"blank": facts.blank, "metadata_bytes": facts.metadata_bytes, "up": False}
    if facts.resource is not None:
        said |= {"up": True, **describe(facts.resource)}
    return said


def describe_error(error: BaseException) -> dict[str, Any]:
    code = error.code.value if isinstance(error, TwinvaultError) else ""
    return {"error": f"{type(error).__name__}: {error}", "code": code}


TRACE = Path("/run/inside.trace")
"""Where SIGUSR1 makes every thread of this process say where it is."""


async def in_thread(work: Callable[..., Any], **arguments: Any) -> Any:
    """The result of ``work`` in a thread that is nobody else's, and that no exit waits for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work(**arguments)
        except Exception as error:  # noqa: BLE001 - told to whoever awaits
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await future


def start_speaking() -> Callable[[dict[str, Any]], None]:
    """What is said goes out in order, by a thread of its own."""
    said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def speak() -> None:
        while True:
            print(json.dumps(said.get()), flush=True)

    threading.Thread(target=speak, daemon=True).start()
    return said.put


async def main() -> None:
    driver = await in_thread(Driver)
    say = start_speaking()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    tasks = set()

    async def answer(line: str) -> None:
        number, method, arguments = json.loads(line)
        begun = time.monotonic()
        try:
            call = getattr(driver, method)
            if inspect.iscoroutinefunction(call):
                result = await call(**arguments)
            elif method.startswith(("take_", "answer")):
                result = call(**arguments)
            else:
                result = await in_thread(call, **arguments)
            said: dict[str, Any] = {"result": result}
        except Exception as error:  # noqa: BLE001 - told to the test
            said = describe_error(error)
        said |= {"number": number, "seconds": time.monotonic() - begun}
        say(said)

    while (line := await lines.get()) is not None:
        task = asyncio.create_task(answer(line))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def once(method: str, arguments: str, index: str) -> None:
    """One call in a process that is killed (SIGKILL) at its step number ``index``; the step's name
    is printed before. An error is told and ends it with 1.
    """
    driver = Driver()
    count = 0

    def hook(name: str) -> None:
        nonlocal count
        if count == int(index):
            print(name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    steps.install(hook)
    getattr(driver, method)(**json.loads(arguments))


if __name__ == "__main__":
    if sys.argv[1:2] == ["once"]:
        once(*sys.argv[2:5])
    else:
        with TRACE.open("w") as trace:
            faulthandler.register(signal.SIGUSR1, trace)
            asyncio.run(main())
