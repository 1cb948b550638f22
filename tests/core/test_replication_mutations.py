"""Each rule, taken away, lets the model find a volume that loses writes or is moved for nothing.

If one of these courses ended well, the rule would be unnecessary or the model blind to it.
"""

from __future__ import annotations

import pytest

from tests.core.replication_model.mutations import MUTATIONS
from tests.core.replication_model.walk import (
    ANYTHING,
    LATE_WRITES,
    MOVES,
    MOVES_BACK,
    Course,
    find_violation,
)

EXPECTED: dict[str, tuple[Course, str]] = {
    "R1": (LATE_WRITES, "may become primary and misses write"),
    "R2 when the record moves": (ANYTHING, "R2"),
    "R2 when a replica is promoted": (ANYTHING, "R2"),
    "R3": (LATE_WRITES, "may become primary and misses write"),
    "serial": (LATE_WRITES, "may become primary and misses write"),
    "link down": (ANYTHING, "given up while its link was up"),
    "lease expired": (ANYTHING, "given up while its agent was heard"),
    "only the primary adds": (LATE_WRITES, "may become primary and misses write"),
    "each set of replicas has its own port": (MOVES, "may become primary and misses write"),
    "an earlier replica is copied whole": (MOVES_BACK, "may become primary and misses write"),
    "the record knows who has a replica": (MOVES, "who holds no replica any more"),
    "the record is read first": (LATE_WRITES, "may become primary and misses write"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_without_the_rule_the_model_finds_what_it_is_for(name: str) -> None:
    course, broken = EXPECTED[name]
    with MUTATIONS[name]() as decisions:
        found = find_violation(range(200), decisions, course)
    assert found is not None, f"nothing broke without {name}"
    assert broken in found[1]
    assert find_violation(range(found[0], found[0] + 1), course=course) is None
