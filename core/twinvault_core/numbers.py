"""DRBD device numbers and TCP ports: one number a replicated volume, unique in the cluster.

The claim of a number is an object of its own whose name is the number, so the API server itself
sees to it that nobody else has it:
1. The claim is made: creating it fails when somebody has the number.
2. The number is written into the Volume's status by compare-and-swap, together with its placement.
3. Only then replicas are made with it.
4. When the Volume goes: replicas first, then the claim, then the Volume's finalizer.
A kill after step 1 leaves a claim that names its volume by uid: the next try uses it again. A claim
is released only when the volume goes, or when the API server itself says that its uid is gone; that
is never taken back. Were one released because the status has other numbers, then
1. an operator claims a number for a new port and sends the write that uses it,
2. another one, that knows of no change, releases the claim,
3. the write of 1 arrives, and the port is anybody's, even this volume's next one.

When a replica moves its volume gets a new port and keeps its device number: the port's number is
then another one, claimed in the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

FIRST_MINOR: Final = 1000
FIRST_PORT: Final = 7000
MOST_NUMBERS: Final = 2800
"""Ports 7000 to 9799."""

AVOIDED_PORTS: Final = frozenset(
    {7070, 7443, 7472, 7473, 7946, 8000, 8008, 8080, 8081, 8181, 8200, 8443, 8472, 8500, 8888}
    | {9000, 9090, 9091, 9093, 9094, 9098, 9099, 9100, 9234, 9443, 9500, 9633, 9796}
)
"""Ports of common programs that listen on a node's own addresses."""

CLAIM_PREFIX: Final = "drbd-"


@dataclass(frozen=True)
class Claim:
    """Number ``number`` belongs to the Volume with ``volume_uid``; ``uid`` is the claim's own."""

    number: int
    volume: str
    volume_uid: str
    uid: str = ""


@dataclass(frozen=True)
class Device:
    """``Volume.status.replicationDevice``. The port changes with the replicas, the minor does not.

    ``retired``: ports that it had before. A replica that was left behind may come back and look
    there for its peer, so they stay claimed as long as the volume lives.
    """

    minor: int
    port: int
    retired: tuple[int, ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Device | None:
        if not raw:
            return None
        return cls(int(raw["minor"]), int(raw["port"]), tuple(raw.get("retired") or ()))

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = {"minor": self.minor, "port": self.port}
        return {**told, "retired": list(self.retired)} if self.retired else told


def device_of(number: int) -> Device:
    return Device(FIRST_MINOR + number, FIRST_PORT + number)


def number_of(minor: int) -> int:
    """The number behind a DRBD minor."""
    return minor - FIRST_MINOR


def number_of_port(port: int) -> int:
    """The number behind a port."""
    return port - FIRST_PORT


def numbers_of(device: Device | None) -> frozenset[int]:
    """Every number that ``device`` still needs."""
    if device is None:
        return frozenset()
    ports = (device.port, *device.retired)
    return frozenset({number_of(device.minor), *map(number_of_port, ports)})


def claim_name(number: int) -> str:
    """Name of the Lease that claims ``number``."""
    return f"{CLAIM_PREFIX}{number}"


def parse_claim_name(name: str) -> int | None:
    """The number that a Lease of this name claims; None when it is no claim."""
    digits = name.removeprefix(CLAIM_PREFIX)
    return int(digits) if digits != name and digits.isdecimal() else None


def choose_number(taken: Collection[int]) -> int | None:
    """The smallest number that nobody has; None when all are taken."""
    for number in range(MOST_NUMBERS):
        if number not in taken and FIRST_PORT + number not in AVOIDED_PORTS:
            return number
    return None
