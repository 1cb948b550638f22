"""Every fault: what it does, and what a hospital may expect of it. One line of meaning each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from e2e.faults.ground import AGENT, HELPER, KUBELET, OPERATOR, Ground

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


def _power_primary(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.primary).kill()


def _power_secondary(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.secondary).kill()


def _site_primary(ground: Ground) -> None:
    ground.strike()
    ground.lab.site(ground.site_of(ground.primary)).kill()


def _site_secondary(ground: Ground) -> None:
    ground.strike()
    ground.lab.site(ground.site_of(ground.secondary)).kill()


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
            ground.signal_everywhere(program, "KILL")
        else:
            ground.signal(ground.secondary if secondary else ground.primary, program, "KILL")

    return inject


def _agent_killed_at_link_cut(ground: Ground) -> None:
    ground.strike()
    ground.cut_link()
    ground.signal(ground.primary, AGENT, "KILL")


def _operator_killed_at_power_cut(ground: Ground) -> None:
    ground.strike()
    ground.node(ground.primary).kill()
    ground.signal(ground.secondary, OPERATOR, "KILL")


def _helper_killed(ground: Ground) -> None:
    ground.hunt(ground.primary, HELPER, seconds=4)
    ground.strike()
    ground.cut_link()


def _agent_stopped(ground: Ground) -> None:
    ground.strike()
    ground.signal(ground.primary, AGENT, "STOP")


def _agent_stopped_then_link(ground: Ground) -> None:
    ground.signal(ground.primary, AGENT, "STOP")
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


def _pool_full(ground: Ground) -> None:
    ground.strike()
    ground.fill_pool(ground.secondary)


def _resync(ground: Ground) -> None:
    """The secondary misses some seconds of writes and begins to catch up."""
    ground.cut_link()
    ground.pause()
    ground.pause()
    ground.lab.link(ground.site_of(ground.primary), ground.site_of(ground.secondary)).heal()
    ground.pause()


def _resync_then_primary(ground: Ground) -> None:
    _resync(ground)
    _power_primary(ground)


def _resync_then_secondary(ground: Ground) -> None:
    _resync(ground)
    _power_secondary(ground)


def _during_move(kill_target: bool) -> Inject:
    def inject(ground: Ground) -> None:
        ground.send_away()
        ground.pause()
        ground.strike()
        ground.node(ground.secondary if kill_target else ground.primary).kill()

    return inject


def _drained(ground: Ground) -> None:
    ground.strike()
    ground.send_away()


def _during_expansion(ground: Ground) -> None:
    ground.grow_volumes()
    ground.pause()
    _power_primary(ground)


def _during_snapshot(ground: Ground) -> None:
    ground.take_snapshots()
    ground.pause()
    _power_primary(ground)


def _memory(ground: Ground) -> None:
    ground.strike()
    ground.press_memory(ground.primary, 0.7, ground.plan.hold_seconds)


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
          _site_primary, GOES_ON_THERE, WAITS_HERE),
    Fault("site-secondary", "power cut of the other site",
          _site_secondary, GOES_ON_HERE, GOES_ON_HERE),
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
          _helper_killed, GOES_ON, None),
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
          _pool_full, GOES_ON_HERE, None),
    Fault("resync-then-primary", "the primary loses power while the other catches up",
          _resync_then_primary, WAITS, None),
    Fault("resync-then-secondary", "the secondary loses power while it catches up",
          _resync_then_secondary, GOES_ON_HERE, None),
    Fault("power-during-promote", "power cut of the node that the volume is moving to",
          _during_move(kill_target=True), WAITS, None),
    Fault("power-during-demote", "power cut of the node that the volume is leaving",
          _during_move(kill_target=False), GOES_ON_THERE, None),
    Fault("drained", "the primary's node is drained",
          _drained, GOES_ON_THERE, None),
    Fault("power-during-expansion", "power cut of the primary while volumes grow",
          _during_expansion, GOES_ON_THERE, WAITS_HERE),
    Fault("power-during-snapshot", "power cut of the primary while a snapshot is taken",
          _during_snapshot, GOES_ON_THERE, WAITS_HERE),
    Fault("memory-pressure", "little memory is left at the primary",
          _memory, GOES_ON, GOES_ON),
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
