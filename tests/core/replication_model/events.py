"""What can happen in the model: when it can, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from twinvault_core.replication_state import SyncState
from twinvault_core.replication_view import Applied

from .api import Pod
from .kernel import BLOCKS, NODES, USABLE
from .moves import site_of

if TYPE_CHECKING:
    from .world import World

Action = tuple[str, str | int]


def list_actions(world: World) -> list[Action]:
    return [
        *_agents_work(world),
        *_operators_work(world),
        *_cluster_works(world),
        *_kernels_work(world),
        *_node_faults(world),
        *_other_faults(world),
    ]


def _agents_work(world: World) -> Iterator[Action]:
    for node in world.nodes:
        agent = world.agents[node]
        if not (world.drbd.active(node) and agent.alive):
            continue
        yield ("loop", node)
        if agent.fence.phase != "idle" or world.drbd.kernels[node].question is not None:
            yield ("fence", node)
        if agent.stage.phase != "idle" or world.may_stage(node):
            yield ("stage", node)
        if world.api_up[node]:
            yield ("report", node)
            yield ("renew", node)
            yield ("kubelet", node)
            if world.moves and agent.heard != world.api.replicas.get(node):
                yield ("hear", node)


def _operators_work(world: World) -> Iterator[Action]:
    for index, operator in enumerate(world.operators):
        if operator.alive:
            yield ("sync", index)
            yield ("leases", index)
            yield ("act", index)


def _cluster_works(world: World) -> Iterator[Action]:
    api = world.api
    yield from (("deliver", index) for index in range(len(api.flight)))
    yield ("tick", 0)
    if api.pod is not None:
        yield ("end_pod", 0)
        if not api.published and api.pod.node in world.members():
            yield ("attach", 0)
    elif not api.published and not api.deleting:
        yield from (("schedule", n) for n in world.members() if api.is_open(n))


def _kernels_work(world: World) -> Iterator[Action]:
    drbd = world.drbd
    yield from (("meet", index) for index in range(len(drbd.find_meetings())))
    if any(k.left for k in drbd.kernels.values()):
        yield ("copy", 0)
    if any(k.syncing is SyncState.VERIFY_SOURCE for k in drbd.kernels.values()):
        yield ("verified", 0)
    for node in world.nodes:
        kernel = drbd.kernels[node]
        if not drbd.active(node):
            continue
        if drbd.notices_loss(node):
            yield ("lose", node)
        if kernel.pending:
            yield ("complete", node)
        if world.app[node] and kernel.is_serving():
            yield from ((f"write{how}", node) for how in range(4))


def _node_faults(world: World) -> Iterator[Action]:
    drbd = world.drbd
    for node in world.nodes:
        yield ("power_cut" if drbd.running[node] else "power", node)
        if drbd.running[node]:
            yield ("continue" if drbd.stopped[node] else "stop", node)
        yield ("api_down" if world.api_up[node] else "api_up", node)
        yield ("kill_agent" if world.agents[node].alive else "start_agent", node)
        if drbd.images[node].broken:
            yield ("replace_disk", node)
        elif _other_has_all(world, node):
            yield ("break_disk", node)
        if _may_rot(world, node):
            yield ("rot", node)


def _other_faults(world: World) -> Iterator[Action]:
    drbd, api = world.drbd, world.api
    yield ("cut" if drbd.cable else "mend", 0)
    yield ("touch", 0)
    yield ("readdress", 0)
    yield ("turn" if api.hold else "hold", 0)
    if not api.verify:
        yield ("ask_verify", 0)
    if api.flight:
        yield ("lose_write", 0)
    for index, operator in enumerate(world.operators):
        yield ("operator_down" if operator.alive else "operator_up", index)
    if not drbd.latched and any(k.left for k in drbd.kernels.values()):
        yield ("latch", 0)
    if api.manual and not api.approve:
        yield from (("approve", node) for node in world.nodes)
    elif api.manual:
        yield ("take_back", 0)
    free = api.pod is None and not api.published and not any(world.staged.values())
    if free and not api.deleting and not world.moves:
        yield ("delete", 0)
    if world.moves:
        yield from _people_move_replicas(world)


def _people_move_replicas(world: World) -> Iterator[Action]:
    api = world.api
    yield from (("evacuate", n) for n in world.nodes if n != NODES[0] and n not in api.leaving)
    if api.leaving:
        yield ("stay", 0)
    yield ("unpair" if api.paired else "pair", 0)
    for node, replica in api.replicas.items():
        if replica.deleting and node not in api.gone:
            yield ("say_gone", node)


def _other_has_all(world: World, node: str) -> bool:
    """Both replicas without a disk is a loss that no protocol prevents; a person decides then.
    While a replica is moved there is one copy for a time.
    """
    if world.moves and (world.api.leaving or world.api.flight or not world.api.paired):
        return False
    others = set(world.members()) - {node}
    return any(
        world.drbd.images[peer].state in USABLE
        and not world.agents[peer].detached
        and peer in world.api.record.in_sync
        for peer in others
    )


def _may_rot(world: World, node: str) -> bool:
    """Where nobody reads, and the other replica is there to tell what is right."""
    kernel, record = world.drbd.kernels[node], world.api.record
    aside = kernel.attached and not kernel.primary and record.primary != node
    whole = kernel.disk in USABLE and not any(i.rotten for i in world.drbd.images.values())
    return aside and whole and not world.moves and _other_has_all(world, node)


# -- what they do ---------------------------------------------------------------------------------


def _power_cut(world: World, node: str) -> None:
    world.drbd.power_cut(node)
    world.applied[node] = Applied.SAME
    world.staged[node] = world.app[node] = False
    _kill_agent(world, node)


def _kill_agent(world: World, node: str) -> None:
    world.agents[node].restart()
    world.agents[node].alive = False


def _power(world: World, node: str) -> None:
    world.drbd.running[node] = True


def _stop(world: World, node: str) -> None:
    world.drbd.stopped[node] = True


def _continue(world: World, node: str) -> None:
    world.drbd.stopped[node] = False


def _api_down(world: World, node: str) -> None:
    world.api_up[node] = False


def _api_up(world: World, node: str) -> None:
    world.api_up[node] = True


def _start_agent(world: World, node: str) -> None:
    world.agents[node].alive = True


def _schedule(world: World, node: str) -> None:
    world.api.counter += 1
    world.api.pod, world.api.published = Pod(world.api.counter, node), node
    _published(world)


def _published(world: World) -> None:
    """By compare-and-swap on the Volume, which tells who has a replica too."""
    if world.moves:
        world.api.touch()


def _write(how: int) -> Callable[[World, str], None]:
    def write(world: World, node: str) -> None:
        block = BLOCKS[world.drbd.counter % len(BLOCKS)]
        world.drbd.write(node, block, local=bool(how & 1), remote=bool(how & 2))

    return write


def _evacuate(world: World, node: str) -> None:
    world.api.leaving = {node}


def _approve(world: World, node: str) -> None:
    world.api.approve = site_of(node)
    world.api.word += 1


def _take_back(world: World, _: int) -> None:
    """``spec.failover.approve`` is cleared."""
    world.api.approve = ""


ON_NODE: Mapping[str, Callable[[World, str], None]] = {
    "loop": lambda world, node: world.agents[node].advance_loop(),
    "fence": lambda world, node: world.agents[node].advance_fence(),
    "stage": lambda world, node: world.agents[node].advance_stage(),
    "report": lambda world, node: world.agents[node].advance_report(),
    "renew": lambda world, node: world.renew(node),
    "kubelet": lambda world, node: world.kubelet(node),
    "lose": lambda world, node: world.drbd.lose(node),
    "complete": lambda world, _: world.drbd.complete(),
    "break_disk": lambda world, node: world.drbd.break_disk(node),
    "replace_disk": lambda world, node: world.drbd.replace_disk(node),
    "power_cut": _power_cut,
    "power": _power,
    "stop": _stop,
    "continue": _continue,
    "api_down": _api_down,
    "api_up": _api_up,
    "kill_agent": _kill_agent,
    "start_agent": _start_agent,
    "rot": lambda world, node: world.drbd.rot(node),
    "schedule": _schedule,
    "hear": lambda world, node: world.agents[node].hear(),
    "evacuate": _evacuate,
    "approve": _approve,
    "say_gone": lambda world, node: world.api.gone.add(node),
    **{f"write{how}": _write(how) for how in range(4)},
}


def _operator_down(world: World, index: int) -> None:
    world.operators[index].restart()
    world.operators[index].alive = False


def _operator_up(world: World, index: int) -> None:
    world.operators[index].alive = True


def _lose_write(world: World, index: int) -> None:
    del world.api.flight[index]


def _tick(world: World, _: int) -> None:
    world.tick += 1


def _end_pod(world: World, _: int) -> None:
    world.api.pod = None


def _attach(world: World, _: int) -> None:
    world.api.published = world.api.pod.node if world.api.pod else ""
    _published(world)


def _cut(world: World, _: int) -> None:
    world.drbd.cable = False


def _mend(world: World, _: int) -> None:
    world.drbd.cable = True


def _readdress(world: World, _: int) -> None:
    world.applied = dict.fromkeys(world.nodes, Applied.ADDRESS)


def _latch(world: World, _: int) -> None:
    world.drbd.latched = True


def _hold(world: World, _: int) -> None:
    """The operator lets resyncs of other volumes go first."""
    world.api.hold = True


def _turn(world: World, _: int) -> None:
    world.api.hold = False


def _ask_verify(world: World, _: int) -> None:
    world.api.verify = True


def _verified(world: World, _: int) -> None:
    if world.drbd.end_verify():
        world.api.verify = False


def _delete(world: World, _: int) -> None:
    world.api.deleting = True


def _set_paired(world: World, paired: bool) -> None:
    world.api.paired = paired
    world.api.touch()


ELSEWHERE: Mapping[str, Callable[[World, int], None]] = {
    "sync": lambda world, index: world.operators[index].sync(),
    "leases": lambda world, index: world.operators[index].read_leases(),
    "act": lambda world, index: world.operators[index].act(),
    "deliver": lambda world, index: world.api.deliver(index),
    "touch": lambda world, _: world.api.touch(),
    "meet": lambda world, index: world.drbd.meet(index),
    "copy": lambda world, _: world.drbd.copy(),
    "operator_down": _operator_down,
    "operator_up": _operator_up,
    "lose_write": _lose_write,
    "tick": _tick,
    "end_pod": _end_pod,
    "attach": _attach,
    "cut": _cut,
    "mend": _mend,
    "readdress": _readdress,
    "latch": _latch,
    "delete": _delete,
    "hold": _hold,
    "turn": _turn,
    "ask_verify": _ask_verify,
    "verified": _verified,
    "stay": lambda world, _: world.api.leaving.clear(),
    "pair": lambda world, _: _set_paired(world, True),
    "take_back": _take_back,
    "unpair": lambda world, _: _set_paired(world, False),
}
