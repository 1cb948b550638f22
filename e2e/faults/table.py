"""Every fault: what it does, and what a hospital may expect of it. One line of meaning each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from e2e.faults.aftermath import Aftermath, check_growth, check_move, check_snapshots
from e2e.faults.ground import AGENT, KUBELET, OPERATOR, Ground
from e2e.faults.timed import (
    catch_up_then,
    cut_site,
    cut_while_growing,
    cut_while_taking,
    drain,
    fill_pool,
    kill_helper,
    move_and_cut,
    press_memory,
)

Inject = Callable[[Ground], None]


@dataclass(frozen=True)
class Expectation:
    """``goes_on``: writes are acknowledged again before the fault is healed. ``moves``: the
    database's pod then runs at the other node (False: where it ran; None: either).
    """

    goes_on: bool
    moves: bool | None = None


GOES_ON_HERE = Expectation(goes_on=True, moves=False)
GOES_ON_THERE = Expectation(goes_on=True, moves=True)
GOES_ON = Expectation(goes_on=True)
WAITS = Expectation(goes_on=False)
WAITS_HERE = Expectation(goes_on=False, moves=False)


@dataclass(frozen=True)
class Fault:
    """``inject`` returns while the fault lasts; Ground.heal undoes any. ``local``: with one
    replica, None where the fault has no meaning or no cure then.
    """

    name: str
    told: str
    inject: Inject
    replicated: Expectation
    local: Expectation | None
    aftermath: Aftermath | None = None
    """What else must be true when all is well again."""


def _power_primary(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.primary).kill()


def _power_secondary(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.secondary).kill()


def _link_cut(ground: Ground) -> None:
    ground.strike()
    ground.cut_link()


def _primary_isolated(ground: Ground) -> None:
    ground.strike()
    ground.isolate(ground.primary)


def _secondary_isolated(ground: Ground) -> None:
    ground.strike()
    ground.isolate(ground.secondary)


def _api_down(ground: Ground) -> None:
    ground.strike()
    ground.freeze_api()


def _api_down_then_link(ground: Ground) -> None:
    ground.freeze_api()
    ground.pause()
    ground.strike()
    ground.cut_link()


def _api_slow(ground: Ground) -> None:
    ground.strike()
    ground.slow_api()


def _api_slow_then_link(ground: Ground) -> None:
    ground.slow_api()
    ground.pause()
    ground.strike()
    ground.cut_link()


def _killed(program: str, *, secondary: bool = False) -> Inject:
    def inject(ground: Ground) -> None:
        ground.strike()
        if program == OPERATOR:
            ground.kill_program(program, [n.name for n in ground.lab.nodes if n.is_running()])
        else:
            ground.kill_program(program, [ground.secondary if secondary else ground.primary])

    return inject


def _agent_killed_at_link_cut(ground: Ground) -> None:
    ground.strike()
    ground.cut_link()
    ground.kill_program(AGENT, [ground.primary])


def _operator_killed_at_power_cut(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.primary).kill()
    ground.kill_program(OPERATOR, [ground.secondary])


def _agent_stopped(ground: Ground) -> None:
    ground.strike()
    ground.require_signal(ground.primary, AGENT, "STOP")


def _agent_stopped_then_link(ground: Ground) -> None:
    ground.require_signal(ground.primary, AGENT, "STOP")
    ground.pause()
    ground.strike()
    ground.cut_link()


def _node_frozen(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.primary).freeze()


def _disk_primary(ground: Ground) -> None:
    ground.strike()
    ground.fail_disk(ground.primary)


def _disk_secondary(ground: Ground) -> None:
    ground.strike()
    ground.fail_disk(ground.secondary)


def _lossy(ground: Ground) -> None:
    ground.strike()
    link = ground.lab.link(ground.site_of(ground.primary), ground.site_of(ground.secondary))
    link.netem(delay_ms=5, loss_percent=5)


FAULTS = (
    Fault("power-primary", "power cut of the primary's node",
          _power_primary, GOES_ON_THERE, WAITS_HERE),
    Fault("power-secondary", "power cut of the secondary's node",
          _power_secondary, GOES_ON_HERE, GOES_ON_HERE),
    Fault("site-primary", "power cut of the primary's site, its etcd and API server too",
          cut_site(of_primary=True), GOES_ON_THERE, WAITS_HERE),
    Fault("site-secondary", "power cut of the other site",
          cut_site(of_primary=False), GOES_ON_HERE, GOES_ON_HERE),
    Fault("link-cut", "the replication link is cut",
          _link_cut, GOES_ON_HERE, GOES_ON_HERE),
    Fault("primary-isolated", "link and API are cut at the primary's site",
          _primary_isolated, GOES_ON_THERE, GOES_ON_HERE),
    Fault("secondary-isolated", "link and API are cut at the secondary's site",
          _secondary_isolated, GOES_ON_HERE, GOES_ON_HERE),
    Fault("api-down", "no API server answers",
          _api_down, GOES_ON_HERE, GOES_ON_HERE),
    Fault("api-down-then-link", "no API server answers, then the link is cut: I/O must wait",
          _api_down_then_link, WAITS_HERE, GOES_ON_HERE),
    Fault("api-slow", "API servers are stopped four fifths of the time",
          _api_slow, GOES_ON_HERE, GOES_ON_HERE),
    Fault("api-slow-then-link", "slow API servers, then the link is cut",
          _api_slow_then_link, GOES_ON_HERE, GOES_ON_HERE),
    Fault("agent-killed", "the primary's agent is killed",
          _killed(AGENT), GOES_ON_HERE, GOES_ON_HERE),
    Fault("agent-killed-secondary", "the secondary's agent is killed",
          _killed(AGENT, secondary=True), GOES_ON_HERE, GOES_ON_HERE),
    Fault("agent-killed-at-link-cut", "the link is cut and the primary's agent killed at once",
          _agent_killed_at_link_cut, GOES_ON, None),
    Fault("operator-killed", "every operator is killed",
          _killed(OPERATOR), GOES_ON_HERE, GOES_ON_HERE),
    Fault("operator-killed-at-power-cut", "the primary's node loses power, operators are killed",
          _operator_killed_at_power_cut, GOES_ON_THERE, WAITS_HERE),
    Fault("kubelet-killed", "the primary's kubelet is killed",
          _killed(KUBELET), GOES_ON_HERE, GOES_ON_HERE),
    Fault("helper-killed", "the fence helper is killed whenever the kernel starts it",
          kill_helper, GOES_ON, None),
    Fault("agent-stopped", "the primary's agent hangs: no reason to move",
          _agent_stopped, GOES_ON_HERE, GOES_ON_HERE),
    Fault("agent-stopped-then-link", "the agent hangs, the link is cut; it goes on afterwards",
          _agent_stopped_then_link, GOES_ON_THERE, None),
    Fault("node-frozen", "the primary's node hangs and goes on after the failover",
          _node_frozen, GOES_ON_THERE, WAITS_HERE),
    Fault("disk-primary", "the primary's disk fails",
          _disk_primary, GOES_ON, None),
    Fault("disk-secondary", "the secondary's disk fails",
          _disk_secondary, GOES_ON_HERE, None),
    Fault("pool-full-secondary", "the secondary's pool is full",
          fill_pool, GOES_ON_HERE, None),
    Fault("resync-then-primary", "the primary loses power while the other catches up",
          catch_up_then(cut_primary=True), WAITS, None),
    Fault("resync-then-secondary", "the secondary loses power while it catches up",
          catch_up_then(cut_primary=False), GOES_ON_HERE, None),
    Fault("power-during-promote", "power cut of the node that the volume is moving to",
          move_and_cut(target=True), WAITS, None),
    Fault("power-during-demote", "power cut of the node that the volume is leaving",
          move_and_cut(target=False), GOES_ON_THERE, None),
    Fault("drained", "the primary's node is drained",
          drain, GOES_ON_THERE, None, check_move),
    Fault("power-during-expansion", "power cut of the primary while volumes grow",
          cut_while_growing, GOES_ON_THERE, WAITS_HERE, check_growth),
    Fault("power-during-snapshot", "power cut of the primary while a snapshot is taken",
          cut_while_taking, GOES_ON_THERE, WAITS_HERE, check_snapshots),
    Fault("memory-pressure", "little memory is left at the primary",
          press_memory, GOES_ON, GOES_ON),
    Fault("lossy-link", "the link loses 5 % and takes 10 ms more for a round trip",
          _lossy, GOES_ON_HERE, GOES_ON_HERE),
)  # fmt: skip


def choose_expectation(fault: Fault, replicated: bool) -> Expectation | None:
    return fault.replicated if replicated else fault.local


def applicable(replicated: bool) -> list[str]:
    """Names of the faults that have a meaning for such volumes, in the table's order."""
    return [f.name for f in FAULTS if choose_expectation(f, replicated) is not None]


def find_fault(name: str) -> Fault:
    """ValueError names the ones there are."""
    for fault in FAULTS:
        if fault.name == name:
            return fault
    raise ValueError(f"there is no fault {name}; there are {', '.join(f.name for f in FAULTS)}")
