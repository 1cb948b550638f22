"""The resource file that drbdadm reads, for DRBD 8.4 and 9. Pure.

One resource is one volume between two nodes. What both versions read the same is written once;
where they differ (the place of ``fencing``, node ids, the resync controller's section) the file
follows the kernel's version. Hosts are told by address (``floating``), never by name: the agent's
container may have another host name than its node.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from twinvault_core.errors import InvalidError
from twinvault_core.model import ReplicationSettings, ReplicationSpec

MIN_MINOR = 1
MAX_MINOR = (1 << 20) - 1
_MIB = 1024**2
_TIB = 1024**4
_SECTOR_BYTES = 512
AL_EXTENT_BYTES = 4 * _MIB
MIN_AL_EXTENTS = 67
MAX_AL_EXTENTS = 1237
_METADATA_SLACK_BYTES = 3 * _MIB
_PEER_HANG_SECONDS = 10
_RESYNC_DISCARD_BYTES = 64 * 1024


def resource_name(volume_id: str) -> str:
    """The name of a volume's resource; other users of DRBD on the node have other names."""
    return f"tv-{volume_id}"


def volume_of_resource(name: str) -> str | None:
    """The volume id in a resource's name, None for a resource of somebody else."""
    return name.removeprefix("tv-") if name.startswith("tv-") else None


def check_spec(volume_id: str, spec: ReplicationSpec) -> None:
    """InvalidError that names what cannot be."""
    if not MIN_MINOR <= spec.minor <= MAX_MINOR:
        raise InvalidError(f"DRBD minor {spec.minor} is not between {MIN_MINOR} and {MAX_MINOR}")
    if not 1 <= spec.port <= 65535:
        raise InvalidError(f"replication port {spec.port} is not between 1 and 65535")
    try:
        own, peer = ip_address(spec.address), ip_address(spec.peer_address)
    except ValueError as error:
        raise InvalidError(f"replication address of volume {volume_id}: {error}") from error
    if own == peer or own.version != peer.version:
        raise InvalidError(
            f"volume {volume_id} cannot be replicated from {own} to {peer}; the addresses must"
            " differ and be of one family"
        )


def choose_metadata_bytes(size_bytes: int) -> int:
    """Size of the metadata image for a volume: 1 MiB, 32 MiB a TiB of bitmap, and some room so
    that a small volume may grow a hundredfold before its metadata must.
    """
    bitmap = math.ceil(size_bytes / _TIB * 32 * _MIB)
    return math.ceil((_MIB + _METADATA_SLACK_BYTES + bitmap) / _MIB) * _MIB


