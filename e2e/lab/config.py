"""Where everything of the lab lies and which address it has.

Three locations, each its own network namespace with one bridge. Every address
below exists only inside these namespaces.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

SERVICE_NETWORK = IPv4Network("10.96.0.0/16")
API_SERVICE_ADDRESS = IPv4Address("10.96.0.1")
DNS_SERVICE_ADDRESS = IPv4Address("10.96.0.10")
POD_NETWORK = IPv4Network("10.78.0.0/16")
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Location:
    """A site or the witness: one namespace, one bridge, one control plane member."""

    name: str
    number: int
    controllers: bool

    @property
    def namespace(self) -> str:
        return f"tv-{self.name}"

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(f"10.77.{self.number}.0/24")

    @property
    def gateway(self) -> IPv4Address:
        """Address of the bridge: API server, etcd member and proxies listen here."""
        return self.network[1]


@dataclass(frozen=True)
class Node:
    """One User Mode Linux kernel at a site; ``number`` counts from 1 within the site."""

    location: Location
    number: int

    @property
    def name(self) -> str:
        return f"{self.location.name}-{self.number}"

    @property
    def address(self) -> IPv4Address:
        return self.location.network[20 + self.number]

    @property
    def pod_network(self) -> IPv4Network:
        return IPv4Network(f"10.78.{self.location.number * 16 + self.number}.0/24")

    @property
    def tap(self) -> str:
        """Interface in the location's namespace, a port of its bridge ``br0``."""
        return f"tap{self.number}"

    @property
    def management_tap(self) -> str:
        """Interface of the exec channel: no bridge, so it outlives every link cut."""
        return f"mgmt{self.number}"

    @property
    def management_network(self) -> IPv4Network:
        """Point to point; [1] is the location's end, [2] the node's."""
        return IPv4Network(f"10.79.{self.location.number * 16 + self.number}.0/30")


EAST = Location("east", 1, controllers=True)
WEST = Location("west", 2, controllers=True)
WITNESS = Location("witness", 3, controllers=False)
LOCATIONS = (EAST, WEST, WITNESS)
SITES = (EAST, WEST)


@dataclass(frozen=True)
class Settings:
    """Everything that a person may choose, taken from the environment."""

    cache: Path
    state: Path
    nodes_per_site: int = 1
    node_memory_mib: int = 1536
    data_disk_gib: int = 8

    @classmethod
    def from_environment(cls) -> Settings:
        env = os.environ
        return cls(
            cache=Path(env.get("TWINVAULT_CACHE", "/var/cache/twinvault")),
            state=Path(env.get("TWINVAULT_LAB", "/var/lib/twinvault-lab")),
            nodes_per_site=int(env.get("TWINVAULT_LAB_NODES_PER_SITE", "1")),
            node_memory_mib=int(env.get("TWINVAULT_LAB_NODE_MEMORY_MIB", "1536")),
            data_disk_gib=int(env.get("TWINVAULT_LAB_DATA_DISK_GIB", "8")),
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        numbers = range(1, self.nodes_per_site + 1)
        return tuple(Node(site, number) for site in SITES for number in numbers)

    def location_dir(self, location: Location) -> Path:
        return self.state / location.name

    def node_dir(self, node: Node) -> Path:
        return self.state / "nodes" / node.name

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def admin_kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"


ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
