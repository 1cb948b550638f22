"""A kernel without DRBD: only replication is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.root.rig import POOL, Rig, replica
from twinvault_core.agent_api import Unstage
from twinvault_core.errors import FailedPreconditionError, NotFoundError
from twinvault_core.model import ReplicationSpec
from twinvault_engine import drbd_kernel
from twinvault_engine.replication import Act

SPEC = ReplicationSpec(1000, 7000, "192.0.2.1", "west-1", "192.0.2.2")


@pytest.fixture(autouse=True)
def no_drbd() -> None:
    if Path("/proc/drbd").exists():
        pytest.skip("this kernel has DRBD")


def test_replica_is_refused_with_what_to_install_and_the_volume_works_on(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(replica("pg"))
    with pytest.raises(FailedPreconditionError) as refused:
        rig.engine.replication.ensure_replica(POOL, "pg", SPEC)
    assert "drbd" in refused.value.message
    assert "drbd-utils" in refused.value.message
    with pytest.raises(NotFoundError):
        rig.engine.replication.observe_replica(POOL, "pg")
    with pytest.raises(NotFoundError):
        rig.engine.replication.act(POOL, "pg", Act.PROMOTE)
    rig.engine.stage(rig.stage_request("pg"))
    (rig.staging_path("pg") / "row").write_text("kept")
    rig.engine.ensure_snapshot(POOL, "snap", "pg", "uid-pg")
    rig.engine.unstage(Unstage("pg", str(rig.staging_path("pg"))))
    rig.engine.erase_snapshot(POOL, "snap")
    rig.engine.erase_volume(POOL, "pg", "uid-pg")
    assert rig.holdings() == {}
    assert drbd_kernel.observe_minors() == {}
