"""Three network namespaces and the links between them.

Each location has a bridge ``br0`` with its nodes' taps as ports. Between each two
locations lies one veth pair, ``link-NAME`` on each end. Routes are fixed, so what
goes from one location to another takes their own link or is lost: nothing detours
through the third when a link is cut.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from e2e.lab.command import run, succeeds
from e2e.lab.config import (
    API_SERVICE_ADDRESS,
    DNS_SERVICE_ADDRESS,
    LOCATIONS,
    SERVICE_NETWORK,
    Location,
    Node,
    Settings,
)
from e2e.lab.progress import WaitError

BRIDGE = "br0"
_TIMEOUT_SECONDS = 20
_SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    # A node asks for a service at its gateway and is answered by its neighbour on the
    # same bridge: that is meant, the gateway must not advise against it.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    # Frames between ports of the bridge are no business of the service proxy's rules.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
)


def pairs() -> Iterator[tuple[Location, Location]]:
    """Each link once, in the order of LOCATIONS."""
    return combinations(LOCATIONS, 2)


def link_interface(peer: Location) -> str:
    """The interface that leads to ``peer``, in every other location's namespace."""
    return f"link-{peer.name}"


def plan_routes(location: Location, nodes: Sequence[Node]) -> list[list[str]]:
    """Arguments of `ip route replace`, one list a route, for one location.

    Links have no networks of their own: the other end answers for its gateway
    address, and what starts here carries this gateway's.
    """
    # A service address needs some route before the proxy's rules can change it.
    routes = [[str(SERVICE_NETWORK), "dev", BRIDGE]]
    for peer in LOCATIONS:
        if peer == location:
            continue
        way = ["via", str(peer.gateway), "dev", link_interface(peer), "onlink"]
        way += ["src", str(location.gateway)]
        routes.append([str(peer.network), *way])
        routes += [[str(n.pod_network), *way] for n in nodes if n.location == peer]
    for node in nodes:
        if node.location == location:
            routes.append([str(node.pod_network), "via", str(node.address), "dev", BRIDGE])
    return routes


def ensure_network(settings: Settings) -> None:
    """All namespaces, bridges, taps, links and routes; repairs what is missing."""
    for location in LOCATIONS:
        _ensure_location(settings, location)
    for one, other in pairs():
        _ensure_link(one, other)
    for location in LOCATIONS:
        routes = plan_routes(location, settings.nodes)
        batch = "".join(f"route replace {' '.join(route)}\n" for route in routes)
        _ip_batch(location, batch)


def exists(location: Location) -> bool:
    return _namespace_path(location).exists()


def remove_network() -> None:
    """Remove the namespaces and, with them, every interface and rule of the lab.

    Raises WaitError naming the processes that still hold a namespace.
    """
    for location in LOCATIONS:
        if not exists(location):
            continue
        for peer in LOCATIONS:
            # The kernel removes a namespace later than its name; a veth would hold
            # its other end, and the name, until then.
            succeeds(["ip", "link", "del", link_interface(peer)], namespace=location.namespace)
        _refuse_while_used(location)
        run(["ip", "netns", "del", location.namespace], timeout_seconds=_TIMEOUT_SECONDS)


def observe_processes(location: Location) -> list[int]:
    """Processes on this machine that live in the location's namespace."""
    if not exists(location):
        return []
    output = run(["ip", "netns", "pids", location.namespace], timeout_seconds=_TIMEOUT_SECONDS)
    return [int(word) for word in output.split() if int(word) != os.getpid()]


def _refuse_while_used(location: Location) -> None:
    deadline = time.monotonic() + 10
    while pids := observe_processes(location):
        if time.monotonic() > deadline:
            told = ", ".join(f"{pid} ({_command(pid)})" for pid in pids)
            raise WaitError(
                f"processes still run in {location.namespace}: {told}; end them and try again"
            )
        time.sleep(0.1)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"


def _namespace_path(location: Location) -> Path:
    return Path("/run/netns") / location.namespace


def _ensure_location(settings: Settings, location: Location) -> None:
    if not exists(location):
        run(["ip", "netns", "add", location.namespace], timeout_seconds=_TIMEOUT_SECONDS)
    _apply_sysctls(location)
    present = _interfaces(location)
    batch = []
    if BRIDGE not in present:
        batch.append(f"link add {BRIDGE} type bridge forward_delay 0")
    batch.append(f"addr replace {location.gateway}/{location.network.prefixlen} dev {BRIDGE}")
    batch += [f"link set {BRIDGE} up", "link set lo up"]
    for address in (API_SERVICE_ADDRESS, DNS_SERVICE_ADDRESS):
        batch.append(f"addr replace {address}/32 dev lo")
    for node in settings.nodes:
        if node.location != location:
            continue
        if node.tap not in present:
            batch.append(f"tuntap add {node.tap} mode tap")
        batch += [f"link set {node.tap} master {BRIDGE}", f"link set {node.tap} up"]
    _ip_batch(location, "\n".join(batch) + "\n")


def _ensure_link(one: Location, other: Location) -> None:
    if link_interface(other) not in _interfaces(one):
        # Half a pair cannot be: if the name is there on the other side it is stale.
        succeeds(["ip", "link", "del", link_interface(one)], namespace=other.namespace)
        peer = ["peer", "name", link_interface(one), "netns", other.namespace]
        add = ["ip", "link", "add", link_interface(other), "type", "veth", *peer]
        run(add, namespace=one.namespace, timeout_seconds=_TIMEOUT_SECONDS)
    for location, interface in ((one, link_interface(other)), (other, link_interface(one))):
        # The gateway's address once more: what the service proxy masquerades takes the
        # address of the interface it leaves by.
        address = f"addr replace {location.gateway}/32 dev {interface}"
        _ip_batch(location, f"{address}\nlink set {interface} up\n")


def _interfaces(location: Location) -> set[str]:
    output = run(
        ["ip", "-oneline", "link", "show"],
        namespace=location.namespace,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    return {line.split(":")[1].strip().split("@")[0] for line in output.splitlines()}


def _apply_sysctls(location: Location) -> None:
    # /proc/sys/net shows the namespace of the process that opens it.
    script = 'while [ $# -gt 0 ]; do [ ! -e "$1" ] || echo "$2" > "$1" || exit 1; shift 2; done'
    arguments = [part for name, value in _SYSCTLS for part in (f"/proc/sys/{name}", value)]
    run(
        ["sh", "-c", script, "sh", *arguments],
        namespace=location.namespace,
        timeout_seconds=_TIMEOUT_SECONDS,
    )


def _ip_batch(location: Location, text: str) -> None:
    run(
        ["ip", "-batch", "-"],
        stdin=text,
        namespace=location.namespace,
        timeout_seconds=_TIMEOUT_SECONDS,
    )
