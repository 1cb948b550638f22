"""What an agent does about its copy of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from twinvault_core.errors import ErrorCode, TwinvaultError
from twinvault_core.holder_plan import (
    HolderAction,
    decide_holder_failure,
    holder_erased,
    holder_taken,
    plan_holder,
)
from twinvault_core.model import Holder, HolderState, Meta, PoolState, PoolStatus, Snapshot


@dataclass(frozen=True)
class Copy:
    volume_uid: str = "u"
    size_bytes: int = 7
    creation_time: str = "2026-01-01T00:00:00Z"
    ready: bool = True


holders = st.builds(
    Holder,
    node=st.sampled_from(["here", "there"]),
    storage_cluster=st.just("east"),
    pool=st.just("fast"),
    state=st.sampled_from(HolderState),
)
snapshots = st.builds(
    Snapshot,
    meta=st.builds(Meta, name=st.just("s"), deleting=st.booleans()),
    volume=st.just("v"),
    holders=st.tuples() | st.tuples(holders),
)
copies = st.none() | st.builds(Copy, ready=st.booleans())
pools = st.none() | st.builds(PoolStatus, st.just("fast"), st.sampled_from(PoolState))


@given(snapshots, copies, pools)
def test_only_a_pending_copy_of_a_living_snapshot_is_taken(snapshot, copy, pool) -> None:
    plan = plan_holder(snapshot, "here", copy, pool)
    if plan.action is HolderAction.TAKE:
        assert not snapshot.meta.deleting
        assert snapshot.holder("here").state is HolderState.PENDING


@given(snapshots, copies, pools)
def test_only_a_deleted_snapshot_is_erased(snapshot, copy, pool) -> None:
    plan = plan_holder(snapshot, "here", copy, pool)
    if plan.action is HolderAction.ERASE:
        assert snapshot.meta.deleting


@given(snapshots, copies, pools)
def test_another_nodes_copy_is_none_of_our_business(snapshot, copy, pool) -> None:
    if snapshot.holder("here") is None:
        plan = plan_holder(snapshot, "here", copy, pool)
        assert (plan.action, plan.holder) == (HolderAction.NONE, None)


@given(snapshots, copies)
def test_ready_is_said_only_of_a_copy_that_is_there(snapshot, copy) -> None:
    pool = PoolStatus("fast", PoolState.READY)
    plan = plan_holder(snapshot, "here", copy, pool)
    called_ready = plan.holder is not None and plan.holder.state is HolderState.READY
    if plan.action is HolderAction.NONE and called_ready and not snapshot.meta.deleting:
        assert copy is not None
        assert copy.ready


@given(snapshots, st.sampled_from(ErrorCode))
def test_only_taking_can_fail_for_good(snapshot, code: ErrorCode) -> None:
    plan = plan_holder(snapshot, "here", None, PoolStatus("fast", PoolState.READY))
    told = decide_holder_failure(plan, TwinvaultError("because", code))
    if told is not None and told.state is HolderState.FAILED:
        before = snapshot.holder("here")
        assert plan.action is HolderAction.TAKE or before.state is not HolderState.PENDING


def test_results_are_whole_entries() -> None:
    holder = Holder("here", "east", "fast", HolderState.PENDING, "Busy", "wait")
    taken = holder_taken(holder, Copy())
    assert (taken.state, taken.size_bytes, taken.reason) == (HolderState.READY, 7, "")
    assert taken.to_dict()["creationTime"] == "2026-01-01T00:00:00Z"
    assert holder_erased(taken).state is HolderState.ERASED
