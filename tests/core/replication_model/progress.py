"""After every step: somebody has something to do that changes something, or a condition says why.

Whatever only repeats itself is no progress: an agent that reads, decides and finds nothing to do,
a command that the kernel refuses again. Two things may be lacking, and each must be told: a pod
that wants the volume is not served, and one more failure would be one too many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinvault_core.failover import plan_failover
from twinvault_core.failover_view import (
    Attachment,
    NodeEvidence,
    NodeView,
    PodUse,
    Swap,
    Taint,
    VolumeEvidence,
    Wait,
)
from twinvault_core.model import FirstSync
from twinvault_core.replicated_status import judge_replicated
from twinvault_core.replication import STALLED_OBSERVATIONS
from twinvault_core.replication_view import Step, StepKind
from twinvault_core.volume_state import VolumeState
from twinvault_core.volume_view import VolumeView

from .kernel import Kernel
from .moves import CLUSTERS, site_of
from .operator import EXPIRED_TICKS, STABLE_TICKS, Operator

if TYPE_CHECKING:
    from .world import World

PATIENCE = 3 * STALLED_OBSERVATIONS


def find_standstill(world: World) -> str:
    """What is lacking although nobody can do anything and nothing says why; empty when all is well.

    Not asked while the volume is being deleted, nor where replicas are moved: whoever moves them
    has conditions of their own.
    """
    if world.moves or world.api.deleting or _somebody_works(world):
        return ""
    served, redundant = _is_served(world), _is_redundant(world)
    if served and redundant:
        return ""
    told = judge(world)
    conditions = (told.ready, told.progressing, told.degraded)
    if not all(c.reason and c.message for c in conditions):
        return "a condition without a reason or a sentence"
    if not served and told.ready.status and not told.progressing.status:
        return "a pod is not served"
    if not redundant and told.ready.status and not told.degraded.status:
        return "one replica is not counted on or not reached"
    return ""


# -- what is lacking -------------------------------------------------------------------------------


def _is_served(world: World) -> bool:
    pod = world.api.pod
    if pod is None or world.api.published != pod.node:
        return True  # Kubernetes has the next move
    node = pod.node
    return world.app[node] and world.drbd.active(node) and world.drbd.can_acknowledge(node)


def _is_redundant(world: World) -> bool:
    record = world.api.record
    return set(world.members()) <= record.in_sync and world.drbd.linked(record.primary)


def judge(world: World) -> VolumeState:
    """The volume's conditions, as an operator writes them that has heard everything."""
    nodes = {node: _evidence(world, node) for node in world.nodes}
    evidence = observe(world)
    primary = world.api.record.primary
    obstacle = plan_failover(evidence, nodes)
    move = world.decisions.switchover(evidence, nodes)
    view = VolumeView(
        "v",
        evidence.volume,
        evidence.replicas,
        CLUSTERS,
        lost={n: "is silent" for n, seen in nodes.items() if seen.expired},
        failover=obstacle.message if isinstance(obstacle, Wait) else "",
        addresses=dict.fromkeys(world.nodes, primary),
        nodes=nodes,
    )
    moving = move.message if isinstance(move, Wait) else ""
    return judge_replicated(view, evidence.volume, None, moving, now="now")


def observe(world: World) -> VolumeEvidence:
    operator = Operator(world)
    operator.sync()
    return operator.observe_volume()


def _evidence(world: World, node: str) -> NodeEvidence:
    silent = world.tick - world.renewed[node]
    return NodeEvidence(
        node,
        site_of(node),
        expired=silent >= EXPIRED_TICKS,
        silent_seconds=silent,
        well_seconds=STABLE_TICKS if silent < EXPIRED_TICKS else 0,
        marked=node in world.api.marked,
    )


# -- who has something to do -----------------------------------------------------------------------


def _somebody_works(world: World) -> bool:
    return bool(
        world.api.flight
        or _kernels_work(world)
        or any(_node_works(world, node) for node in world.nodes)
        or _operators_work(world)
    )


