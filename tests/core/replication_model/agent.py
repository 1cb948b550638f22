"""The agents of the model. They decide with the real functions and with nothing else.

Each advances by small phases, so that anything may happen between reading, looking, deciding,
writing and doing. A crash forgets everything but what is said to be kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twinvault_core.failover import plan_node_failover
from twinvault_core.failover_view import NodeView
from twinvault_core.fence import (
    CasOutcome,
    FenceAnswer,
    Promotion,
    decide_fence_answer,
    decide_promotion,
)
from twinvault_core.member_plan import MemberPlan, plan_members
from twinvault_core.model import FirstSync, ReplicationRecord, ReplicationSpec
from twinvault_core.replication import decide_replication_step
from twinvault_core.replication_state import SyncState
from twinvault_core.replication_view import Applied, LocalUse, ReplicationView, Step, StepKind
from twinvault_core.switchover import plan_switchover

from .api import Replica, Report
from .kernel import BLOCK_BYTES, Image, Kernel, other

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True)
class Decisions:
    """The functions under test. A mutation replaces one."""

    step: Callable[[ReplicationView], Step] = decide_replication_step
    fence: Callable[..., FenceAnswer] = decide_fence_answer
    promotion: Callable[..., Promotion] = decide_promotion
    node_failover: Callable[[NodeView], Any] = plan_node_failover
    switchover: Callable[..., Any] = plan_switchover
    members: Callable[..., MemberPlan] = plan_members
    reads_the_epoch: bool = True
    """Whether an operator reads the record anew right before it ends a pod."""


@dataclass
class Task:
    """Where one piece of an agent's work stands."""

    phase: str = "idle"
    record: ReplicationRecord | None = None
    version: int = 0
    step: Step | None = None
    sent: int = 0
    question: int = 0


