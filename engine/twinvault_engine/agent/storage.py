"""The engine as the agent's coroutines use it: on worker threads, timed and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from twinvault_core.agent_api import Expand, Publish, Stage, Stats, Unpublish, Unstage
from twinvault_core.errors import ErrorCode, TwinvaultError
from twinvault_core.model import PoolSpec, PoolStatus, VolumeReplica

from ..facts import DeviceFacts, Recovery, SnapshotFacts, VolumeFacts
from .replication_storage import ReplicationStorage

T = TypeVar("T")


class Storage(Protocol):
    """The part of ``Engine`` that the agent needs; see there for what each call promises."""

    @property
    def replication(self) -> ReplicationStorage: ...
    def recover(self) -> Recovery: ...
    def observe_devices(self) -> tuple[DeviceFacts, ...]: ...
    def ensure_pool(self, spec: PoolSpec, storage_cluster: str) -> PoolStatus: ...
    def observe_pool(self, name: str) -> PoolStatus | None: ...
    def ensure_volume(self, replica: VolumeReplica) -> VolumeFacts: ...
    def observe_volume(self, pool: str, volume_id: str) -> VolumeFacts | None: ...
    def erase_volume(self, pool: str, volume_id: str, volume_uid: str) -> None: ...
    def list_volumes(self, pool: str) -> tuple[VolumeFacts, ...]: ...
    def ensure_snapshot(
        self,
        pool: str,
        snapshot_id: str,
        volume_id: str,
        volume_uid: str,
        *,
        quiesced: bool = False,
    ) -> SnapshotFacts: ...
    def observe_snapshot(self, pool: str, snapshot_id: str) -> SnapshotFacts | None: ...
    def erase_snapshot(self, pool: str, snapshot_id: str) -> None: ...
    def list_snapshots(self, pool: str) -> tuple[SnapshotFacts, ...]: ...
    def stage(self, request: Stage, *, pool: str = "", volume_uid: str = "") -> dict[str, Any]: ...
    def lift(self, volume_id: str, *, replicated: bool) -> Stage | None: ...
    def unstage(self, request: Unstage) -> dict[str, Any]: ...
    def publish(self, request: Publish) -> dict[str, Any]: ...
    def unpublish(self, request: Unpublish) -> dict[str, Any]: ...
    def stats(self, request: Stats) -> dict[str, Any]: ...
    def expand(self, request: Expand) -> dict[str, Any]: ...
    def max_volumes(self) -> int: ...


class OperationMeter(Protocol):
    """Hears of every operation of the engine when it ends; ``code`` is empty on success."""

    def observe_operation(self, kind: str, seconds: float, code: str) -> None: ...


class StorageThreads:
    """Runs blocking calls on at most ``threads`` threads; the event loop never blocks.

    A thread cannot be stopped: a caller that gives up must keep its locks until the call ends.
    """

    def __init__(self, threads: int, meter: OperationMeter, name: str = "engine") -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._meter = meter

    async def run(self, kind: str, work: Callable[[], T]) -> T:
        """The result of ``work()``; ``kind`` names it in the metrics. Errors pass through."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._measured, kind, work)

    def close(self) -> None:
        """Wait for what runs; what has not started is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _measured(self, kind: str, work: Callable[[], T]) -> T:
        started = time.monotonic()
        code = ""
        try:
            return work()
        except TwinvaultError as error:
            code = error.code.value
            raise
        except BaseException:
            code = ErrorCode.INTERNAL.value
            raise
        finally:
            self._meter.observe_operation(kind, time.monotonic() - started, code)
