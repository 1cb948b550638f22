"""Faults of the network: links cut, lossy, slow or narrow, and sites gone dark.

What a link shall suffer is kept in a file and applied as a whole, so that a node that
boots later gets it too. Everything is silent: packets vanish, and
nobody is told by a reset or an ICMP message, as with a cut fibre.

The host's kernel drops (nft) and limits (tbf) on the links themselves. It cannot
delay, so delay is netem inside the nodes: it holds for what nodes and pods send, not
for the control plane.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from e2e.lab import exec_channel, network, node
from e2e.lab.command import run, succeeds
from e2e.lab.config import LOCATIONS, Location, Node, Settings
from e2e.lab.pki import write_private

_TIMEOUT_SECONDS = 20
_DARK = "tv-dark"


class FaultError(Exception):
    """A fault could not be applied or does not exist."""


@dataclass(frozen=True)
class LinkFault:
    """What one link suffers. Each value holds in each direction.

    ``silent_from`` names the ends whose packets get lost; a delay of 5 ms makes the
    round trip 10 ms longer.
    """

    silent_from: tuple[str, ...] = ()
    delay_ms: float = 0
    loss_percent: float = 0
    rate_mbit: float = 0

    def __str__(self) -> str:
        parts = []
        if self.silent_from:
            one_way = len(self.silent_from) == 1
            parts.append(f"cut from {self.silent_from[0]}" if one_way else "cut")
        if self.delay_ms:
            parts.append(f"delay {self.delay_ms:g} ms")
        if self.loss_percent:
            parts.append(f"loss {self.loss_percent:g} %")
        if self.rate_mbit:
            parts.append(f"rate {self.rate_mbit:g} Mbit/s")
        return ", ".join(parts) or "whole"


def plan_drop_rules(table: str, peer: Location, fault: LinkFault) -> str:
    """nft input for the receiving end of a link: replaces that end's table."""
    rules = []
    if peer.name in fault.silent_from:
        rules.append(f'iifname "{network.link_interface(peer)}" drop')
    elif fault.loss_percent:
        share = round(fault.loss_percent * 100)
        lost = f"numgen random mod 10000 < {share} drop"
        rules.append(f'iifname "{network.link_interface(peer)}" {lost}')
    return _table(table, {"prerouting": rules})


def plan_dark_rules(*, dark: bool) -> str:
    """nft input that makes a location mute and deaf towards the others, or undoes it."""
    if not dark:
        return _table(_DARK, {})
    return _table(
        _DARK, {"prerouting": ['iifname "link-*" drop'], "postrouting": ['oifname "link-*" drop']}
    )


