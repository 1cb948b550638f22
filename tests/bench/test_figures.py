"""Percentiles, ratios and what goes into a figure."""

from __future__ import annotations

import json

import pytest

from bench.figures import divide, percentile, print_figure, summarize, summarize_each
from e2e.faults.verdict import choose_percentile


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 21)]
    assert percentile(values, 0.5) == 10.0
    assert percentile(values, 0.95) == 19.0
    assert percentile(values, 1.0) == 20.0
    assert percentile([7.0], 0.0) == 7.0
    with pytest.raises(ValueError):
        percentile([], 0.5)


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, 100])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_fault_runs_and_benches_mean_the_same_percentile(count: int, share: float) -> None:
    values = [float(number) for number in range(count)]
    assert percentile(values, share) == choose_percentile(values, share)


def test_each_phase_is_summarized_over_the_rounds_that_had_it() -> None:
    found = summarize_each([{"a": 1.0, "b": 5.0}, {"a": 3.0}])
    assert list(found) == ["a", "b"]
    assert (found["a"]["count"], found["a"]["max"]) == (2, 3.0)
    assert found["b"] == summarize([5.0])


def test_a_ratio_to_nothing_is_null_and_no_error() -> None:
    assert divide({"p50": 3.0, "p95": 4.0}, {"p50": 2.0, "p95": 0.0}, "p50", "p95") == {
        "p50": 1.5,
        "p95": None,
    }


def test_a_figure_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_figure("x", figure={"b": 1, "a": 2}, compared_with=2, ratio=0.5, goal="g")
    [line] = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert (said["name"], said["ratio"], said["details"]) == ("x", 0.5, {})
    assert list(said["figure"]) == ["b", "a"]
