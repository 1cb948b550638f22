"""What an agent does about a replica: every state of the world has one safe next step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinvault_core.errors import DataAtRiskError, ErrorCode, NoSpaceError, TwinvaultError
from twinvault_core.model import (
    Meta,
    PoolState,
    PoolStatus,
    ReplicaState,
    Source,
    VolumeReplica,
)
from twinvault_core.names import FINALIZER_REPLICA
from twinvault_core.replica_plan import (
    ReplicaAction,
    ReplicaPlan,
    decide_failure,
    plan_replica,
)
from twinvault_core.sizing import GIB


@dataclass(frozen=True)
class Image:
    volume_uid: str = "mine"
    size_bytes: int = GIB
    ready: bool = True
    in_use: bool = False


images = st.none() | st.builds(
    Image,
    volume_uid=st.sampled_from(["mine", "foreign"]),
    size_bytes=st.sampled_from([GIB // 2, GIB, 2 * GIB]),
    ready=st.booleans(),
    in_use=st.booleans(),
)
pools = st.none() | st.builds(PoolStatus, st.just("fast"), st.sampled_from(PoolState))
replicas = st.builds(
    VolumeReplica,
    meta=st.builds(
        Meta,
        name=st.just("v.n"),
        deleting=st.booleans(),
        finalizers=st.sampled_from([frozenset(), frozenset({FINALIZER_REPLICA})]),
    ),
    volume=st.just("v"),
    volume_uid=st.just("mine"),
    node=st.just("n"),
    storage_cluster=st.just("east"),
    pool=st.just("fast"),
    size_bytes=st.just(GIB),
    source=st.sampled_from([Source(), Source(snapshot="s"), Source(volume="w")]),
    state=st.none() | st.sampled_from(ReplicaState),
    status_size_bytes=st.sampled_from([0, GIB]),
)
worlds = st.tuples(replicas, images, pools, st.booleans())


def plan(world: tuple[VolumeReplica, Image | None, PoolStatus | None, bool]) -> ReplicaPlan:
    replica, image, pool, possible = world
    return plan_replica(replica, image, pool, pool_is_possible=possible)


@given(worlds)
def test_foreign_data_is_never_touched(world) -> None:
    _, image, _, _ = world
    if image is not None and image.volume_uid == "foreign":
        assert plan(world).action in (
            ReplicaAction.WAIT,
            ReplicaAction.RELEASE,
            ReplicaAction.NONE,
        )


@given(worlds)
def test_data_is_erased_only_for_a_deleted_replica_that_nobody_uses(world) -> None:
    replica, image, pool, _ = world
    if plan(world).action is ReplicaAction.ERASE:
        assert replica.meta.deleting
        assert FINALIZER_REPLICA in replica.meta.finalizers
        assert image is None or not image.in_use
        assert pool is not None
        assert pool.state is PoolState.READY


@given(worlds)
def test_an_empty_image_never_takes_the_place_of_data_that_was_there(world) -> None:
    replica, image, _, _ = world
    if image is None and replica.status_size_bytes > 0:
        assert plan(world).action is not ReplicaAction.CREATE


@given(worlds)
def test_nothing_is_done_in_a_pool_that_is_not_ready(world) -> None:
    _, _, pool, _ = world
    if pool is None or pool.state is not PoolState.READY:
        assert plan(world).action not in (
            ReplicaAction.CREATE,
            ReplicaAction.GROW,
            ReplicaAction.ERASE,
        )


@given(worlds)
def test_a_replica_is_let_go_only_when_none_of_its_data_can_be_here(world) -> None:
    replica, image, pool, possible = world
    if plan(world).action is ReplicaAction.RELEASE:
        assert replica.meta.deleting
        if pool is None:
            assert not possible
        else:
            assert image is not None
            assert image.volume_uid == "foreign"


@given(worlds)
def test_ready_is_said_only_of_a_whole_image_of_at_least_the_wanted_size(world) -> None:
    replica, image, _, _ = world
    decided = plan(world)
    if decided.state is ReplicaState.READY:
        assert image is not None
        assert image.ready
        assert image.size_bytes >= replica.size_bytes
        assert image.volume_uid == replica.volume_uid


@given(worlds)
def test_whatever_waits_says_what_for(world) -> None:
    decided = plan(world)
    assert decided.reason
    if decided.action is ReplicaAction.WAIT:
        assert len(decided.message) > 20


@given(worlds, st.sampled_from(ErrorCode))
def test_a_failure_never_takes_data_out_of_use(world, code: ErrorCode) -> None:
    decided = plan(world)
    failed = decide_failure(decided, TwinvaultError("because", code))
    assert failed.usable == decided.usable
    if decided.usable or decided.state is ReplicaState.DELETING:
        assert failed.state is decided.state


@pytest.mark.parametrize("error", [NoSpaceError("full"), DataAtRiskError("foreign")])
def test_what_a_repeat_cannot_heal_is_failed(error: TwinvaultError) -> None:
    making = ReplicaPlan(ReplicaAction.CREATE, ReplicaState.CREATING, "Creating", "making")
    failed = decide_failure(making, error)
    assert (failed.state, failed.reason) == (ReplicaState.FAILED, error.code.value)
