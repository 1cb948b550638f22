"""How many bytes VolumeReplicas ask of each pool, those being made right now included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twinvault_core.model import VolumeReplica
from twinvault_core.placement import PoolUse


@dataclass(frozen=True)
class _Promise:
    node: str
    pool: str
    size_bytes: int


class Ledger:
    """One promise a replica name.

    1. A replica is entered before the request to make it is sent.
    2. So a second placement, decided while the first request is under way, already counts it.
    3. When the request fails the entry goes back to what the store knows.
    """

    def __init__(self) -> None:
        self._promises: dict[str, _Promise] = {}
        self._uses: dict[str, dict[str, PoolUse]] = {}

    def promise(self, replica: str, node: str, pool: str, size_bytes: int) -> None:
        """Enter or change the promise of ``replica``."""
        self.withdraw(replica)
        self._promises[replica] = _Promise(node, pool, size_bytes)
        self._add(node, pool, size_bytes, 1)

    def withdraw(self, replica: str) -> None:
        known = self._promises.pop(replica, None)
        if known is not None:
            self._add(known.node, known.pool, -known.size_bytes, -1)

    def settle(self, name: str, replica: VolumeReplica | None) -> None:
        """What the store knows of the replica is what counts."""
        if replica is None:
            self.withdraw(name)
        else:
            self.promise(name, replica.node, replica.pool, replica.size_bytes)

    def use_of(self, node: str) -> Mapping[str, PoolUse]:
        """Use by pool of one node: an unchanging copy."""
        return dict(self._uses.get(node, {}))

    def _add(self, node: str, pool: str, size_bytes: int, volumes: int) -> None:
        uses = self._uses.setdefault(node, {})
        before = uses.get(pool, PoolUse())
        after = PoolUse(before.promised_bytes + size_bytes, before.volumes + volumes)
        if after.volumes:
            uses[pool] = after
        else:
            uses.pop(pool, None)
