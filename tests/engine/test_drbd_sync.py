"""What the kernel is told when data is declared good: only what may be, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from twinvault_core.errors import DataAtRiskError
from twinvault_core.model import ReplicationSpec
from twinvault_core.replication_state import Connection, Disk, DrbdState, SyncState
from twinvault_engine import drbd, drbd_sync
from twinvault_engine.drbd_state import Resource

ALONE = DrbdState(Connection.WF_CONNECTION, disk=Disk.OUTDATED)
LINKED = replace(ALONE, connection=Connection.CONNECTED, sync=SyncState.ESTABLISHED)


class Kernel:
    """Remembers what it was told, and does nothing."""

    def __init__(self) -> None:
        self.state = ALONE
        self.told: list[str] = []

    def require(self, handle: drbd.Handle) -> Resource:
        return Resource("v", self.state, 1000, 4096, 0)

    def run_setup(self, what: str, *argv: str, seconds: float = 5.0) -> None:
        self.told.append(" ".join(a for a in argv if a in ("primary", "--force")))

    def demote(self, handle: drbd.Handle) -> None:
        self.told.append("secondary")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for name in ("require", "run_setup", "demote"):
        monkeypatch.setattr(drbd_sync, name, getattr(made, name))
    return made


@pytest.fixture
def handle(tmp_path: Path) -> drbd.Handle:
    spec = ReplicationSpec(1000, 7000, "10.0.0.1", "west-1", "10.0.0.2")
    return drbd.handle_of("v", spec, "8.4.11", tmp_path / "v.res")


@pytest.mark.parametrize("state", [ALONE, replace(LINKED, peer_disk=Disk.DISKLESS)])
def test_an_outdated_replica_is_declared_good_and_left_secondary(
    kernel: Kernel, handle: drbd.Handle, state: DrbdState
) -> None:
    """The promotion for the pod follows, and asks the fence helper as every one does."""
    kernel.state = state
    drbd_sync.accept_outdated(handle)
    assert kernel.told == ["primary --force", "secondary"]


@pytest.mark.parametrize("disk", [Disk.UP_TO_DATE, Disk.CONSISTENT])
def test_what_is_good_already_is_left_alone(
    kernel: Kernel, handle: drbd.Handle, disk: Disk
) -> None:
    kernel.state = replace(ALONE, disk=disk)
    drbd_sync.accept_outdated(handle)
    assert kernel.told == []


@pytest.mark.parametrize(
    "state",
    [
        replace(ALONE, disk=Disk.INCONSISTENT),
        replace(ALONE, disk=Disk.DISKLESS),
        replace(LINKED, peer_disk=Disk.UP_TO_DATE),
        replace(LINKED, sync=SyncState.SYNC_TARGET),
    ],
)
def test_half_a_state_or_an_older_one_than_the_other_has_is_never_declared_good(
    kernel: Kernel, handle: drbd.Handle, state: DrbdState
) -> None:
    kernel.state = state
    with pytest.raises(DataAtRiskError, match="cannot be declared good"):
        drbd_sync.accept_outdated(handle)
    assert kernel.told == []