def _table(name: str, chains: dict[str, list[str]]) -> str:
    # Added, deleted and made anew in one transaction: no moment without the rules.
    lines = [f"add table ip {name}", f"delete table ip {name}"]
    for hook, rules in chains.items():
        if rules:
            lines.append(f"add table ip {name}")
            lines.append(f"add chain ip {name} {hook} {{ type filter hook {hook} priority -350; }}")
            lines += [f"add rule ip {name} {hook} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def plan_delay(own: Node, nodes: Sequence[Node], delays_ms: dict[Location, float]) -> list[str]:
    """Shell lines for inside a node that delay what it sends to each location."""
    lines = ["tc qdisc del dev vec0 root 2>/dev/null || true"]
    delays = {peer: delay for peer, delay in delays_ms.items() if delay}
    if not delays:
        return lines
    # Everything goes to the first band; one more band for each slow destination.
    bands = f"bands {2 + len(delays)} priomap {' '.join('0' * 16)}"
    lines.append(f"tc qdisc add dev vec0 root handle 1: prio {bands}")
    for band, (peer, delay) in enumerate(delays.items(), start=3):
        lines.append(
            f"tc qdisc add dev vec0 parent 1:{band} handle {band}0: "
            f"netem delay {delay:g}ms limit 20000"
        )
        networks = [peer.network, *(n.pod_network for n in nodes if n.location == peer)]
        lines += [
            "tc filter add dev vec0 parent 1: protocol ip prio 1 "
            f"u32 match ip dst {one} flowid 1:{band}"
            for one in networks
        ]
    return lines


def observe_faults(settings: Settings) -> dict[tuple[Location, Location], LinkFault]:
    """What each link suffers now."""
    try:
        stored = json.loads(_file(settings).read_text())
    except FileNotFoundError:
        stored = {}
    found = {}
    for one, other in network.pairs():
        values = dict(stored.get(f"{one.name}-{other.name}", {}))
        values["silent_from"] = tuple(values.get("silent_from", ()))
        found[one, other] = LinkFault(**values)
    return found


def cut_link(settings: Settings, one: Location, other: Location, *, one_way: bool = False) -> None:
    """Lose everything between two locations; ``one_way``: only what ``one`` sends."""
    silent = (one.name,) if one_way else (one.name, other.name)
    _change(settings, one, other, replace(_fault(settings, one, other), silent_from=silent))


def heal_link(settings: Settings, one: Location, other: Location) -> None:
    """Make the link whole: neither cut nor slow, lossy or narrow."""
    _change(settings, one, other, LinkFault())


def shape_link(
    settings: Settings,
    one: Location,
    other: Location,
    *,
    delay_ms: float = 0,
    loss_percent: float = 0,
    rate_mbit: float = 0,
) -> None:
    """Set delay, loss and rate (0: none) of a link in each direction; a cut stays."""
    if not (0 <= loss_percent <= 100 and delay_ms >= 0 and rate_mbit >= 0):
        raise FaultError("loss is 0 to 100 %, delay and rate are not negative")
    silent = _fault(settings, one, other).silent_from
    _change(settings, one, other, LinkFault(silent, delay_ms, loss_percent, rate_mbit))


def apply_delay(settings: Settings, own: Node) -> None:
    """Give a running node the delays of its location's links (it forgets them at boot)."""
    if not node.is_running(settings, own):
        return
    delays = {}
    for (one, other), fault in observe_faults(settings).items():
        if own.location in (one, other):
            delays[other if own.location == one else one] = fault.delay_ms
    script = "\n".join(["set -e", *plan_delay(own, settings.nodes, delays)])
    exec_channel.run_in_node(own, ["sh", "-c", script], timeout_seconds=_TIMEOUT_SECONDS).check()


def heal_all(settings: Settings) -> None:
    """Every link whole, every location reachable."""
    for location in LOCATIONS:
        set_dark(location, dark=False)
    for pair, fault in observe_faults(settings).items():
        if fault != LinkFault():
            heal_link(settings, *pair)


def set_dark(location: Location, *, dark: bool) -> None:
    """Cut a location off as a power cut does: nothing leaves it, not even a reset."""
    _nft(location, plan_dark_rules(dark=dark))


def is_dark(location: Location) -> bool:
    return succeeds(["nft", "list", "table", "ip", _DARK], namespace=location.namespace)


def find_location(name: str) -> Location:
    """The location of that name; FaultError names the ones there are."""
    for location in LOCATIONS:
        if location.name == name:
            return location
    known = ", ".join(location.name for location in LOCATIONS)
    raise FaultError(f"there is no location {name}; there are {known}")


def _fault(settings: Settings, one: Location, other: Location) -> LinkFault:
    return observe_faults(settings)[_ordered(one, other)]


def _ordered(one: Location, other: Location) -> tuple[Location, Location]:
    for pair in network.pairs():
        if set(pair) == {one, other}:
            return pair
    raise FaultError(f"a link joins two different locations, not {one.name} and {other.name}")


def _change(settings: Settings, one: Location, other: Location, fault: LinkFault) -> None:
    pair = _ordered(one, other)
    faults = observe_faults(settings)
    delay_changed = faults[pair].delay_ms != fault.delay_ms
    faults[pair] = fault
    stored = {f"{a.name}-{b.name}": asdict(f) for (a, b), f in faults.items()}
    write_private(_file(settings), json.dumps(stored, indent=1) + "\n")
    _apply(*pair, fault)
    if delay_changed:
        for each in settings.nodes:
            if each.location in pair:
                apply_delay(settings, each)


def _apply(one: Location, other: Location, fault: LinkFault) -> None:
    for here, peer in ((one, other), (other, one)):
        _nft(here, plan_drop_rules(f"tv-{network.link_interface(peer)}", peer, fault))
        device = ["dev", network.link_interface(peer), "root"]
        if fault.rate_mbit:
            limit = ["tbf", "rate", f"{fault.rate_mbit:g}mbit", "burst", "256kb", "latency", "50ms"]
            argv = ["tc", "qdisc", "replace", *device, *limit]
            run(argv, namespace=here.namespace, timeout_seconds=_TIMEOUT_SECONDS)
        else:
            succeeds(["tc", "qdisc", "del", *device], namespace=here.namespace)


def _nft(location: Location, text: str) -> None:
    run(
        ["nft", "-f", "-"],
        stdin=text,
        namespace=location.namespace,
        timeout_seconds=_TIMEOUT_SECONDS,
    )


def _file(settings: Settings) -> Path:
    return settings.state / "links.json"
