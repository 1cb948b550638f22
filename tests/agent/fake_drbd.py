"""The kernels of two nodes for tests of two agents: the model that the decisions are proved
against (tests/core/replication_model), with the engine's calls in front and the helper behind.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.agent.fake_storage import NoReplication
from tests.core.replication_model.drbd import Drbd
from tests.core.replication_model.kernel import USABLE, Kernel, Write
from tests.core.replication_model.kernel import other as other_letter
from twinvault_core.errors import (
    DeadlineError,
    FailedPreconditionError,
    InUseError,
    NotFoundError,
    UnavailableError,
)
from twinvault_core.fence import FenceExit
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Disk, Resync
from twinvault_engine.drbd_events import OnChange
from twinvault_engine.drbd_quiesce import Hold
from twinvault_engine.drbd_replica import ReplicaFacts
from twinvault_engine.drbd_state import Resource
from twinvault_engine.local_use import VolumeUse
from twinvault_engine.replication import Act

VOLUME = "v"
MINOR = 1000
RESOURCE = f"tv-{VOLUME}"
LETTERS = {"east-1": "a", "west-1": "b"}
NODES = tuple(LETTERS)
GIVE_UP_SECONDS = 4.0


def ask_helper(path: Path, handler: str, what: str) -> int:
    """As the program on the host does: whatever goes wrong is 1."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(GIVE_UP_SECONDS)
            client.connect(str(path))
            client.sendall(f"{handler} {what} ipv4 10.0.0.2\n".encode())
            return int(client.makefile().readline() or 1)
    except (OSError, ValueError):
        return 1


class Pair:
    """One volume on two nodes. Every change is followed by what DRBD does by itself, and told."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.acknowledged: list[tuple[str, int, bool]] = []
        self.drbd = Drbd(self._acknowledge)
        self.sockets: dict[str, Path] = {}
        self.listeners: dict[str, Callable[[], None]] = {}
        self.answers: list[tuple[str, str, int]] = []
        self.refuse_resync = False
        self.different_bytes = 0
        self._asked: set[int] = set()
        self._meeting = False

    def _acknowledge(self, letter: str, write: Write, alone: bool) -> None:
        self.acknowledged.append((letter, write.number, alone))

    def kernel(self, node: str) -> Kernel:
        return self.drbd.kernels[LETTERS[node]]

    def do(self, work: Callable[[], object]) -> None:
        """``work``, then everything that follows from it."""
        with self.lock:
            work()
            self.settle()

    def settle(self) -> None:
        with self.lock:
            for letter in LETTERS.values():
                if self.drbd.notices_loss(letter):
                    self.drbd.lose(letter)
            while self.drbd.kernels["a"].left and not self.drbd.latched and not self._held():
                self.drbd.copy()
            if self.drbd.can_meet() and not self._meeting:
                self._meeting = True
                threading.Thread(target=self._meet, daemon=True).start()
            for node, letter in LETTERS.items():
                question = self.drbd.kernels[letter].question
                promoting = self.drbd.kernels[letter].promoting
                if question is not None and not promoting and question not in self._asked:
                    self._asked.add(question)
                    arguments = (node, question)
                    threading.Thread(target=self._ask, args=arguments, daemon=True).start()
        for told in list(self.listeners.values()):
            told()

    def _held(self) -> bool:
        return any(kernel.held for kernel in self.drbd.kernels.values())

    def end_verify(self, different_bytes: int = 0) -> None:
        """The comparison is over; what differs is marked until the link is made anew."""
        self.different_bytes = different_bytes
        self.do(self.drbd.end_verify)

    def _ask(self, node: str, question: int) -> None:
        code = self.ask(node, "fence-peer", RESOURCE)
        self.do(lambda: self._take(node, question, code))

    def ask(self, node: str, handler: str, what: str) -> int:
        code = ask_helper(self.sockets[node], handler, what)
        self.answers.append((node, handler, code))
        return code

    def _take(self, node: str, question: int, code: int) -> None:
        exits = {int(e): e for e in FenceExit}
        exit_code = exits.get(code, FenceExit.UNSURE)
        kernel = self.kernel(node)
        if exit_code is FenceExit.UNSURE and kernel.question == question and kernel.promoting:
            kernel.question, kernel.promoting = None, False
        self.drbd.answer(LETTERS[node], question, exit_code)

    def _meet(self) -> None:
        """The handshake; a target's helper is asked before the first block is written over."""
        with self.lock:
            one, two = self.drbd.kernels.values()
            source, _ = self.drbd._choose_source(one, two)
        allowed = True
        if isinstance(source, Kernel):
            target = next(n for n, letter in LETTERS.items() if letter != source.node)
            allowed = self.ask(target, "before-resync-target", f"minor-{MINOR}") == 0
        elif source == "diverged":
            for node in NODES:
                self.ask(node, "split-brain", f"minor-{MINOR}")
        with self.lock:
            self._meeting = False
            if allowed and self.drbd.can_meet():
                self.drbd.meet()
        if allowed:
            self.settle()
        else:
            threading.Timer(0.05, self.settle).start()

    def cut(self) -> None:
        self.do(lambda: setattr(self.drbd, "cable", False))

    def heal(self) -> None:
        self.do(lambda: setattr(self.drbd, "cable", True))

    def write(self, node: str, block: int = 0) -> None:
        """A pod writes; when frozen it is not acknowledged."""
        self.do(lambda: self.drbd.write(LETTERS[node], block, local=True, remote=True))

    def acknowledges(self, node: str) -> bool:
        with self.lock:
            before = len(self.acknowledged)
            self.write(node, block=1)
            return len(self.acknowledged) > before

    def images_are_equal(self) -> bool:
        with self.lock:
            one, two = self.drbd.images.values()
            return one.blocks == two.blocks


