"""Everything at once: two kernels, two agents, two operators, the API, pods; and what must hold.

``actions()`` names what can happen now; ``do()`` lets it happen and checks every invariant. After
any course ``heal()`` takes all faults away and demands that the volume works again at both sites.
"""

from __future__ import annotations

from dataclasses import replace

from twinvault_core.failover_view import Swap
from twinvault_core.fence import FenceExit
from twinvault_core.model import ReplicationRecord, ReplicationStatus
from twinvault_core.replication_state import Disk
from twinvault_core.replication_view import Applied, Step, StepKind

from .agent import Agent, Decisions, is_blank
from .api import Api, Report
from .drbd import Drbd
from .events import ELSEWHERE, ON_NODE, Action, list_actions
from .kernel import BLOCKS, NODES, USABLE, Write
from .moves import site_of
from .operator import EXPIRED_TICKS, Heard, Operator
from .progress import find_standstill


class ViolationError(AssertionError):
    """One of the invariants does not hold."""


class World:
    """One volume, everybody who works on it, and what is true of it."""

    api: Api
    drbd: Drbd
    agents: dict[str, Agent]
    operators: list[Operator]
    decisions: Decisions

    def __init__(
        self,
        decisions: Decisions | None = None,
        *,
        ready: bool = True,
        nodes: tuple[str, ...] = NODES,
        manual: bool = False,
    ) -> None:
        self.decisions, self.nodes = decisions or Decisions(), nodes
        self.moves = len(nodes) > len(NODES)
        self.api = Api(self._record_changed)
        self.api.manual = manual
        self.api.lease = dict.fromkeys(nodes, 0)
        if self.moves:
            self.api.record = replace(self.api.record, nodes=frozenset(NODES))
        self.drbd = Drbd(self._acknowledged, nodes)
        self.acknowledged = dict.fromkeys(BLOCKS, 0)
        self.staged, self.app = dict.fromkeys(self.nodes, False), dict.fromkeys(self.nodes, False)
        self.api_up = dict.fromkeys(self.nodes, True)
        self.applied = dict.fromkeys(self.nodes, Applied.SAME)
        self.agents = {node: Agent(self, node) for node in self.nodes}
        self.operators = [Operator(self), Operator(self)]
        self.tick = 0
        self.renewed = dict.fromkeys(self.nodes, 0)
        self.trace: list[Action] = []
        self.steps: set[StepKind] = set()
        if ready:
            self.heal()

    # -- what must hold --------------------------------------------------------------------------

    def check(self) -> None:
        self._check_every_write_is_held()
        able = [n for n in self.nodes if self.drbd.can_acknowledge(n)]
        if len(able) > 1:
            raise ViolationError("two primaries that can both acknowledge")
        for node in self.nodes:
            if self.drbd.kernels[node].diverged:
                raise ViolationError("the replicas diverged")
        words = self.api.words_used
        if len(words) != len(set(words)):
            raise ViolationError("one approval allowed two failovers")
        standstill = find_standstill(self)
        if standstill:
            raise ViolationError(f"{standstill}, nobody does anything, no condition says why")

    def _check_every_write_is_held(self) -> None:
        """Whoever the record allows to be primary, and the kernel too, misses nothing."""
        for node in self.api.record.in_sync:
            image = self.drbd.images[node]
            if image.state not in USABLE or image.broken or self.agents[node].detached:
                continue
            for block, number in self.acknowledged.items():
                if block not in image.rotten and image.blocks[block] < number:
                    raise ViolationError(f"{node} may become primary and misses write {number}")

    def _acknowledged(self, node: str, write: Write, alone: bool) -> None:
        self.acknowledged[write.block] = max(self.acknowledged[write.block], write.number)
        if alone:
            # R1, at the very moment of the acknowledgement.
            self._check_every_write_is_held()

    def _record_changed(self, before: ReplicationRecord, after: ReplicationRecord, by: str) -> None:
        if after.serial != before.serial + 1:
            raise ViolationError("a write of the record that did not count")
        if after.primary != before.primary:
            if by or after.epoch != before.epoch + 1 or after.primary not in before.in_sync:
                raise ViolationError("R2: primary without being in sync, or not by the operator")
        elif after.nodes and not after.in_sync <= after.nodes:
            raise ViolationError("somebody is counted on who holds no replica any more")
        elif after.epoch != before.epoch:
            raise ViolationError("the epoch moved without a new primary")

    def check_step(self, step: Step) -> None:
        if not step.reason or not step.message:
            raise ViolationError("a decision that does not say why")
        self.steps.add(step.kind)

    def silent_ticks(self) -> dict[str, int]:
        """The truth, at the moment that an operator reads the Leases."""
        return {node: self.tick - self.renewed[node] for node in self.nodes}

    def told_of_link(self) -> set[str]:
        return {n for n, report in self.api.reports.items() if not report.status.link_down}

    def check_failover(self, swap: Swap, heard: Heard) -> None:
        """A failover had its evidence: one is silent, and the other told of a link that is down.

        The two come independently, and what was told may be old: it keeps failovers from being
        needless, and nothing that must never happen may hang on it.
        """
        lost = swap.before.primary
        if swap.reason == "DiskLost":
            return
        if heard.silent_ticks[lost] < EXPIRED_TICKS:
            raise ViolationError(f"{lost} was given up while its agent was heard")
        if swap.after.primary in heard.told_of_link:
            raise ViolationError(f"{lost} was given up while its link was up")

    def check_approval(self, swap: Swap, approve: str, used: str) -> None:
        """With the policy Manual each failover has the word of a person, which counts once."""
        if not self.api.manual:
            return
        if approve != site_of(swap.after.primary) or approve == used:
            raise ViolationError(f"{swap.after.primary} took over and nobody approved")

    def check_eviction(self, node: str) -> None:
        if self.api.record.primary == node:
            raise ViolationError(f"the pod on {node} was evicted without its volume being fenced")

    # -- what the actors may do to the world -----------------------------------------------------

    def resume(self, node: str) -> None:
        self.drbd.resume(node)

    def answer(self, node: str, question: int, exit_code: FenceExit) -> None:
        self.drbd.answer(node, question, exit_code)

    def may_stage(self, node: str) -> bool:
        pod = self.api.pod
        here = pod is not None and pod.node == node and self.api.published == node
        return here and not self.staged[node] and self.api_up[node]

    def promote(self, node: str) -> bool:
        return self.drbd.ask_promotion(node)

    def mount(self, node: str) -> None:
        kernel = self.drbd.kernels[node]
        if kernel.primary and not kernel.frozen:
            self.staged[node] = self.app[node] = True

    def unmount(self, node: str) -> None:
        kernel = self.drbd.kernels[node]
        if not self.app[node] and not kernel.frozen and not kernel.pending:
            self.staged[node] = False

    def look(self, node: str) -> Report:
        """What the agent's status is going to say."""
        kernel = self.drbd.kernels[node]
        state = kernel.observe()
        status = ReplicationStatus()
        if state is not None:
            status = ReplicationStatus(
                state.connection,
                state.sync,
                state.role,
                state.disk,
                state.peer_disk,
                frozen=kernel.frozen,
            )
        image = self.drbd.images[node]
        return Report(status, self.staged[node], is_blank(image), image.broken)

    def renew(self, node: str) -> None:
        self.api.lease[node] += 1
        self.renewed[node] = self.tick

    def kubelet(self, node: str) -> None:
        """Containers that ended start again; a pod that is not wanted here any more ends."""
        pod = self.api.pod
        if pod is not None and pod.node == node:
            self.app[node] = self.staged[node]
            return
        self.app[node] = self.app[node] and self.drbd.kernels[node].frozen
        self.unmount(node)
        if not self.staged[node] and self.api.published == node:
            self.api.published = ""

    # -- what happens ----------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        return list_actions(self)

    def do(self, action: Action) -> None:
        """Let it happen; ViolationError when something does not hold after it."""
        name, subject = action
        self.trace.append(action)
        if isinstance(subject, str):
            ON_NODE[name](self, subject)
        else:
            ELSEWHERE[name](self, subject)
        self.drbd.refresh()
        self.check()

    # -- all faults end --------------------------------------------------------------------------

    def heal(self, rounds: int = 80) -> None:
        """With every fault gone the volume must come to work again, by itself."""
        self.drbd.cable = True
        self.api.gone.clear()
        for node in self.nodes:
            if self.moves and node not in self.api.replicas and self.drbd.kernels[node].up:
                self.do(("power_cut", node))  # whoever gave it up starts it anew
            self.drbd.running[node], self.drbd.stopped[node] = True, False
            self.drbd.replace_disk(node)
            self.api_up[node] = self.agents[node].alive = True
        for operator in self.operators:
            operator.alive = True
        self.api.hold = False
        self.api.verify |= any(image.rotten for image in self.drbd.images.values())
        for _ in range(rounds):
            self._fair_round()
            if self._is_whole():
                return
        raise ViolationError(f"stuck: {self._describe()}")

    def _fair_round(self) -> None:
        self.do(("tick", 0))
        self._operators_work()
        for node in self.nodes:
            for name in ("loop", "fence", "stage"):
                for _ in range(4):
                    getattr(self.agents[node], f"advance_{name}")()
                    self._deliver_all()
                    self.check()
            for name in ("kubelet", "report", "report", "renew"):
                self.do((name, node))
            if self.moves:
                self.do(("hear", node))
        self._kernels_go_on()
        self._pod_comes()

    def _pod_comes(self) -> None:
        pod = self.api.pod
        if pod is not None and pod.node not in self.members() and not self.api.published:
            self.do(("end_pod", 0))  # it was scheduled before its node lost the replica
        if self.api.pod is not None and not self.api.published:
            self.do(("attach", 0))
        if self.api.pod is None and not self.api.published and not self.api.deleting:
            members = self.members()
            target = members[self.drbd.counter % len(members)]
            if self.api.is_open(target):
                self.do(("schedule", target))

    def _operators_work(self) -> None:
        for index in range(len(self.operators)):
            for name in ("leases", "sync", "act"):
                self.do((name, index))
                self._deliver_all()

    def _deliver_all(self) -> None:
        while self.api.flight:
            self.do(("deliver", 0))

    def _kernels_go_on(self) -> None:
        for node in self.nodes:
            if self.drbd.notices_loss(node):
                self.do(("lose", node))
        while self.drbd.can_meet():
            self.do(("meet", 0))
        for _ in BLOCKS:
            self.do(("copy", 0))
        self.do(("verified", 0))
        for node in self.nodes:
            self.do(("complete", node))
            if self.app[node]:
                self.do(("write3", node))

    def _is_whole(self) -> bool:
        kernels = self.drbd.kernels
        if self.api.deleting:
            return not any(k.up for k in kernels.values())
        images = [self.drbd.images[n] for n in self.members()]
        equal = all(
            i.blocks == images[0].blocks and i.state is Disk.UP_TO_DATE and not i.broken
            for i in images
        )
        record = self.api.record
        serving = self.app[record.primary] and kernels[record.primary].is_serving()
        if self.api.marked or self.api.resyncing or (self.moves and not self._is_settled()):
            return False
        return equal and serving and record.in_sync == set(self.members())

    def members(self) -> tuple[str, ...]:
        """Nodes that hold a replica by the record."""
        return tuple(sorted(self.api.record.nodes)) or NODES

    def _is_settled(self) -> bool:
        """As many replicas as a person wants, and none left over on a node that answers."""
        others = set(self.members()) - {self.api.record.primary}
        wanted = len(others) == int(self.api.paired)
        return (
            wanted and not others & self.api.leaving and set(self.api.replicas) == {*self.members()}
        )

    def _describe(self) -> str:
        return f"{self.api.record} {[vars(k) for k in self.drbd.kernels.values()]} {vars(self.api)}"
