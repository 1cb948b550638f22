"""Placement: never too much, never on a wrong node, always the same, with a reason for each."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.core.builders import GIB, candidate, cluster
from twinvault_core import reasons
from twinvault_core.placement import (
    MAX_REASONS,
    Candidate,
    Choice,
    Refusal,
    Wish,
    candidate_available_bytes,
    choose_node,
    shorten_reasons,
)

CLUSTERS = {name: cluster(name) for name in ("east", "west")}
NAMES = tuple(f"{site}-{n}" for site in CLUSTERS for n in (1, 2, 3))
SOME_NAMES = st.lists(st.sampled_from([*NAMES, "elsewhere"]), max_size=4).map(tuple)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    return [
        candidate(
            name,
            storage_cluster=name.partition("-")[0],
            size_bytes=draw(st.integers(0, 20)) * GIB,
            used_bytes=draw(st.integers(0, 20)) * GIB,
            promised_bytes=draw(st.integers(0, 30)) * GIB,
            volumes=draw(st.integers(0, 9)),
            reserve_percent=draw(st.sampled_from([0, 5, 50])),
            over_provisioning_percent=draw(st.sampled_from([100, 250])),
            state=draw(st.sampled_from(["Ready", "Ready", "Waiting", "Failed"])),
            silent=draw(st.sampled_from(["", "", "its agent is silent"])),
        )
        for name in names
    ]


@st.composite
def wishes(draw: st.DrawFn) -> Wish:
    return Wish(
        size_bytes=draw(st.integers(1, 25)) * GIB,
        pool="fast",
        storage_cluster=draw(st.sampled_from(["", "east", "west"])),
        requisite=draw(SOME_NAMES),
        preferred=draw(SOME_NAMES),
        pinned=draw(st.none() | st.frozensets(st.sampled_from(NAMES))),
    )


def _fits(wish: Wish, one: Candidate) -> bool:
    name, seen = one.name, one.node.pool_state("fast")
    return (
        (not wish.storage_cluster or one.node.storage_cluster == wish.storage_cluster)
        and (not wish.requisite or name in wish.requisite)
        and (wish.pinned is None or name in wish.pinned)
        and not one.silent
        and seen is not None
        and seen.state == "Ready"
        and candidate_available_bytes(one, "fast") >= wish.size_bytes
    )


@given(wishes(), candidates())
def test_a_node_is_chosen_exactly_when_one_fits_and_it_is_one_that_fits(
    wish: Wish, nodes: list[Candidate]
) -> None:
    fitting = {c.name for c in nodes if _fits(wish, c)}
    decision = choose_node(wish, CLUSTERS, nodes)
    if fitting:
        assert isinstance(decision, Choice)
        assert decision.node in fitting
    else:
        assert isinstance(decision, Refusal)


@given(wishes(), candidates(), st.randoms())
def test_the_order_of_the_nodes_does_not_matter(
    wish: Wish, nodes: list[Candidate], chance: random.Random
) -> None:
    shuffled = list(nodes)
    chance.shuffle(shuffled)
    assert choose_node(wish, CLUSTERS, nodes) == choose_node(wish, CLUSTERS, iter(shuffled))


@given(wishes(), candidates())
def test_every_node_is_given_one_reason(wish: Wish, nodes: list[Candidate]) -> None:
    decision = choose_node(wish, CLUSTERS, nodes)
    named = [line.partition(":")[0] for line in decision.reasons]
    assert sorted(named) == sorted(c.name for c in nodes)


@given(candidates(), st.lists(st.integers(1, 5), max_size=30))
def test_a_pool_filled_step_by_step_never_promises_more_than_it_may(
    nodes: list[Candidate], sizes: list[int]
) -> None:
    promised = {c.name: c.pool_use("fast").promised_bytes for c in nodes}
    may = {c.name: candidate_available_bytes(c, "fast") + promised[c.name] for c in nodes}
    placed = set()
    for size in sizes:
        now = [
            candidate(
                c.name,
                storage_cluster=c.node.storage_cluster,
                promised_bytes=promised[c.name],
                size_bytes=may[c.name],
            )
            for c in nodes
        ]
        decision = choose_node(Wish(size * GIB, "fast"), CLUSTERS, now)
        if isinstance(decision, Choice):
            promised[decision.node] += size * GIB
            placed.add(decision.node)
    assert all(promised[name] <= may[name] for name in placed)


def test_preferred_nodes_win_in_their_order_even_when_fuller() -> None:
    nodes = [candidate("east-1"), candidate("east-2", promised_bytes=90 * GIB)]
    wish = Wish(GIB, "fast", preferred=("gone", "east-2", "east-1"))
    decision = choose_node(wish, CLUSTERS, nodes)
    assert isinstance(decision, Choice)
    assert decision.node == "east-2"


def test_equal_volumes_spread_over_equal_nodes() -> None:
    counts = {"east-1": 0, "east-2": 0, "east-3": 0}
    for _ in range(9):
        nodes = [candidate(n, promised_bytes=c * GIB, volumes=c) for n, c in counts.items()]
        decision = choose_node(Wish(GIB, "fast"), CLUSTERS, nodes)
        assert isinstance(decision, Choice)
        counts[decision.node] += 1
    assert set(counts.values()) == {3}


@pytest.mark.parametrize(
    ("wish", "nodes", "reason"),
    [
        (Wish(GIB, "fast", storage_cluster="north"), [candidate()], reasons.CLUSTER_UNKNOWN),
        (Wish(GIB, "slow"), [candidate()], reasons.POOL_UNKNOWN),
        (Wish(GIB, "fast"), [], reasons.NO_NODE),
        (Wish(GIB, "fast", requisite=("west-1",)), [candidate()], reasons.NO_NODE),
        (Wish(GIB, "fast", pinned=frozenset({"west-1"})), [candidate()], reasons.NO_NODE),
        (Wish(101 * GIB, "fast"), [candidate()], reasons.NO_CAPACITY),
        (Wish(GIB, "fast"), [candidate(state="Waiting")], reasons.POOL_NOT_READY),
        (Wish(GIB, "fast"), [candidate(silent="silent")], reasons.POOL_NOT_READY),
        (
            Wish(101 * GIB, "fast"),
            [candidate(), candidate("east-2", silent="silent")],
            reasons.NO_CAPACITY,
        ),
    ],
)
def test_a_refusal_says_which_kind_it_is(wish: Wish, nodes: list[Candidate], reason: str) -> None:
    decision = choose_node(wish, CLUSTERS, nodes)
    assert isinstance(decision, Refusal)
    assert decision.reason == reason
    assert decision.message


def test_nodes_of_a_cluster_that_is_being_deleted_get_nothing_new() -> None:
    leaving = {"east": cluster("east", deletionTimestamp="2026-01-01T00:00:00Z")}
    assert isinstance(choose_node(Wish(GIB, "fast"), leaving, [candidate()]), Refusal)


def test_the_status_keeps_a_bounded_number_of_reasons_and_says_how_many_are_missing() -> None:
    short = shorten_reasons(tuple(f"n{i}: no" for i in range(100)))
    assert len(short) == MAX_REASONS
    assert short[-1] == "and 81 more nodes"
    assert shorten_reasons(("a: chosen",)) == ["a: chosen"]
