"""What the agent knows of its node: shared by the reconcilers and the socket."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinvault_core.errors import TwinvaultError
from twinvault_core.model import PoolState, PoolStatus, StorageNode

from .. import durable

logger = logging.getLogger(__name__)

MEMORY_FILE = "agent-node.json"


@dataclass
class NodeView:
    """``looked``: every pool of the spec was looked at once, so "not there" means something."""

    node_name: str
    spec: StorageNode | None = None
    pools: dict[str, PoolStatus] = field(default_factory=dict)
    looked: bool = False

    def pool_is_ready(self, name: str) -> bool:
        pool = self.pools.get(name)
        return pool is not None and pool.state is PoolState.READY

    def pool_is_possible(self, name: str) -> bool:
        """False only when the spec is known, does not name the pool, and none was seen here."""
        if self.spec is None or name in self.pools:
            return True
        return any(pool.name == name for pool in self.spec.pools)

    def ready_pools(self) -> list[str]:
        return [name for name in self.pools if self.pool_is_ready(name)]


class NodeMemory:
    """The last StorageNode seen, on this node's disk: an agent that starts while the API server
    is away still mounts the pools that it mounted before.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / MEMORY_FILE
        self._kept: Mapping[str, Any] | None = None

    def keep(self, obj: Mapping[str, Any]) -> None:
        """Blocking. Nothing is written when it is the same spec as before."""
        meta = obj["metadata"]
        wanted = {
            "metadata": {key: meta.get(key) for key in ("name", "uid", "generation")},
            # A standing order to erase must come from the API each time, never from memory.
            "spec": {key: value for key, value in obj["spec"].items() if key != "eraseOrphans"},
        }
        if wanted != self._kept and wanted != self._read():
            durable.write_json(self._path, wanted)
        self._kept = wanted

    def recall(self) -> StorageNode | None:
        """Blocking. None when there is none or it cannot be read."""
        try:
            obj = self._read()
            return None if obj is None else StorageNode.parse(obj)
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("%s is not used: %r", self._path, error)
            return None

    def _read(self) -> dict[str, Any] | None:
        try:
            return durable.read_json(self._path)
        except (TwinvaultError, OSError) as error:
            logger.warning("%s is not used: %s", self._path, error)
            return None
