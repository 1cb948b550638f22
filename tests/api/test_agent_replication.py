"""Two agents against a real API server, with the kernels of the model between them: what depends on
how the server itself compares and swaps, and on how it is when it does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.agent.fake_drbd import NODES, VOLUME, Pair
from tests.agent.metro_world import EAST, WEST, Side, node_object, replica_object
from tests.api.conftest import Freezer
from twinvault_core.errors import TwinvaultError
from twinvault_core.model import ReplicationRecord
from twinvault_core.sizing import GIB
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.config import observe_config
from twinvault_kube.kinds import STORAGE_NODES, VOLUME_REPLICAS, VOLUMES
from twinvault_kube.transport import HttpTransport

pytestmark = pytest.mark.api


class RealMetro:
    """A replicated volume ``v`` as the operator makes one, on a real API."""

    def __init__(self, kube: KubeClient, directory: Path) -> None:
        self.kube, self.pair = kube, Pair()
        self._transports = [
            HttpTransport(observe_config(), user_agent=node, timeout_seconds=5.0) for node in NODES
        ]
        self.east, self.west = (
            Side(self.pair, transport, node, directory)
            for node, transport in zip(NODES, self._transports, strict=True)
        )

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.east, self.west)

    async def create(self) -> None:
        for node in NODES:
            await self.kube.create(STORAGE_NODES, node_object(node))
        volume = {"metadata": {"name": VOLUME}, "spec": {"sizeBytes": GIB, "pool": "fast"}}
        made = await self.kube.create(VOLUMES, volume)
        record = ReplicationRecord(1, EAST, frozenset({EAST}), 1)
        await self.kube.patch_status(VOLUMES, VOLUME, {"replication": record.to_dict()})
        for node in NODES:
            body = replica_object(node, made["metadata"]["uid"], "Skip")
            await self.kube.create(VOLUME_REPLICAS, body)

    async def record(self) -> ReplicationRecord:
        obj = await self.kube.get(VOLUMES, VOLUME)
        record = ReplicationRecord.parse(obj["status"]["replication"])
        assert record is not None
        return record

    async def status(self, node: str) -> Json:
        obj = await self.kube.get(VOLUME_REPLICAS, f"{VOLUME}.{node}")
        return dict((obj.get("status") or {}).get("replication") or {})

    async def fail_over(self, to: str) -> None:
        before = await self.record()
        after = ReplicationRecord(before.epoch + 1, to, frozenset({to}), before.serial + 1)
        await self.kube.patch_status(VOLUMES, VOLUME, {"replication": after.to_dict()})
        for node in NODES:
            hint = {"spec": {"replication": {"epoch": after.epoch}}}
            await self.kube.patch(VOLUME_REPLICAS, f"{VOLUME}.{node}", hint)

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, timeout_seconds: float = 30.0
    ) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            told = [side.drbd.told for side in self.sides]
            raise AssertionError(f"waited for {what}: {told} {self.pair.answers}") from None

    async def until_in_sync(self) -> None:
        async def in_sync() -> bool:
            if (await self.record()).in_sync != {EAST, WEST}:
                return False
            reports = [await self.status(node) for node in NODES]
            return all(r.get("peerDisk") == "UpToDate" and r["step"] == "Nothing" for r in reports)

        await self.until(in_sync, "both replicas to be in sync")

    async def until_writing(self, node: str) -> None:
        async def writes() -> bool:
            return self.pair.acknowledges(node)

        await self.until(writes, f"{node} to acknowledge a write")

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()


@pytest.fixture
async def metro(kube: KubeClient) -> AsyncIterator[RealMetro]:
    with tempfile.TemporaryDirectory(prefix="tv-") as directory:
        made = RealMetro(kube, Path(directory))
        await made.create()
        try:
            async with made.east.running(), made.west.running():
                await made.until_in_sync()
                yield made
        finally:
            await made.close()


async def test_a_cut_link_is_fenced_and_heals(metro: RealMetro) -> None:
    await metro.east.stage()
    metro.pair.cut()
    await metro.until_writing(EAST)
    assert (await metro.record()).in_sync == {EAST}
    metro.pair.heal()
    await metro.until_in_sync()
    assert metro.pair.images_are_equal()


async def test_a_frozen_api_server_lets_nobody_go_on(metro: RealMetro, freeze_api: Freezer) -> None:
    await metro.east.stage()
    freeze_api.freeze()
    metro.pair.cut()
    await asyncio.sleep(4)
    assert not metro.pair.acknowledges(EAST)
    assert metro.pair.answers[-1] == (EAST, "fence-peer", 1)
    freeze_api.thaw()
    await metro.until_writing(EAST)
    assert (await metro.record()).in_sync == {EAST}


async def test_other_writers_of_the_volume_only_delay_an_answer(metro: RealMetro) -> None:
    """The operator writes conditions and the CSI controller the spec while the link is lost."""
    await metro.east.stage()
    ends = asyncio.Event()

    async def disturb() -> None:
        number = 0
        while not ends.is_set():
            number += 1
            with contextlib.suppress(TwinvaultError):
                await metro.kube.patch_status(VOLUMES, VOLUME, {"usedBytes": number})

    task = asyncio.ensure_future(disturb())
    try:
        metro.pair.cut()
        await metro.until_writing(EAST)
    finally:
        ends.set()
        await task
    assert (await metro.record()).in_sync == {EAST}


async def test_a_failover_and_the_return_of_the_old_primary(metro: RealMetro) -> None:
    await metro.east.stage()
    metro.pair.write(EAST)
    metro.east.wire.cut = True
    metro.pair.cut()
    await metro.fail_over(WEST)
    await metro.west.stage()
    assert metro.pair.acknowledges(WEST)
    assert not metro.pair.acknowledges(EAST)
    metro.east.wire.cut = False

    async def gave_up() -> bool:
        return "fail_frozen_io" in metro.east.drbd.told

    await metro.until(gave_up, "the old primary to give up")
    metro.pair.heal()
    await metro.until_in_sync()
    assert metro.pair.images_are_equal()
    assert (await metro.record()).primary == WEST