def choose_al_extents(size_bytes: int) -> int:
    """The activity log: what is resynced after a primary's crash is at most this many times
    4 MiB. A quarter of a small volume, 4.8 GiB of a large one.
    """
    return max(MIN_AL_EXTENTS, min(MAX_AL_EXTENTS, size_bytes // AL_EXTENT_BYTES // 4))


@dataclass(frozen=True)
class Controller:
    """The resync controller's values in DRBD's own units."""

    plan_ahead_tenths: int
    fill_target_sectors: int
    max_rate_kib: int
    min_rate_kib: int


def choose_controller(settings: ReplicationSettings) -> Controller:
    """Values for this round trip: plan ahead at least five of them, and keep in flight what the
    line holds at full rate, at least 1 MiB. The floor is what a resync gets beside a busy
    application, a tenth of the most: DRBD's own 250 KiB/s would take a day for 20 GiB.
    """
    max_rate = settings.max_rate_bytes_per_second or 100 * _MIB
    min_rate = settings.min_rate_bytes_per_second or max(_MIB, max_rate // 10)
    in_flight = max_rate * settings.round_trip_milliseconds / 1000
    fill = int(min(512 * _MIB, max(_MIB, 1.5 * in_flight)))
    return Controller(
        plan_ahead_tenths=min(300, max(20, math.ceil(5 * settings.round_trip_milliseconds / 100))),
        fill_target_sectors=fill // _SECTOR_BYTES,
        max_rate_kib=min(4194304, max(250, max_rate // 1024)),
        min_rate_kib=min(4194304, max(1, min(min_rate, max_rate) // 1024)),
    )


def choose_net_timing(settings: ReplicationSettings) -> dict[str, int]:
    """ping-int, ping-timeout, timeout, connect-int and ko-count that fit one another.

    ``timeout`` (tenths) must be below ping-int and connect-int (seconds). ko-count times timeout
    bounds a peer that answers pings while its disk hangs. A ping may take three round trips.
    """
    ping = max(1, min(120, settings.ping_interval_seconds))
    timeout = max(1, min(60, ping * 10 - 1))
    round_trips = math.ceil(3 * settings.round_trip_milliseconds / 100)
    return {
        "ping-int": ping,
        "ping-timeout": max(1, min(300, max(settings.ping_timeout_tenths, round_trips))),
        "timeout": timeout,
        "connect-int": max(2, math.ceil(timeout / 10) + 1),
        "ko-count": max(1, min(200, math.ceil(_PEER_HANG_SECONDS * 10 / timeout))),
    }


def render_resource(
    volume_id: str,
    spec: ReplicationSpec,
    data_device: str,
    metadata_device: str,
    size_bytes: int,
    version: str,
) -> str:
    """The whole file. ``version`` is the kernel module's: 8.4.x or 9.x."""
    newer = not version.startswith("8.")
    controller = choose_controller(spec.settings)
    control: dict[str, object] = {
        "c-plan-ahead": controller.plan_ahead_tenths,
        "c-fill-target": f"{controller.fill_target_sectors}s",
        "c-max-rate": f"{controller.max_rate_kib}k",
        "c-min-rate": f"{controller.min_rate_kib}k",
    }
    net: dict[str, object] = {
        "protocol": "C",
        **choose_net_timing(spec.settings),
        "csums-alg": "sha256",
        "verify-alg": "sha256",
        "after-sb-0pri": "disconnect",
        "after-sb-1pri": "disconnect",
        "after-sb-2pri": "disconnect",
        "rr-conflict": "disconnect",
        "allow-two-primaries": "no",
    }
    disk: dict[str, object] = {
        "on-io-error": "detach",
        "al-extents": spec.settings.al_extents or choose_al_extents(size_bytes),
        "rs-discard-granularity": _RESYNC_DISCARD_BYTES,
        **control,
    }
    options: dict[str, object] = {"on-no-data-accessible": "io-error"}
    (net if newer else disk)["fencing"] = "resource-and-stonith"
    if newer:
        options |= {"auto-promote": "no", "quorum": "off"}
    hosts = [
        _host(address, spec, data_device, metadata_device, index if newer else None)
        for index, address in enumerate(sorted((spec.address, spec.peer_address)))
    ]
    sections = [_section("options", options), _section("net", net), _section("disk", disk)]
    body = "".join([*sections, *hosts])
    return (
        "# Written by twinvault's agent whenever it brings the volume up; changes are lost.\n"
        f'resource "{resource_name(volume_id)}" {{\n{body}}}\n'
    )


_PORTS = re.compile(r"^  floating \S+ \S+:(\d+) \{", re.MULTILINE)


def parse_ports(text: str) -> frozenset[int]:
    """The ports in a resource file that ``render_resource`` made; one, unless it is damaged."""
    return frozenset(int(port) for port in _PORTS.findall(text))


def node_id(spec: ReplicationSpec) -> int:
    """This node's id in DRBD 9: 0 or 1, agreed on without talking."""
    return sorted((spec.address, spec.peer_address)).index(spec.address)


def _section(name: str, values: Mapping[str, object]) -> str:
    lines = "".join(f"    {key} {value};\n" for key, value in values.items())
    return f"  {name} {{\n{lines}  }}\n"


def _host(address: str, spec: ReplicationSpec, data: str, metadata: str, number: int | None) -> str:
    """Both hosts get our own devices: drbdadm uses only its own host's."""
    family, text = ("ipv6", f"[{address}]") if ":" in address else ("ipv4", address)
    identity = "" if number is None else f"    node-id {number};\n"
    return (
        f"  floating {family} {text}:{spec.port} {{\n{identity}"
        f"    device minor {spec.minor};\n    disk {data};\n    meta-disk {metadata};\n  }}\n"
    )
