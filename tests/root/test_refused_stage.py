from __future__ import annotations

from dataclasses import replace

import pytest

from tests.root.rig import Rig
from tests.root.rig import replica as volume
from twinvault_core.errors import TwinvaultError


def test_a_stage_that_is_refused_for_good_leaves_nothing_attached(rig: Rig) -> None:
    rig.make_pool()
    rig.engine.ensure_volume(volume("v"))
    before = rig.holdings()
    rig.kubelet.joinpath("link").symlink_to("/etc")
    request = replace(rig.stage_request("v"), staging_path=f"{rig.kubelet}/link/staging")
    with pytest.raises(TwinvaultError) as caught:
        rig.engine.stage(request)
    assert not caught.value.retryable
    assert rig.holdings() == before
    rig.engine.stage(rig.stage_request("v"))
