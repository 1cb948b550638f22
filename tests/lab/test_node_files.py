"""What a node is told at boot."""

from __future__ import annotations

from pathlib import Path

from e2e.lab.config import EAST, WEST, Node, Settings
from e2e.lab.disk import Disks
from e2e.lab.node import choose_start_command
from e2e.lab.node_files import cni_config, kubelet_config, render_node_env, render_routes

SETTINGS = Settings(cache=Path("/cache"), state=Path("/state"), nodes_per_site=2)
DISKS = Disks(Path("/d/system"), Path("/d/data"), Path("/d/spare"))


def test_pods_of_the_same_site_are_reached_without_the_gateway() -> None:
    routes = render_routes(SETTINGS, Node(EAST, 1))
    neighbour = Node(EAST, 2)
    assert routes == f"ip route add {neighbour.pod_network} via {neighbour.address}\n"


def test_every_node_has_networks_of_its_own() -> None:
    nodes = [Node(site, number) for site in (EAST, WEST) for number in (1, 2, 3)]
    assert len({node.pod_network for node in nodes}) == len(nodes)
    assert len({node.management_network for node in nodes}) == len(nodes)


def test_a_node_is_labelled_with_its_site() -> None:
    assert "topology.kubernetes.io/zone=west" in render_node_env(Node(WEST, 1))


def test_nothing_is_masqueraded() -> None:
    plugins = cni_config(Node(EAST, 1))["plugins"]
    assert isinstance(plugins, list)
    assert all(plugin["ipMasq"] is False for plugin in plugins)


def test_only_known_users_reach_kubelet() -> None:
    authentication = kubelet_config()["authentication"]
    assert isinstance(authentication, dict)
    assert authentication["anonymous"] == {"enabled": False}
    assert authentication["webhook"] == {"enabled": True}


def test_the_kernel_gets_its_disks_as_open_files_in_device_order() -> None:
    command = choose_start_command(Path("/root"), Node(EAST, 1), {}, DISKS, 512)
    assert "exec 3<>/d/system 4<>/d/data 5<>/d/spare" in command[2]
    assert "ubd0=/proc/self/fd/3" in command
    assert "ubd2=/proc/self/fd/5" in command
    assert "mem=512M" in command


def test_network_cards_keep_their_addresses_over_boots() -> None:
    first, second = (
        choose_start_command(Path("/root"), Node(site, 1), {}, DISKS, 512) for site in (EAST, WEST)
    )
    cards = [[word for word in command if word.startswith("vec")] for command in (first, second)]
    assert cards[0] != cards[1]
    assert cards[0] == [
        word
        for word in choose_start_command(Path("/root"), Node(EAST, 1), {}, DISKS, 512)
        if word.startswith("vec")
    ]