class FakeEvents:
    """``DrbdEvents`` over the pair, for one node."""

    def __init__(self, pair: Pair, node: str, on_change: OnChange) -> None:
        self._pair, self._node, self._on_change = pair, node, on_change
        self._told: Resource | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._pair.listeners[self._node] = lambda: loop.call_soon_threadsafe(changed.set)
        try:
            while True:
                with self._pair.lock:
                    state = self._pair.kernel(self._node).observe()
                now = (
                    None
                    if state is None
                    else Resource(RESOURCE, replace(state, resync=None), MINOR)
                )
                if now != self._told:
                    self._told = now
                    self._on_change(RESOURCE, now)
                await changed.wait()
                changed.clear()
        finally:
            del self._pair.listeners[self._node]


class FakeReplication(NoReplication):
    """The engine's part of one node. ``told`` are the commands that changed something."""

    def __init__(self, pair: Pair, node: str) -> None:
        super().__init__()
        self._pair, self._node, self._letter = pair, node, LETTERS[node]
        self._drbd = pair.drbd
        self._spec: ReplicationSpec | None = None
        self._renewed = False
        self.targets: list[str] = []
        self.told: list[str] = []
        self.keeps_pods = False
        self.size_bytes = 0
        self.late_releases = 0

    @property
    def _kernel(self) -> Kernel:
        return self._drbd.kernels[self._letter]

    def ensure_module(self) -> str:
        return "8.4.11"

    def ensure_helper(self) -> None:
        """Nothing to install."""

    def restore_helper(self) -> None:
        self.told.append("restore_helper")

    def ensure_replica(
        self,
        pool: str,
        volume_id: str,
        spec: ReplicationSpec,
        *,
        diskless: bool = False,
        whole: bool = False,
    ) -> ReplicaFacts:
        with self._pair.lock:
            known = self._spec
            self._spec = spec.lasting()
            moved = known is not None and known.port != spec.port
            if moved and self._kernel.up:
                self._change("move", lambda: self._reconnect())
            if not self._kernel.up or self._renewed:
                self._change("up", lambda: self._up(diskless))
        return self.observe_replica(pool, volume_id)

    def _up(self, diskless: bool) -> None:
        self._kernel.up = True
        if not diskless:
            self._drbd.attach(self._letter, fresh=self._renewed)
            self._renewed = False
            self._drbd.connect(self._letter)

    def _reconnect(self) -> None:
        self._drbd.disconnect(self._letter)
        self._drbd.connect(self._letter)

    def _change(self, what: str, work: Callable[[], object]) -> None:
        self.told.append(what)
        self._pair.do(work)

    def observe_replica(self, pool: str, volume_id: str) -> ReplicaFacts:
        with self._pair.lock:
            if volume_id != VOLUME or self._spec is None:
                raise NotFoundError(f"{volume_id} is not replicated here")
            state, image = self._kernel.observe(), self._kernel.image
            resource = None
            resync = None
            if state is not None:
                marked = self._pair.different_bytes
                told = replace(state, resync=None)
                resource = Resource(RESOURCE, told, MINOR, self.size_bytes, marked)
                resync = Resync(50.0, 4096 * len(self._kernel.left)) if self._kernel.left else None
            blank = image.generation is None and not any(image.blocks.values())
            return ReplicaFacts(volume_id, self._spec, resource, blank, 4 << 20, resync)

    def renew_metadata(self, pool: str, volume_id: str) -> None:
        if self._kernel.attached:
            raise FailedPreconditionError("attached")
        self._renewed = True

    def act(self, pool: str, volume_id: str, act: Act) -> None:
        letter, drbd = self._letter, self._drbd
        works: dict[Act, Callable[[], object]] = {
            Act.SKIP_FIRST_SYNC: lambda: drbd.skip_first_sync(letter),
            Act.START_FULL_SYNC: lambda: self._start_full_sync(),
            Act.ACCEPT_OUTDATED: lambda: self._accept_outdated(),
            Act.DEMOTE: lambda: drbd.demote(letter),
            Act.ATTACH: lambda: self._attach(),
            Act.CONNECT: lambda: drbd.connect(letter),
            Act.CONNECT_DISCARDING: lambda: drbd.connect(letter, discard=True),
            Act.DISCONNECT: lambda: drbd.disconnect(letter),
            Act.COPY_MARKED: lambda: self._copy_marked(),
            Act.HOLD_SYNC: lambda: setattr(self._kernel, "held", True),
            Act.RELEASE_SYNC: lambda: setattr(self._kernel, "held", False),
            Act.VERIFY: lambda: drbd.verify(letter),
        }
        self._change(act.value, works[act])

    def _copy_marked(self) -> None:
        self._pair.different_bytes = 0
        self._reconnect()

    def _attach(self) -> None:
        self._drbd.reattach(self._letter, fresh=self._renewed)
        self._renewed = False

    def _accept_outdated(self) -> None:
        assert self._kernel.disk is Disk.OUTDATED, "primary --force would take anything"
        self._drbd._promote_alone(self._kernel)
        self._drbd.demote(self._letter)

    def _start_full_sync(self) -> None:
        self._kernel.image.generation = self._drbd.next()
        self._kernel.image.state = Disk.UP_TO_DATE
        self._reconnect()

    def go_on_alone(self, pool: str, volume_id: str) -> None:
        if self._kernel.frozen and self._kernel.primary:
            self._change("go_on_alone", lambda: self._drbd.resume(self._letter))

    def fail_frozen_io(self, pool: str, volume_id: str) -> None:
        if not self._kernel.frozen:
            return
        self.end_pods(pool, volume_id)

        def give_up() -> None:
            self._drbd.force_disconnect(self._letter)
            self._drbd.force_detach(self._letter)
            self._drbd.resume(self._letter)

        self._change("fail_frozen_io", give_up)

    def resize(self, pool: str, volume_id: str, *, peer_part_is_blank: bool) -> int:
        self.told.append("resize")
        self.size_bytes *= 2
        return self.size_bytes

    def quiesce(self, pool: str, volume_id: str, token: str, *, seconds: float) -> Hold:
        if not self._kernel.primary:
            raise FailedPreconditionError("not primary here")
        self.told.append(f"quiesce {token}")
        return Hold.FROZEN

    def release(self, token: str) -> None:
        self.told.append(f"release {token}")
        if self.late_releases:
            self.late_releases -= 1
            raise DeadlineError("writes went on before")

    def take_down(self, pool: str, volume_id: str, volume_uid: str) -> None:
        if self._kernel.primary:
            raise InUseError("primary")
        self._change("down", lambda: self._drbd.down(self._letter))

    def revive(self) -> None:
        """The kernel has it, as on a node that was cut off while everybody forgot it."""
        self._spec = ReplicationSpec(MINOR, 7000, "10.0.0.1", "other", "10.0.0.2")
        self._kernel.up = True

    def remove_replica(self, pool: str, volume_id: str) -> None:
        self.take_down(pool, volume_id, "")
        self._spec = None

    def observe_use(self, pool: str, volume_id: str) -> VolumeUse:
        if volume_id != VOLUME:
            return VolumeUse((), self.staged.get(volume_id, ""))
        return VolumeUse(tuple(self.targets), self.staged.get(volume_id, ""))

    def end_pods(self, pool: str, volume_id: str) -> None:
        self.told.append("end_pods")
        if not self.keeps_pods:
            self.targets.clear()

    # -- for FakeStorage -------------------------------------------------------------------------

    def open(self, volume_id: str) -> str:
        if volume_id != VOLUME or self._spec is None:
            return ""
        with self._pair.lock:
            self._pair.do(lambda: self._drbd.ask_promotion(self._letter))
            question = self._kernel.question
            peer = self._drbd.kernels[other_letter(self._letter)]
            refused = self._kernel.link is not None and peer.primary
        if refused and not self._kernel.primary:
            raise FailedPreconditionError("the other one is primary")
        if question is not None and not self._kernel.primary:
            code = self._pair.ask(self._node, "fence-peer", RESOURCE)
            self._pair.do(lambda: self._pair._take(self._node, question, code))
        if not self._kernel.primary:
            raise UnavailableError("the helper did not allow it")
        self.told.append("promote")
        return f"/dev/drbd{MINOR}"

    def close(self, volume_id: str) -> None:
        if volume_id == VOLUME and self._kernel.primary:
            self._change("demote", lambda: self._drbd.demote(self._letter))

    @property
    def has_good_data(self) -> bool:
        return self._kernel.disk in USABLE
