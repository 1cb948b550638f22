"""Snapshots while others write, and the blocks that differ between two of them."""

from __future__ import annotations

import mmap
import os
import random
import threading
from pathlib import Path

import pytest

from tests.root.rig import MIB, POOL, Rig, replica
from twinvault_core.agent_api import Unstage
from twinvault_core.model import Source, VolumeMode
from twinvault_engine import xfs
from twinvault_engine.extents import plan_changed_ranges, read_extents

BLOCK = 4096
SIZE = 64 * MIB


def make_raw(rig: Rig) -> Path:
    """A staged raw block volume's device."""
    rig.make_pool()
    rig.engine.ensure_volume(replica("raw", SIZE, mode=VolumeMode.BLOCK))
    return Path(rig.engine.stage(rig.stage_request("raw", mode="Block"))["devicePath"])


class DirectWriter(threading.Thread):
    """Writes whole blocks of one repeated byte, O_DIRECT, round and round, until it is stopped."""

    def __init__(self, device: Path) -> None:
        super().__init__(daemon=True)
        self._device = device
        self._ending = threading.Event()
        self.rounds = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        buffer = mmap.mmap(-1, MIB)
        try:
            fd = os.open(self._device, os.O_WRONLY | os.O_DIRECT)
            try:
                while not self._ending.is_set():
                    buffer[:] = bytes([1 + self.rounds % 250]) * MIB
                    for offset in range(0, SIZE // 4, MIB):
                        os.pwrite(fd, buffer, offset)
                    self.rounds += 1
            finally:
                os.close(fd)
        except OSError as error:
            self.failure = error

    def stop(self) -> None:
        self._ending.set()
        self.join(60)


def test_snapshot_under_direct_writes_has_no_torn_block(rig: Rig) -> None:
    writer = DirectWriter(make_raw(rig))
    writer.start()
    try:
        for index in range(15):
            rig.engine.ensure_snapshot(POOL, f"snap-{index}", "raw", "uid-raw")
    finally:
        writer.stop()
    assert writer.failure is None
    assert writer.rounds > 0
    for index in range(15):
        data = (rig.pool_root / f"snapshots/snap-{index}/data.img").read_bytes()[: SIZE // 4]
        torn = [at for at in range(0, len(data), BLOCK) if len(set(data[at : at + BLOCK])) != 1]
        assert torn == []


def test_snapshot_of_a_mounted_volume_under_load_is_clean_and_in_order(rig: Rig) -> None:
    """A writer appends records with fsync: each snapshot holds all that were acknowledged."""
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    rig.engine.stage(rig.stage_request("pg"))
    path = rig.staging_path("pg") / "log"
    stopped = threading.Event()
    acknowledged = [0]

    def append() -> None:
        with path.open("ab", buffering=0) as log:
            while not stopped.is_set():
                log.write(b"%010d\n" % (acknowledged[0] + 1))
                os.fsync(log.fileno())
                acknowledged[0] += 1

    writer = threading.Thread(target=append, daemon=True)
    writer.start()
    before = []
    try:
        for index in range(4):
            before.append(acknowledged[0])
            rig.engine.ensure_snapshot(POOL, f"snap-{index}", "pg", "uid-pg")
    finally:
        stopped.set()
        writer.join(60)
    for index, count in enumerate(before):
        name = f"back-{index}"
        rig.engine.ensure_volume(replica(name, source=Source(snapshot=f"snap-{index}")))
        rig.engine.stage(rig.stage_request(name))
        rows = (rig.staging_path(name) / "log").read_bytes().splitlines()
        assert len(rows) >= count
        assert rows == [b"%010d" % (n + 1) for n in range(len(rows))]
        rig.engine.unstage(Unstage(name, str(rig.staging_path(name))))


@pytest.mark.parametrize("direct", [True, False])
def test_difference_of_two_snapshots_is_exactly_what_changed(rig: Rig, direct: bool) -> None:
    device = make_raw(rig)
    chance = random.Random(7)
    write_blocks(device, range(0, SIZE // BLOCK, 2), chance, direct)
    rig.engine.ensure_snapshot(POOL, "one", "raw", "uid-raw")
    write_blocks(device, chance.sample(range(SIZE // BLOCK), 700), chance, direct)
    rig.engine.ensure_snapshot(POOL, "two", "raw", "uid-raw")
    one, two = (rig.pool_root / f"snapshots/{name}/data.img" for name in ("one", "two"))
    found = {
        at // BLOCK
        for piece in plan_changed_ranges(read_extents(one), read_extents(two), SIZE)
        for at in range(piece.offset, piece.offset + piece.length, BLOCK)
    }
    assert found == differing_blocks(one, two)
    assert len(found) == 700


def write_blocks(
    device: Path, numbers: range | list[int], chance: random.Random, direct: bool
) -> None:
    buffer = mmap.mmap(-1, BLOCK)
    fd = os.open(device, os.O_WRONLY | (os.O_DIRECT if direct else 0))
    try:
        for number in numbers:
            buffer[:] = chance.randbytes(BLOCK)
            os.pwrite(fd, buffer, number * BLOCK)
    finally:
        os.close(fd)


def differing_blocks(one: Path, two: Path) -> set[int]:
    with one.open("rb") as first, two.open("rb") as second:
        return {
            number for number in range(SIZE // BLOCK) if first.read(BLOCK) != second.read(BLOCK)
        }


def test_space_held_ahead_of_copies_is_given_back_before_a_volume_is_refused(rig: Rig) -> None:
    device = make_raw(rig)
    chance = random.Random(7)
    write_blocks(device, range(SIZE // BLOCK), chance, True)
    rig.engine.ensure_snapshot(POOL, "one", "raw", "uid-raw")
    before = _free_bytes(rig)
    write_blocks(device, range(0, SIZE // BLOCK, 256), chance, True)
    assert before - _free_bytes(rig) > SIZE // 2
    xfs.free_preallocations(rig.pool_root)
    assert before - _free_bytes(rig) < SIZE // 8


def _free_bytes(rig: Rig) -> int:
    usage = os.statvfs(rig.pool_root)
    return usage.f_bfree * usage.f_frsize