class Agent:
    """``disk_failed`` and ``detached`` are on the node's own disk: a restart keeps them."""

    def __init__(self, world: World, node: str) -> None:
        self.world, self.node = world, node
        self.disk_failed = self.detached = self.journal = False
        self.replica_uid = 0
        self.heard: Replica | None = None
        self.restart()

    def restart(self) -> None:
        self.alive = True
        self.loop, self.fence, self.stage = Task(), Task(), Task()
        self.stalled, self.last_left = 0, -1
        self.looked: Report | None = None

    @property
    def reaches(self) -> bool:
        return self.world.api_up[self.node]

    def view(self, record: ReplicationRecord | None) -> ReplicationView:
        self._watch(self.world.drbd.kernels[self.node])
        return self.see(record)

    def see(self, record: ReplicationRecord | None) -> ReplicationView:
        """The same without remembering that it was looked at."""
        world, node = self.world, self.node
        kernel, image = world.drbd.kernels[node], world.drbd.images[node]
        return ReplicationView(
            volume="v",
            node=node,
            spec=self.spec(),
            record=record,
            drbd=kernel.observe(),
            use=LocalUse(int(world.app[node]), world.staged[node], self._is_staging()),
            question=kernel.question is not None and not kernel.promoting,
            deleting=world.api.deleting or (self.heard is not None and self.heard.deleting),
            image_ready=not image.broken,
            disk_failed=self.disk_failed,
            detached=self.detached,
            blank=is_blank(image),
            diverged=kernel.diverged,
            applied=Applied.ADDRESS if self.meets_another() else world.applied[node],
            stalled=self.stalled,
            different_bytes=self._find_different(kernel),
            hold=world.api.hold,
            verify=world.api.verify,
            stale=self.is_stale(),
            other_peer=self.meets_another(),
        )

    def _is_staging(self) -> bool:
        """A volume with one replica is not promoted, only mounted: nothing waits for that."""
        return self.stage.phase != "idle" and self.spec() is not None

    def spec(self) -> ReplicationSpec | None:
        """As the watch told it last."""
        if not self.world.moves:
            return make_spec(self.node, self.world.api.first_sync)
        return self.heard.spec if self.heard is not None else None

    def hear(self) -> None:
        self.heard = self.world.api.replicas.get(self.node)

    def is_stale(self) -> bool:
        known = self.heard is not None and self.replica_uid == self.heard.uid
        return self.world.moves and self.journal and not known

    def meets_another(self) -> bool:
        spec, kernel = self.spec(), self.world.drbd.kernels[self.node]
        return self.world.moves and spec is not None and kernel.up and kernel.port != spec.port

    def _find_different(self, kernel: Kernel) -> int:
        """Of two that are equal and at rest nothing but a verify marks blocks."""
        seen = kernel.observe()
        rests = seen is not None and seen.in_sync and kernel.syncing is SyncState.OFF
        return BLOCK_BYTES * len(kernel.image.dirty) if rests else 0

    def _watch(self, kernel: Kernel) -> None:
        if kernel.up and not kernel.attached and not self.detached:
            self.disk_failed = True
        left = len(kernel.left)
        waits = kernel.held or kernel.peer_held
        self.stalled = self.stalled + 1 if left and left == self.last_left and not waits else 0
        self.last_left = left

    # -- the step loop -------------------------------------------------------------------------

    def advance_loop(self) -> None:
        task = self.loop
        if task.phase == "idle":
            if self.world.moves and self.heard is None:
                return  # nobody says that anything is to be here
            task.record = self.world.api.record if self.reaches else None
            task.version, task.phase = self.world.api.version, "read"
        elif task.phase == "read":
            task.step = self.world.decisions.step(self.view(task.record))
            self.world.check_step(task.step)
            task.phase = "decided"
        elif task.phase == "decided":
            self._begin(task)
        elif task.phase == "sent":
            outcome = self.outcome(task.sent)
            resumes = task.step is not None and task.step.kind is StepKind.FENCE_THEN_RESUME
            won = outcome is CasOutcome.WON and resumes
            task.phase = "resume" if won else "idle"
        elif task.phase == "resume":
            self.world.resume(self.node)
            task.phase = "idle"

    def _begin(self, task: Task) -> None:
        step = task.step
        assert step is not None
        if step.write is not None:
            task.sent = self.world.api.send(task.version, step.write, self.node)
            task.phase = "sent"
            return
        task.phase = "idle"
        self.execute(step)

    def outcome(self, number: int) -> CasOutcome:
        """What the caller learns; if it cannot know, its write is still on its way."""
        done = self.world.api.outcome.get(number)
        if done is None or not self.reaches:
            return CasOutcome.UNANSWERED
        return CasOutcome.WON if done else CasOutcome.CONFLICT

    def execute(self, step: Step) -> None:
        """Do what the step says; one that only waits has nothing here."""
        if step.reason == "Down":
            self._erase()
        doing = getattr(self, f"_do_{step.kind.name.lower()}", None)
        if doing is not None:
            doing(step, self.world.drbd.kernels[self.node])

    def _do_up(self, step: Step, kernel: Kernel) -> None:
        kernel.up = True
        self._aim(kernel)
        fresh = step.fresh or (self.world.moves and not self.journal)
        if self.heard is not None:
            self.journal, self.replica_uid = True, self.heard.uid
        if not step.diskless:
            self.world.drbd.attach(self.node, fresh=fresh)
            self._attached(kernel)

    def _aim(self, kernel: Kernel) -> None:
        spec = self.spec()
        if self.world.moves and spec is not None:
            kernel.peer, kernel.port = spec.peer_node, spec.port

    def _do_disconnect(self, _: Step, __: Kernel) -> None:
        self.world.drbd.disconnect(self.node)

    def _erase(self) -> None:
        """What is left of a replica that was taken away, then its object."""
        heard, world = self.heard, self.world
        if heard is None or not heard.deleting or world.api.deleting or not self.reaches:
            return
        if world.staged[self.node] or world.app[self.node]:
            return
        world.drbd.erase(self.node)
        self.disk_failed = self.detached = self.journal = False
        if world.api.replicas.get(self.node) == heard:
            del world.api.replicas[self.node]
        self.heard = None

    def _do_connect(self, step: Step, _: Kernel) -> None:
        self.world.drbd.connect(self.node, discard=step.discard)

    _do_connect_as_target = _do_connect

    def _do_skip_first_sync(self, _: Step, __: Kernel) -> None:
        self.world.drbd.skip_first_sync(self.node)

    def _do_give_up_frozen_io(self, _: Step, kernel: Kernel) -> None:
        if kernel.frozen:
            self.detached = True
            self.world.drbd.force_disconnect(self.node)
            self.world.drbd.force_detach(self.node)
            self.world.drbd.resume(self.node)

    def _do_end_pods(self, _: Step, kernel: Kernel) -> None:
        self.world.app[self.node] = self.world.app[self.node] and kernel.frozen

    def _do_unmount(self, _: Step, __: Kernel) -> None:
        self.world.unmount(self.node)

    def _do_demote(self, _: Step, __: Kernel) -> None:
        if not self.world.staged[self.node]:
            self.world.drbd.demote(self.node)

    def _do_reattach(self, step: Step, kernel: Kernel) -> None:
        self.world.drbd.reattach(self.node, fresh=step.fresh)
        self._attached(kernel)

    def _do_reconnect(self, _: Step, __: Kernel) -> None:
        self.stalled = 0
        self._connect_anew()
        self.world.drbd.latched = False

    def _do_copy_marked(self, step: Step, kernel: Kernel) -> None:
        """Marks alone begin no resync, a primary that left its peer does."""
        unused = not kernel.primary
        if unused and not self.world.drbd.ask_promotion(self.node):
            return
        self._do_reconnect(step, kernel)
        if unused:
            self.world.drbd.demote(self.node)

    def _do_restart_sync(self, _: Step, __: Kernel) -> None:
        self.stalled, self.world.drbd.latched = 0, False

    def _do_hold_sync(self, _: Step, kernel: Kernel) -> None:
        kernel.held = True

    def _do_release_sync(self, _: Step, kernel: Kernel) -> None:
        kernel.held = False

    def _do_verify(self, _: Step, __: Kernel) -> None:
        self.world.drbd.verify(self.node)

    def _do_adjust(self, _: Step, __: Kernel) -> None:
        if self.world.applied[self.node] is Applied.ADDRESS or self.meets_another():
            self.world.drbd.disconnect(self.node)
            self._aim(self.world.drbd.kernels[self.node])
            self.world.drbd.connect(self.node)
        self.world.applied[self.node] = Applied.SAME

    def _connect_anew(self) -> None:
        self.world.drbd.disconnect(self.node)
        self.world.drbd.connect(self.node)

    def _do_down(self, step: Step, kernel: Kernel) -> None:
        if self.world.staged[self.node]:
            return  # in use: refused
        heard = self.heard if self.world.moves else None
        if heard is not None and heard.spec is None and not heard.deleting:
            # A device without DRBD is, to this model, one that looks for nobody.
            self.world.drbd.stand_alone(self.node)
            return
        self.world.drbd.down(self.node)
        if step.reason == "Stale":
            self.journal = False

    def _attached(self, kernel: Kernel) -> None:
        if kernel.attached:
            self.disk_failed = self.detached = False

    # -- the kernel's question -----------------------------------------------------------------

    def advance_fence(self) -> None:
        task, kernel = self.fence, self.world.drbd.kernels[self.node]
        if task.phase == "idle":
            if kernel.question is not None:
                task.question, task.phase = kernel.question, "ask"
        elif task.phase == "ask":
            task.record = self.world.api.record if self.reaches else None
            task.version = self.world.api.version
            self._answer(task, self.world.decisions.fence(self.node, task.record, kernel.disk))
        elif task.phase == "sent":
            outcome = self.outcome(task.sent)
            disk = kernel.disk
            self._answer(task, self.world.decisions.fence(self.node, task.record, disk, outcome))

    def _answer(self, task: Task, answer: FenceAnswer) -> None:
        if answer.exit is not None:
            task.phase = "idle"
            self.world.answer(self.node, task.question, answer.exit)
        elif answer.write is not None:
            task.sent = self.world.api.send(task.version, answer.write, self.node)
            task.phase = "sent"
        else:
            task.phase = "ask"

    # -- what it tells -------------------------------------------------------------------------

    def advance_report(self) -> None:
        """Look at the kernel, then write what was seen; by then it may be otherwise."""
        if self.looked is None:
            self.looked = self.world.look(self.node)
        else:
            self.world.api.reports[self.node], self.looked = self.looked, None

    # -- a pod comes ---------------------------------------------------------------------------

    def advance_stage(self) -> None:
        task, world = self.stage, self.world
        drbd = world.drbd.kernels[self.node].observe()
        if task.phase == "idle":
            if world.may_stage(self.node):
                task.phase = "ask"
        elif task.phase == "ask":
            task.record = world.api.record if self.reaches else None
            task.version = world.api.version
            self._promote(task, world.decisions.promotion(self.node, task.record, drbd))
        elif task.phase == "sent":
            outcome = self.outcome(task.sent)
            self._promote(task, world.decisions.promotion(self.node, task.record, drbd, outcome))
        elif task.phase == "promote":
            if world.promote(self.node):
                task.phase = "mount"
            elif world.drbd.kernels[self.node].question is None:
                task.phase = "idle"
        elif task.phase == "mount":
            task.phase = "idle"
            world.mount(self.node)

    def _promote(self, task: Task, promotion: Promotion) -> None:
        if promotion.allowed:
            task.phase = "promote"
        elif promotion.write is not None:
            task.sent = self.world.api.send(task.version, promotion.write, self.node)
            task.phase = "sent"
        else:
            task.phase = "ask" if promotion.read_again else "idle"


def is_blank(image: Image) -> bool:
    return image.generation is None and not any(image.blocks.values()) and not image.broken


def make_spec(node: str, first_sync: str) -> ReplicationSpec:
    return ReplicationSpec(
        1000, 7000, "10.0.0.1", other(node), "10.0.0.2", first_sync=FirstSync(first_sync)
    )
