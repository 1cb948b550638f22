"""The record's transitions, one by one: what is made, and what is refused by which rule."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from twinvault_core import replication_record as record_of
from twinvault_core.model import ForcePrimary, ReplicationRecord
from twinvault_core.replication_record import Made, RecordRefusal

BOTH = ReplicationRecord(3, "a", frozenset({"a", "b"}), 7)
ALONE = ReplicationRecord(3, "a", frozenset({"a"}), 7)
ELSEWHERE = ReplicationRecord(3, "a", frozenset({"b"}), 7)


def made(record: Made) -> tuple[int, int, str, str]:
    assert isinstance(record, ReplicationRecord), record
    return record.epoch, record.serial, record.primary, "".join(sorted(record.in_sync))


def rule(record: Made) -> str:
    assert isinstance(record, RecordRefusal), record
    assert record.message
    return record.rule


def force(node: str, typed: str) -> Made:
    return record_of.force_primary(ALONE, ForcePrimary(node, typed), "v")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (record_of.start_record("a"), (1, 1, "a", "a")),
        (record_of.promote(BOTH, "a"), (3, 8, "a", "ab")),
        (record_of.fence_peer(BOTH, "a"), (3, 8, "a", "a")),
        (record_of.fence_peer(ALONE, "a"), (3, 8, "a", "a")),
        (record_of.drop_peer(BOTH, "a", "b"), (3, 8, "a", "a")),
        (record_of.add_in_sync(ALONE, "a", "b"), (3, 8, "a", "ab")),
        (record_of.leave_in_sync(BOTH, "a", "b"), (3, 8, "a", "b")),
        (record_of.fail_over(BOTH, "b"), (4, 8, "b", "b")),
        (record_of.switch_over(BOTH, "b"), (4, 8, "b", "ab")),
        (force("b", "v"), (4, 8, "b", "b")),
    ],
)
def test_each_transition_writes_just_what_it_means(
    record: Made, expected: tuple[int, int, str, str]
) -> None:
    assert made(record) == expected


@pytest.mark.parametrize(
    ("record", "broken"),
    [
        (record_of.promote(BOTH, "b"), "OnlyThePrimary"),
        (record_of.fence_peer(BOTH, "b"), "OnlyThePrimary"),
        (record_of.add_in_sync(ALONE, "b", "b"), "OnlyThePrimary"),
        (record_of.leave_in_sync(BOTH, "b", "a"), "OnlyThePrimary"),
        (record_of.promote(ELSEWHERE, "a"), "R2"),
        (record_of.fence_peer(ELSEWHERE, "a"), "R2"),
        (record_of.fail_over(ALONE, "b"), "R2"),
        (record_of.switch_over(ALONE, "b"), "R2"),
        (record_of.fail_over(BOTH, "a"), "Epoch"),
        (record_of.drop_peer(ELSEWHERE, "a", "b"), "SomeoneStays"),
        (record_of.drop_peer(BOTH, "a", "a"), "DropsAnother"),
        (force("b", ""), "TypedOut"),
        (force("b", "w"), "TypedOut"),
    ],
)
def test_what_breaks_a_rule_is_refused_by_its_name(record: Made, broken: str) -> None:
    assert rule(record) == broken


@given(st.sampled_from([BOTH, ALONE, ELSEWHERE]), st.sampled_from("ab"), st.sampled_from("ab"))
def test_no_transition_leaves_a_record_without_anybody_in_sync_or_uncounted(
    record: ReplicationRecord, one: str, other: str
) -> None:
    for after in (
        record_of.promote(record, one),
        record_of.fence_peer(record, one),
        record_of.drop_peer(record, one, other),
        record_of.add_in_sync(record, one, other),
        record_of.leave_in_sync(record, one, other),
        record_of.fail_over(record, one),
        record_of.switch_over(record, one),
    ):
        if isinstance(after, ReplicationRecord):
            assert after.in_sync
            assert after.serial == record.serial + 1
            assert (after.epoch > record.epoch) == (after.primary != record.primary)


def test_the_record_survives_the_api_and_an_old_one_has_not_counted_yet() -> None:
    assert ReplicationRecord.parse(BOTH.to_dict()) == BOTH
    old = ReplicationRecord.parse({"epoch": 1, "primary": "a", "inSync": ["a"]})
    assert old is not None
    assert made(record_of.fence_peer(old, "a")) == (1, 1, "a", "a")
