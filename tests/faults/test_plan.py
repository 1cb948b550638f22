"""A seed says everything about its run, and every fault has its turn."""

from __future__ import annotations

import pytest

from e2e.faults.plan import plan_run, plan_runs
from e2e.faults.table import FAULTS, applicable, choose_expectation, find_fault


def test_a_run_is_the_same_alone_as_in_its_series() -> None:
    names = applicable(replicated=True)
    series = plan_runs(40, 10, names)
    assert [plan_run(40 + n, names) for n in range(10)] == series
    assert len({plan.warm_seconds for plan in series}) == 10


def test_the_timing_stays_when_the_fault_is_named() -> None:
    names = applicable(replicated=True)
    drawn = plan_run(17, names)
    assert plan_run(17, [drawn.fault]) == drawn


@pytest.mark.parametrize("replicated", [True, False])
def test_each_round_of_seeds_goes_through_the_whole_table_in_another_order(
    replicated: bool,
) -> None:
    names = applicable(replicated)
    rounds = [
        [plan.fault for plan in plan_runs(number * len(names), len(names), names)]
        for number in range(3)
    ]
    for one in rounds:
        assert sorted(one) == sorted(names)
    assert rounds[0] != rounds[1] != rounds[2]


def test_names_are_unique_and_every_fault_says_what_it_does() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.told for fault in FAULTS)
    for fault in FAULTS:
        assert find_fault(fault.name) is fault
        assert choose_expectation(fault, replicated=True) is not None


def test_an_unknown_fault_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="power-primary"):
        find_fault("meteorite")
    with pytest.raises(ValueError, match="no fault"):
        plan_run(1, [])
