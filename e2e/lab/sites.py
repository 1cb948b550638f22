"""A whole location at once: its part of the control plane, its proxies, its nodes."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from functools import partial

from e2e.lab import controlplane, faults, node, process, services
from e2e.lab.config import Location, Node, Settings
from e2e.lab.etcd import start_etcd
from e2e.lab.progress import step, together


def nodes_at(settings: Settings, location: Location) -> list[Node]:
    return [one for one in settings.nodes if one.location == location]


def site_kill(settings: Settings, location: Location) -> None:
    """Power cut of everything at a location.

    1. The location goes dark first, so that no connection is closed politely: to the
       others it falls silent.
    2. Everything gets SIGKILL before anything is waited for.
    """
    faults.set_dark(location, dark=True)
    run_dir = settings.location_dir(location)
    names = process.names(run_dir)
    for name in names:
        process.signal(name, run_dir, signal.SIGKILL)
    together(
        [
            *(partial(node.kill, settings, one) for one in nodes_at(settings, location)),
            *(partial(process.kill, name, run_dir) for name in names),
        ]
    )


def site_start(settings: Settings, location: Location) -> None:
    """Power is back: everything starts from what its disks hold.

    Returns when the API server there is ready and the nodes have booted; the nodes
    become Ready a little later.
    """
    faults.set_dark(location, dark=False)
    start_location(settings, location)
    together(
        [
            lambda: controlplane.wait_for_api_server(settings, location),
            *(partial(node_start, settings, one) for one in nodes_at(settings, location)),
        ]
    )
    start_followers(settings, location)


def start_location(settings: Settings, location: Location) -> None:
    """etcd, API server and API proxy: what all else at the location needs."""
    start_etcd(settings, location)
    services.start_api_proxy(settings, location)
    controlplane.start_api_server(settings, location)


def start_followers(settings: Settings, location: Location) -> None:
    """What needs the API: controllers, service proxy and DNS."""
    services.start_dns(settings, location)
    if location.controllers:
        controlplane.start_controllers(settings, location)
    if nodes_at(settings, location):
        services.start_service_proxy(settings, location)


def node_start(settings: Settings, one: Node) -> None:
    """Boot a node (nothing if it runs) and give it its links' delays."""
    node.ensure_node(settings, one)
    faults.apply_delay(settings, one)


def boot_all(settings: Settings, nodes: Iterable[Node]) -> None:
    """Boot several nodes at the same time."""

    def boot(one: Node) -> None:
        if not node.is_running(settings, one):
            with step(f"node {one.name} boots"):
                node_start(settings, one)

    together([partial(boot, one) for one in nodes])
