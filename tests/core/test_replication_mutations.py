"""Each rule, taken away, lets the model find a volume that loses writes or is moved for nothing.

If one of these courses ended well, the rule would be unnecessary or the model blind to it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.replication_model.agent import Decisions
from tests.core.replication_model.examples import (
    act_on_an_old_view,
    ask_after_the_other_serves,
    let_go_after_the_other_serves,
    meet_after_frozen_io,
)
from tests.core.replication_model.mutations import MUTATIONS
from tests.core.replication_model.walk import (
    ANYTHING,
    LATE_WRITES,
    LOST_SITES,
    MOVES,
    MOVES_BACK,
    Course,
    find_violation,
)
from tests.core.replication_model.world import ViolationError

EXPECTED: dict[str, tuple[Course, str]] = {
    "R1": (LATE_WRITES, "may become primary and misses write"),
    "R2 when the record moves": (ANYTHING, "R2"),
    "R2 when a replica is promoted": (ANYTHING, "R2"),
    "R3": (LATE_WRITES, "may become primary and misses write"),
    "serial": (LATE_WRITES, "may become primary and misses write"),
    "link down": (ANYTHING, "given up while its link was up"),
    "lease expired": (ANYTHING, "given up while its agent was heard"),
    "only the primary adds": (LATE_WRITES, "may become primary and misses write"),
    "each set of replicas has its own port": (MOVES_BACK, "may become primary and misses write"),
    "an earlier replica is copied whole": (MOVES_BACK, "may become primary and misses write"),
    "the record knows who has a replica": (MOVES, "who holds no replica any more"),
    "the record is read first": (LATE_WRITES, "may become primary and misses write"),
    "a resync that stands still begins anew": (ANYTHING, "stuck"),
    "only what is fenced is evicted": (ANYTHING, "without its volume being fenced"),
    "a person approves": (LOST_SITES, "nobody approved"),
    "Degraded says what is lacking": (ANYTHING, "no condition says why"),
    "Ready says why it is not": (ANYTHING, "a pod is not served"),
}

EXAMPLES: dict[str, tuple[Callable[[Decisions], None], str]] = {
    "the question is answered by the record": (ask_after_the_other_serves, "two primaries"),
    "frozen I/O of before ends in errors": (meet_after_frozen_io, "the replicas diverged"),
    "who was superseded lets go": (let_go_after_the_other_serves, "stuck"),
    "the epoch is read before a pod goes": (act_on_an_old_view, "without its volume being fenced"),
}


def test_every_rule_has_its_proof() -> None:
    assert set(MUTATIONS) == {*EXPECTED, *EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_without_the_rule_one_course_goes_wrong_that_otherwise_ends_well(name: str) -> None:
    course, broken = EXAMPLES[name]
    course(Decisions())
    with MUTATIONS[name]() as decisions, pytest.raises(ViolationError, match=broken):
        course(decisions)


@pytest.mark.parametrize("name", EXPECTED)
def test_without_the_rule_the_model_finds_what_it_is_for(name: str) -> None:
    course, broken = EXPECTED[name]
    with MUTATIONS[name]() as decisions:
        found = find_violation(range(200), decisions, course, broken)
    assert found is not None, f"nothing of that kind broke without: {name}"
    assert find_violation(range(found[0], found[0] + 1), course=course) is None