def _kernels_work(world: World) -> bool:
    drbd = world.drbd
    if drbd.can_meet() or any(drbd.active(n) and drbd.notices_loss(n) for n in world.nodes):
        return True
    for node, kernel in drbd.kernels.items():
        copies = kernel.left and drbd.linked(node) and not drbd.latched
        if copies and not kernel.held and not kernel.peer_held:
            return True
        if kernel.pending and drbd.active(node) and drbd.can_acknowledge(node):
            return True
    return False


def _node_works(world: World, node: str) -> bool:
    silent, agent = world.tick - world.renewed[node], world.agents[node]
    runs = world.drbd.active(node) and agent.alive
    if not (runs and world.api_up[node]):
        # Its Lease runs out, and whoever waits for that goes on then.
        return silent < EXPIRED_TICKS or (runs and _agent_works(world, node))
    return (
        silent >= EXPIRED_TICKS
        or world.look(node) != world.api.reports.get(node)
        or _agent_works(world, node)
        or _stages(world, node)
        or _kubelet_works(world, node)
    )


def _agent_works(world: World, node: str) -> bool:
    agent, kernel = world.agents[node], world.drbd.kernels[node]
    record = world.api.record if world.api_up[node] else None
    if kernel.question is not None or agent.loop.phase == "resume":
        return True
    if kernel.left and agent.stalled < PATIENCE:
        return True  # it counts how often it sees no progress
    step = world.decisions.step(agent.see(record))
    return step.write is not None or _changes_something(world, step, kernel)


def _changes_something(world: World, step: Step, kernel: Kernel) -> bool:
    """Not what the kernel refuses, nor what is so already."""
    node = kernel.node
    idle = not kernel.frozen and not kernel.pending
    match step.kind:
        case StepKind.NOTHING | StepKind.WAIT_FOR_PEER | StepKind.HOLD:
            return False
        case StepKind.END_PODS:
            return world.app[node] and not kernel.frozen
        case StepKind.UNMOUNT:
            return not world.app[node] and idle
        case StepKind.DEMOTE:
            return not world.staged[node] and idle
        case StepKind.CONNECT | StepKind.CONNECT_AS_TARGET:
            return not kernel.wants_link
        case StepKind.REATTACH:
            return not kernel.image.broken and not kernel.attached
    return True


def _stages(world: World, node: str) -> bool:
    """A pod comes, and nothing stands in its way."""
    kernel = world.drbd.kernels[node]
    if not world.may_stage(node) or kernel.frozen:
        return False
    promotion = world.decisions.promotion(node, world.api.record, kernel.observe())
    return promotion.allowed or promotion.write is not None


def _kubelet_works(world: World, node: str) -> bool:
    pod, kernel = world.api.pod, world.drbd.kernels[node]
    if pod is not None and pod.node == node:
        return world.staged[node] and not world.app[node]
    if world.app[node] or world.staged[node]:
        return not kernel.frozen
    return world.api.published == node


def _operators_work(world: World) -> bool:
    """As if one lived: Kubernetes starts it again."""
    api, volume = world.api, observe(world)
    nodes = {node: _evidence(world, node) for node in world.nodes}
    pod = api.pod
    pods = () if pod is None else (PodUse("his", "db", str(pod.uid), pod.node, ("v",)),)
    attachments = (Attachment("va", api.published, "v"),) if api.published else ()
    for node in world.nodes:
        view = NodeView(node, nodes, (volume,), pods, attachments)
        steps = world.decisions.node_failover(view)
        if any(not isinstance(step, Wait | Taint) for step in steps):
            return True
    if isinstance(world.decisions.switchover(volume, nodes), Swap):
        return True
    return api.first_sync != FirstSync.SKIP.value and observe_blank(world)


def observe_blank(world: World) -> bool:
    operator = Operator(world)
    operator.sync()
    return operator.finds_both_blank()
