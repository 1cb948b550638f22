"""What a node's agent does next about its copy of one Snapshot: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from .errors import TwinvaultError
from .model import Holder, HolderState, PoolState, PoolStatus, Snapshot


class CopyFacts(Protocol):
    """What the plan needs to know of the snapshot on disk."""

    @property
    def volume_uid(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def creation_time(self) -> str: ...
    @property
    def ready(self) -> bool: ...


class HolderAction(StrEnum):
    NONE = "None"
    TAKE = "Take"
    ERASE = "Erase"
    WAIT = "Wait"
    """The pool must come back first; look again later."""


@dataclass(frozen=True)
class HolderPlan:
    """``holder`` is the entry to have in the status, before the action's own result."""

    action: HolderAction
    holder: Holder | None


def plan_holder(
    snapshot: Snapshot, node: str, copy: CopyFacts | None, pool: PoolStatus | None
) -> HolderPlan:
    """The next step for the copy of ``snapshot`` on ``node``; ``copy`` is what is on disk.

    The operator names the holders: without an entry for this node there is nothing to do.
    """
    holder = snapshot.holder(node)
    if holder is None or holder.state is HolderState.ERASED:
        return HolderPlan(HolderAction.NONE, holder)
    if pool is None or pool.state is not PoolState.READY:
        detail = "it was never made here" if pool is None else pool.message or pool.state.value
        message = f"pool {holder.pool} on node {node} is not ready ({detail})"
        return HolderPlan(
            HolderAction.WAIT, replace(holder, reason="PoolNotReady", message=message)
        )
    if snapshot.meta.deleting:
        return HolderPlan(HolderAction.ERASE, holder)
    if holder.state is HolderState.PENDING:
        return HolderPlan(HolderAction.TAKE, holder)
    if holder.state is HolderState.READY:
        return HolderPlan(HolderAction.NONE, _check_ready(snapshot, holder, copy))
    return HolderPlan(HolderAction.NONE, holder)


def _check_ready(snapshot: Snapshot, holder: Holder, copy: CopyFacts | None) -> Holder:
    """A snapshot that cannot be restored must not go on being called ready."""
    if copy is not None and copy.ready:
        return replace(holder, reason="", message="")
    return replace(
        holder,
        state=HolderState.FAILED,
        reason="DataMissing",
        message=f"the data of snapshot {snapshot.meta.name} is gone from pool {holder.pool} on"
        f" node {holder.node}; delete the snapshot, it cannot be restored from here",
    )


def holder_taken(holder: Holder, copy: CopyFacts) -> Holder:
    """The entry after the copy is durably on disk."""
    return replace(
        holder,
        state=HolderState.READY,
        reason="",
        message="",
        creation_time=copy.creation_time,
        size_bytes=copy.size_bytes,
    )


def holder_erased(holder: Holder) -> Holder:
    return replace(holder, state=HolderState.ERASED, reason="", message="")


def decide_holder_failure(plan: HolderPlan, error: TwinvaultError) -> Holder | None:
    """The entry after ``error``: what may succeed later stays as it is and says why it waits.

    A full pool may get space again, so it waits too; a missing or foreign volume never turns into
    the right one, so that is Failed.
    """
    if plan.holder is None:
        return None
    waits = error.retryable or error.code.value in ("NoSpace", "InUse")
    final = plan.action is HolderAction.TAKE and not waits
    return replace(
        plan.holder,
        state=HolderState.FAILED if final else plan.holder.state,
        reason=error.code.value,
        message=error.message,
    )
