"""The writer of blocks goes on behind its newest block, and a torn one is never taken for whole."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from types import ModuleType

import pytest

from e2e.faults.programs import blocks as program

BLOCKS = 8


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(program, "BLOCKS", BLOCKS)
    return program


@pytest.fixture
def device() -> Iterator[int]:
    fd = os.memfd_create("device")
    os.ftruncate(fd, BLOCKS * program.BLOCK_BYTES)
    yield fd
    os.close(fd)


def put(device: int, number: int, run: int = 7) -> None:
    block = program.PAIR.pack(number, run) * program.REPEATED
    os.pwrite(device, block, number % BLOCKS * program.BLOCK_BYTES)


@pytest.mark.parametrize("count", range(3 * BLOCKS + 1))
def test_a_new_start_goes_on_with_the_next_number(
    blocks: ModuleType, device: int, count: int
) -> None:
    for number in range(1, count + 1):
        put(device, number)
    page = mmap.mmap(-1, blocks.BLOCK_BYTES)
    assert blocks.find_next(device, page) == count + 1


def test_a_block_of_two_writes_is_told(blocks: ModuleType, device: int) -> None:
    put(device, 3)
    os.pwrite(device, blocks.PAIR.pack(11, 7) * (blocks.REPEATED // 2), 3 * blocks.BLOCK_BYTES)
    page = mmap.mmap(-1, blocks.BLOCK_BYTES)
    with pytest.raises(SystemExit, match="block 3 is torn: begins with 11"):
        blocks.read_block(device, page, 3)
