"""Pauses are what a client felt, and nothing that was acknowledged is overlooked."""

from __future__ import annotations

from math import inf

from e2e.faults.acknowledged import (
    Acknowledgement,
    Pause,
    find_longest_pause,
    find_missing_blocks,
    find_missing_rows,
    parse_acknowledgement,
)
from e2e.faults.verdict import Promises


def test_a_datagram_names_who_counts_which_start_of_it_and_the_number() -> None:
    heard = parse_acknowledgement(b"rows-east-1 77 12", 3.5)
    assert heard == Acknowledgement("rows-east-1", 77, 12, 3.5)
    assert heard is not None
    assert heard.service == "rows"
    for noise in (b"", b"rows 1", b"rows one 2", b"rows 1 2 3", b"\xff\xfe"):
        assert parse_acknowledgement(noise, 0.0) is None


def test_the_pause_that_the_fault_began_counts_from_the_last_acknowledgement_before_it() -> None:
    assert find_longest_pause([1.0, 2.0, 9.0, 9.5], 2.5, 10.0) == Pause(2.0, 9.0)


def test_a_longer_pause_before_the_fault_is_not_its_doing() -> None:
    assert find_longest_pause([0.0, 50.0, 51.0, 53.0, 54.0], 50.5, 54.0) == Pause(51.0, 53.0)


def test_a_service_that_never_came_back_has_a_pause_without_end() -> None:
    assert find_longest_pause([1.0, 2.0], 2.5, 60.0) == Pause(2.0, inf)
    assert find_longest_pause([], 2.5, 60.0) == Pause(2.5, inf)


def test_silence_at_the_end_counts_until_the_end_of_the_look() -> None:
    assert find_longest_pause([1.0, 2.0, 3.0], 1.5, 30.0) == Pause(3.0, 30.0)


def test_a_missing_row_is_named_and_one_of_another_run_counts_as_lost() -> None:
    promised = {"rows-east-1": {1: 7, 2: 7, 3: 8}}
    assert find_missing_rows(promised, {"rows-east-1": {1: 7, 2: 7, 3: 8, 4: 8}}) == []
    [missing] = find_missing_rows(promised, {"rows-east-1": {1: 7, 3: 8}})
    assert "rows-east-1 2" in missing
    [rewritten] = find_missing_rows(promised, {"rows-east-1": {1: 7, 2: 9, 3: 8}})
    assert "another run" in rewritten
    assert len(find_missing_rows(promised, {})) == 3


def test_a_block_may_hold_a_later_number_but_never_an_earlier_one() -> None:
    promised = {9: 1, 10: 1, 11: 1}
    assert find_missing_blocks(promised, {9: 1, 10: 1, 11: 1}, 8) == []
    assert find_missing_blocks(promised, {17: 1, 10: 1, 11: 1}, 8) == []
    [older] = find_missing_blocks(promised, {1: 1, 10: 1, 11: 1}, 8)
    assert older.startswith("block 1: 9 was acknowledged, 1 is there")
    [never] = find_missing_blocks(promised, {9: 1, 10: 1}, 8)
    assert never.startswith("block 3: 11 was acknowledged, 0 is there")


def test_a_write_that_was_lost_and_written_again_is_still_found_out() -> None:
    promises = Promises(8)
    assert promises.add([Acknowledgement("blocks", 1, 5, 0.1)]) == []
    # The second start did not find 5 and used the number once more.
    [problem] = promises.add([Acknowledgement("blocks", 2, 5, 9.0)])
    assert "blocks 5" in problem


def test_promises_about_blocks_are_forgotten_only_when_the_ring_went_round() -> None:
    promises = Promises(4)
    promises.add(Acknowledgement("blocks", 1, number, float(number)) for number in range(1, 100))
    assert sorted(promises.by_stream["blocks"])[-4:] == [96, 97, 98, 99]
    [lost] = promises.find_missing_blocks({96: 1, 97: 1, 98: 1, 95: 1})
    assert "99 was acknowledged" in lost


def test_rows_of_earlier_runs_are_asked_for_again_and_again() -> None:
    promises = Promises(4)
    promises.add([Acknowledgement("rows-west-1", 1, 1, 0.0)])
    promises.add([Acknowledgement("rows-west-1", 1, 2, 1.0)])
    assert promises.count == 2
    [missing] = promises.find_missing_rows({"rows-west-1": {2: 1}})
    assert "rows-west-1 1" in missing
