"""Ids, sizes and conditions: total on good input, refusing on bad."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from twinvault_core import ids, sizing
from twinvault_core.conditions import Condition, find_condition, merge_conditions
from twinvault_core.errors import InvalidError
from twinvault_core.words import join_some

NODE_NAMES = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,250}[a-z0-9])?\Z")
LABEL_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


@given(st.text(min_size=1, max_size=128))
def test_whatever_a_caller_calls_it_the_id_is_a_valid_name_and_always_the_same(name: str) -> None:
    for make in (ids.volume_id_from_name, ids.snapshot_id_from_name):
        made = make(name)
        assert ids.is_valid_id(made)
        assert make(name) == made
        assert "/" not in made
        assert "." not in made


@given(st.text(max_size=80), st.text(max_size=80))
def test_two_names_never_share_an_id(one: str, other: str) -> None:
    same = ids.volume_id_from_name(one) == ids.volume_id_from_name(other)
    assert same == (one == other)


@pytest.mark.parametrize(
    "value", ["", ".", "..", "../x", "a/b", "a.b", "A", "-a", "a-", "a" * 64, "a\n", "ä", "a\0b"]
)
def test_an_id_that_is_a_path_trick_or_no_label_is_refused(value: str) -> None:
    with pytest.raises(InvalidError, match="DNS label"):
        ids.parse_id(value, "volume id")


@given(NODE_NAMES, NODE_NAMES)
def test_names_made_of_node_names_fit_kubernetes_and_do_not_collide(one: str, other: str) -> None:
    for make in (lambda n: ids.replica_name("v" * 63, n), ids.node_lease_name):
        assert len(make(one)) <= 253
        assert (make(one) == make(other)) == (one == other)
    prefix, _, short = ids.holder_label(one).partition("/")
    assert prefix == "holder.twinvault.io"
    assert len(short) <= 63


@pytest.mark.parametrize("value", ["", "..", "a..b", "a/b", "A", "a\n", "-a"])
def test_a_node_name_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InvalidError):
        ids.parse_node_name(value)


SIZES = st.integers(0, sizing.MAX_VOLUME_BYTES)


@given(SIZES, SIZES, st.sampled_from(["ext4", "xfs", None]))
def test_a_chosen_size_is_in_the_range_and_can_be_made(
    required: int, limit: int, fs_type: str | None
) -> None:
    try:
        size = sizing.choose_volume_size(required, limit, fs_type)
    except InvalidError:
        assert limit
        return
    assert size >= required
    assert not limit or size <= limit
    assert size % sizing.BLOCK_BYTES == 0
    assert size >= sizing.MIN_VOLUME_BYTES


@pytest.mark.parametrize(
    ("required", "limit"), [(-1, 0), (0, -1), (2, 1), (2**63, 0), (0, 1), (5000, 5001)]
)
def test_an_impossible_size_is_refused(required: int, limit: int) -> None:
    with pytest.raises(InvalidError):
        sizing.choose_volume_size(required, limit, "ext4")


PERCENT = st.integers(0, 50)
OVER = st.integers(100, 1000)


@given(SIZES, SIZES, SIZES, PERCENT, OVER)
def test_what_is_available_never_breaks_reserve_or_promise(
    size: int, used: int, promised: int, reserve: int, over: int
) -> None:
    available = sizing.pool_available_bytes(size, used, promised, reserve, over)
    promisable = sizing.pool_promisable_bytes(size, reserve, over)
    assert available >= 0
    assert available % sizing.BLOCK_BYTES == 0
    assert not available or promised + available <= promisable
    assert not available or used < size * (100 - reserve) // 100


def test_sizes_are_shown_with_one_decimal_at_most() -> None:
    shown = [sizing.format_bytes(n) for n in (0, 1023, 1024, 3 * 2**29, 2**40)]
    assert shown == ["0", "1023", "1Ki", "1.5Gi", "1Ti"]
    assert sizing.format_share(1, 0) == "-"
    assert sizing.format_share(1, 4) == "25%"


def _merge(current: list[dict[str, Any]], status: bool | None, now: str) -> list[dict[str, Any]]:
    wanted = [Condition("Ready", status, "Reason", "message")]
    return merge_conditions(current, wanted, observed_generation=7, now=now)


def test_the_time_of_a_condition_changes_only_with_its_status() -> None:
    first = _merge([], True, "t1")
    same = _merge(first, True, "t2")
    other = _merge(same, None, "t3")
    assert [c[0]["lastTransitionTime"] for c in (first, same, other)] == ["t1", "t1", "t3"]
    assert other[0]["status"] == "Unknown"


def test_conditions_of_others_stay_and_the_list_is_sorted() -> None:
    other = {"type": "A", "status": "True", "reason": "r", "message": "m"}
    merged = _merge([other], False, "t")
    assert [c["type"] for c in merged] == ["A", "Ready"]
    assert merged[0] == other
    found = find_condition(merged, "Ready")
    assert found == Condition("Ready", False, "Reason", "message")
    assert find_condition(merged, "B") is None


def test_a_list_becomes_one_word_for_a_table() -> None:
    assert join_some([]) == ""
    assert join_some(["a", "b"]) == "a,b"
    assert join_some(["a", "b", "c", "d", "e", "f"]) == "a,b,c,d,+2"
