"""Addresses, routes and faults: what cannot be reached directly cannot be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.lab import faults, network
from e2e.lab.config import EAST, LOCATIONS, WEST, WITNESS, Settings
from e2e.lab.faults import LinkFault


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", state=tmp_path / "state", nodes_per_site=2)


@pytest.mark.parametrize("location", LOCATIONS, ids=lambda one: one.name)
def test_no_route_leads_through_a_third_location(settings: Settings, location: object) -> None:
    assert location in LOCATIONS
    here = next(one for one in LOCATIONS if one == location)
    routes = network.plan_routes(here, settings.nodes)
    for peer in LOCATIONS:
        if peer == here:
            continue
        own = [peer.network, *(n.pod_network for n in settings.nodes if n.location == peer)]
        for destination in own:
            [route] = [route for route in routes if route[0] == str(destination)]
            assert route[route.index("dev") + 1] == network.link_interface(peer)
            assert route[route.index("via") + 1] == str(peer.gateway)


def test_pods_of_a_location_are_reached_through_their_node(settings: Settings) -> None:
    routes = network.plan_routes(EAST, settings.nodes)
    for node in settings.nodes:
        if node.location == EAST:
            assert [str(node.pod_network), "via", str(node.address), "dev", "br0"] in routes


def test_addresses_of_nodes_and_pods_never_overlap(settings: Settings) -> None:
    networks = [one.network for one in LOCATIONS]
    networks += [one.pod_network for one in settings.nodes]
    networks += [one.management_network for one in settings.nodes]
    for position, one in enumerate(networks):
        assert not any(one.overlaps(other) for other in networks[position + 1 :])


def test_a_cut_drops_silently_at_the_receiving_end() -> None:
    cut = LinkFault(silent_from=("east", "west"))
    rules = faults.plan_drop_rules("t", EAST, cut)
    assert 'add rule ip t prerouting iifname "link-east" drop' in rules
    assert "reject" not in rules


def test_a_cut_of_one_direction_leaves_the_other() -> None:
    one_way = LinkFault(silent_from=("east",))
    assert "drop" in faults.plan_drop_rules("t", EAST, one_way)
    assert "drop" not in faults.plan_drop_rules("t", WEST, one_way)


def test_loss_is_a_share_of_the_packets() -> None:
    rules = faults.plan_drop_rules("t", EAST, LinkFault(loss_percent=2.5))
    assert "numgen random mod 10000 < 250 drop" in rules


def test_a_whole_link_has_no_rules_left() -> None:
    rules = faults.plan_drop_rules("t", EAST, LinkFault())
    assert rules.splitlines() == ["add table ip t", "delete table ip t"]


def test_a_dark_location_neither_sends_nor_hears() -> None:
    rules = faults.plan_dark_rules(dark=True)
    assert 'prerouting iifname "link-*" drop' in rules
    assert 'postrouting oifname "link-*" drop' in rules


def test_delay_reaches_nodes_and_pods_of_the_slow_peer_only(settings: Settings) -> None:
    east = next(node for node in settings.nodes if node.location == EAST)
    text = "\n".join(faults.plan_delay(east, settings.nodes, {WEST: 7.5, WITNESS: 0}))
    assert "netem delay 7.5ms" in text
    assert str(WEST.network) in text
    assert str(WITNESS.network) not in text
    for node in settings.nodes:
        assert (str(node.pod_network) in text) == (node.location == WEST)


def test_without_delays_a_node_has_no_netem(settings: Settings) -> None:
    [line] = faults.plan_delay(settings.nodes[0], settings.nodes, {WEST: 0})
    assert "del" in line


def test_links_are_whole_when_nothing_was_said(settings: Settings) -> None:
    found = faults.observe_faults(settings)
    assert len(found) == 3
    assert {str(fault) for fault in found.values()} == {"whole"}


def test_a_link_to_itself_is_refused(settings: Settings) -> None:
    with pytest.raises(faults.FaultError, match="two different locations"):
        faults.cut_link(settings, EAST, EAST)


@pytest.mark.parametrize("loss", [-1, 101])
def test_an_impossible_loss_is_refused(settings: Settings, loss: float) -> None:
    with pytest.raises(faults.FaultError, match="0 to 100"):
        faults.shape_link(settings, EAST, WEST, loss_percent=loss)


def test_an_unknown_location_is_told_with_the_known_ones() -> None:
    with pytest.raises(faults.FaultError, match="east, west, witness"):
        faults.find_location("north")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (LinkFault(silent_from=("east", "west")), "cut"),
        (LinkFault(silent_from=("west",)), "cut from west"),
        (LinkFault(delay_ms=5, rate_mbit=100), "delay 5 ms, rate 100 Mbit/s"),
    ],
)
def test_a_fault_is_told_in_words(fault: LinkFault, told: str) -> None:
    assert str(fault) == told
