"""Which benches run, how their rounds are counted, and what is left of an interrupted series."""

from __future__ import annotations

import importlib.util

import pytest

from bench.__main__ import BENCHES, Bench, choose_deadline_seconds, parse_options
from bench.lab_bench import FAILED, INTERRUPTED, Rounds, Row, parse_rounds, run_rounds
from e2e.lab.progress import WaitError


def test_every_bench_is_a_module() -> None:
    for bench in BENCHES:
        assert importlib.util.find_spec(f"bench.{bench.name}") is not None


def test_benches_are_chosen_by_name_in_the_order_given() -> None:
    assert parse_options([]).chosen == list(BENCHES)
    given = parse_options(["rto", "link_cut", "--rounds", "5"])
    assert [bench.name for bench in given.chosen] == ["rto", "link_cut"]
    assert given.rounds == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rtoo"], "there is no bench rtoo"),
        (["storm", "--rounds", "5"], "no rounds to count"),
        (["rto", "--rounds", "-1"], "at least 1"),
    ],
)
def test_a_wrong_choice_is_told(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_options(words)
    assert told in capsys.readouterr().err


def test_more_rounds_have_more_time() -> None:
    counted, single = Bench("a", "", 100.0, True), Bench("b", "", 100.0)
    assert choose_deadline_seconds(counted, 0) == 100.0
    assert choose_deadline_seconds(counted, 5) == 100.0
    assert choose_deadline_seconds(counted, 60) == 300.0
    assert choose_deadline_seconds(single, 60) == 100.0


def test_a_bench_has_at_least_one_round() -> None:
    assert parse_rounds("", 20, []) == 20
    assert parse_rounds("", 20, ["--rounds", "3"]) == 3
    with pytest.raises(SystemExit):
        parse_rounds("", 20, ["--rounds", "0"])


def series(outcomes: list[BaseException | float]) -> tuple[Rounds, list[int]]:
    asked: list[int] = []

    def act(number: int) -> Row:
        asked.append(number)
        outcome = outcomes[number - 1]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"value": outcome}

    return run_rounds(len(outcomes), act), asked


def test_a_round_that_fails_is_told_and_the_next_one_begins() -> None:
    done, asked = series([1.0, WaitError("no writes"), 3.0])
    assert asked == [1, 2, 3]
    assert [row["value"] for row in done.rows] == [1.0, 3.0]
    assert done.failed == ["round 2: no writes"]
    assert done.exit_code == FAILED


def test_two_failures_in_a_row_end_the_series() -> None:
    lost: list[BaseException | float] = [WaitError("a"), WaitError("b"), 3.0]
    assert series(lost)[1] == [1, 2]
    apart: list[BaseException | float] = [WaitError("a"), 2.0, WaitError("c"), 4.0]
    assert series(apart)[1] == [1, 2, 3, 4]


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    done, asked = series([1.0, KeyboardInterrupt(), 3.0])
    assert asked == [1, 2]
    assert [row["value"] for row in done.rows] == [1.0]
    assert done.interrupted
    assert done.exit_code == INTERRUPTED


def test_a_bug_is_no_failed_round() -> None:
    with pytest.raises(KeyError):
        series([KeyError("x")])
