"""StorageNode ``status.replication``: can volumes be replicated here, and where is this node."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
import time
from pathlib import Path
from typing import Any

from twinvault_core.errors import TwinvaultError

from .replication_storage import ReplicationStorage

ABSENT_SECONDS = 60.0
"""How often a module that is missing is looked for again."""
_SIOCGIFADDR = 0x8915
_IF_INET6 = Path("/proc/net/if_inet6")
_MAX_MESSAGE = 1024


class NodeReplication:
    """``address``: what Kubernetes calls this node's own; empty when it is not told.

    ``problem``: what keeps the agent from answering fence questions, empty when nothing does.
    """

    def __init__(self, storage: ReplicationStorage, address: str) -> None:
        self._storage, self._address = storage, address
        self._version, self._message = "", ""
        self._looked_at = float("-inf")
        self.problem = ""

    def observe(self) -> dict[str, Any]:
        """Blocking; may load the module."""
        if not self._version and time.monotonic() - self._looked_at >= ABSENT_SECONDS:
            self._looked_at = time.monotonic()
            try:
                self._version = self._storage.ensure_module()
            except TwinvaultError as error:
                self._message = error.message
        available = bool(self._version) and not self.problem
        message = self.problem or (f"DRBD {self._version}" if self._version else self._message)
        return {
            "available": available,
            "message": message[:_MAX_MESSAGE],
            "address": self._address,
            "addresses": [
                {"interface": interface, "address": address}
                for interface, address in observe_addresses()
            ],
        }


def observe_addresses() -> list[tuple[str, str]]:
    """(interface, address) of this network namespace, without loopback and link-local ones."""
    found = [*_observe_ipv4(), *_observe_ipv6()]
    return sorted((i, a) for i, a in found if _is_reachable(a))[:100]


def _observe_ipv4() -> list[tuple[str, str]]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for _, name in socket.if_nameindex():
            try:
                raw = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found.append((name, socket.inet_ntoa(raw[20:24])))
    return found


def _observe_ipv6() -> list[tuple[str, str]]:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return []
    fields = [line.split() for line in lines]
    return [(f[5], str(ipaddress.IPv6Address(bytes.fromhex(f[0])))) for f in fields if len(f) == 6]


def _is_reachable(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)
