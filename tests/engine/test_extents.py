"""The changed-block difference, against byte-for-byte models of two snapshots."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from twinvault_engine.extents import Extent, Flag, Range, plan_changed_ranges

BLOCK = 4096
BLOCKS = 24
SIZE = BLOCKS * BLOCK

# A block's place on disk; None is a hole. Two snapshots hold the same bytes in a block for
# certain only when both have it in the same place.
places = st.lists(st.one_of(st.none(), st.integers(0, 40)), min_size=BLOCKS, max_size=BLOCKS)


def to_extents(blocks: list[int | None], unwritten: frozenset[int] = frozenset()) -> list[Extent]:
    """The map of a file with these blocks; neighbours on disk and in the file become one."""
    extents: list[Extent] = []
    for index, place in enumerate(blocks):
        if place is None:
            continue
        flags = Flag.UNWRITTEN if index in unwritten else Flag(0)
        here = Extent(index * BLOCK, place * BLOCK, BLOCK, flags)
        last = extents[-1] if extents else None
        if (
            last
            and last.end == here.logical
            and last.physical + last.length == here.physical
            and last.flags == here.flags
        ):
            extents[-1] = Extent(last.logical, last.physical, last.length + BLOCK, flags)
        else:
            extents.append(here)
    return extents


def blocks_of(ranges: list[Range]) -> set[int]:
    return {
        offset // BLOCK for r in ranges for offset in range(r.offset, r.offset + r.length, BLOCK)
    }


@given(places, places)
def test_exactly_the_blocks_that_moved_are_found(
    old: list[int | None], new: list[int | None]
) -> None:
    found = plan_changed_ranges(to_extents(old), to_extents(new), SIZE)
    assert blocks_of(found) == {i for i in range(BLOCKS) if old[i] != new[i]}


@given(places, places, st.frozensets(st.integers(0, BLOCKS - 1)))
def test_unwritten_blocks_count_as_holes(
    old: list[int | None], new: list[int | None], unwritten: frozenset[int]
) -> None:
    as_holes = [None if i in unwritten else place for i, place in enumerate(new)]
    expected = plan_changed_ranges(to_extents(old), to_extents(as_holes), SIZE)
    assert plan_changed_ranges(to_extents(old), to_extents(new, unwritten), SIZE) == expected


@given(places, places)
def test_ranges_are_sorted_apart_and_inside_the_file(
    old: list[int | None], new: list[int | None]
) -> None:
    found = plan_changed_ranges(to_extents(old), to_extents(new), SIZE)
    for before, after in pairwise(found):
        assert before.offset + before.length < after.offset
    assert all(r.length > 0 and r.offset + r.length <= SIZE for r in found)


@given(places)
def test_a_snapshot_does_not_differ_from_itself(blocks: list[int | None]) -> None:
    assert plan_changed_ranges(to_extents(blocks), to_extents(blocks), SIZE) == []


@given(places, st.sampled_from([Flag.DELALLOC, Flag.UNKNOWN, Flag.DATA_INLINE]))
def test_what_cannot_be_placed_counts_as_changed(blocks: list[int | None], flag: Flag) -> None:
    placed = to_extents(blocks)
    untold = [Extent(e.logical, e.physical, e.length, e.flags | flag) for e in placed]
    found = blocks_of(plan_changed_ranges(placed, untold, SIZE))
    assert found == {i for i in range(BLOCKS) if blocks[i] is not None}


def test_part_of_a_compressed_extent_is_known_by_its_start() -> None:
    old = [Extent(0, 1 << 20, 32 * BLOCK, Flag.ENCODED)]
    new = [
        Extent(0, 1 << 20, 4 * BLOCK, Flag.ENCODED),
        Extent(4 * BLOCK, 5 << 20, BLOCK, Flag.ENCODED),
        Extent(5 * BLOCK, 1 << 20, 27 * BLOCK, Flag.ENCODED),
    ]
    assert plan_changed_ranges(old, new, 32 * BLOCK) == [Range(4 * BLOCK, BLOCK)]


def test_growth_of_the_file_by_data_is_a_change_and_by_a_hole_is_none() -> None:
    old = [Extent(0, 0, BLOCK, Flag(0))]
    assert plan_changed_ranges(old, old, 10 * BLOCK) == []
    grown = [*old, Extent(BLOCK, 9 * BLOCK, BLOCK, Flag(0))]
    assert plan_changed_ranges(old, grown, 10 * BLOCK) == [Range(BLOCK, BLOCK)]


def test_map_longer_than_the_file_is_cut_at_its_size() -> None:
    new = [Extent(0, 0, 4 * BLOCK, Flag(0))]
    assert plan_changed_ranges([], new, 2 * BLOCK) == [Range(0, 2 * BLOCK)]
