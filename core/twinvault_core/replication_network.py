"""Which address of a node replication uses, and what a pair says of the link."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from .model import PoolSpec, ReplicationPair, ReplicationSettings, StorageNode


def find_address(pair: ReplicationPair, node: StorageNode, internal_ip: str) -> str:
    """The node's address in the pair's network; empty when it has none.

    Without a network in the pair: what the agent says, else the InternalIP that kubelet registered.
    """
    network: Mapping[str, Any] = pair.spec.get("network") or {}
    known = node.replication.addresses
    if network.get("interface"):
        return next((a for i, a in known if i == network["interface"] and _is_usable(a)), "")
    if network.get("cidr"):
        return next((a for _, a in known if _is_in(a, str(network["cidr"]))), "")
    wanted = node.replication.address or internal_ip
    return wanted if _is_address(wanted) else ""


def refuse_node(pair: ReplicationPair, node: StorageNode, internal_ip: str) -> str:
    """Why ``node`` cannot replicate and what to do about it; empty when it can."""
    state = node.replication
    if not state.available:
        return state.message or "its agent does not report that it can replicate"
    if find_address(pair, node, internal_ip):
        return ""
    network = pair.spec.get("network") or {}
    if network.get("interface"):
        return f"has no address on interface {network['interface']} (spec.network of the pair)"
    if network.get("cidr"):
        return f"has no address in {network['cidr']} (spec.network of the pair)"
    return "has no InternalIP yet"


def is_same_family(one: str, other: str) -> bool:
    """Whether both are IPv4 or both are IPv6."""
    return ipaddress.ip_address(one).version == ipaddress.ip_address(other).version


def find_network_problem(pair: ReplicationPair) -> str:
    """What is wrong with ``spec.network``; empty when nothing is."""
    cidr = (pair.spec.get("network") or {}).get("cidr")
    if not cidr:
        return ""
    try:
        ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return f"network.cidr {cidr} is not an IP network such as 10.1.0.0/16"
    return ""


def choose_settings(pair: ReplicationPair, pool: PoolSpec | None) -> ReplicationSettings:
    """What an agent is told about the link, and about the log of its replica in ``pool``; 0 leaves
    it to the agent. The link is the same for both; each side's activity log is its own.
    """
    resync: Mapping[str, Any] = pair.spec.get("resync") or {}
    network: Mapping[str, Any] = pair.spec.get("network") or {}
    return ReplicationSettings(
        max_rate_bytes_per_second=int(resync.get("maxRateBytesPerSecond") or 0),
        min_rate_bytes_per_second=int(resync.get("minRateBytesPerSecond") or 0),
        al_extents=pool.al_extents if pool is not None else 0,
        round_trip_milliseconds=int(network.get("roundTripMilliseconds") or 0),
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_usable(address: str) -> bool:
    if not _is_address(address):
        return False
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local)


def _is_in(address: str, cidr: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False
