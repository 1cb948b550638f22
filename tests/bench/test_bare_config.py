"""The bare DRBD that volumes are compared with is set as they are."""

from __future__ import annotations

import pytest

from bench.bare_config import DONT_CARE, MINOR, PORT, RESOURCE, BareConfigError, plan_config
from twinvault_core.model import ReplicationSpec
from twinvault_engine.drbd_config import render_resource, volume_of_resource

SPEC = ReplicationSpec(1007, 7007, "10.77.1.21", "west-1", "10.77.2.21")


def agents(version: str = "8.4.11", spec: ReplicationSpec = SPEC) -> str:
    return render_resource("pvc-1", spec, "/dev/loop3", "/dev/loop4", 512 << 20, version)


def strip_identity(text: str) -> list[str]:
    own = ("resource ", "floating ", "device minor", "disk /", "meta-disk")
    return [line for line in text.splitlines() if not line.strip().startswith(own)]


@pytest.mark.parametrize("version", ["8.4.11", "9.2.4"])
def test_only_name_number_port_and_devices_differ_from_the_agents_file(version: str) -> None:
    text = agents(version)
    bare = plan_config(text, "/dev/loop8", "/dev/loop9")
    assert strip_identity(bare) == strip_identity(text)
    assert f'resource "{RESOURCE}"' in bare
    assert bare.count(f"device minor {MINOR};") == 2
    assert bare.count(f":{PORT} {{") == 2
    assert bare.count("    disk /dev/loop8;") == 2
    assert bare.count("meta-disk /dev/loop9;") == 2
    for theirs in ("1007", "7007", "/dev/loop3", "/dev/loop4", "pvc-1"):
        assert theirs not in bare


def test_the_agent_does_not_take_the_bare_resource_for_one_of_its_own() -> None:
    assert volume_of_resource(RESOURCE) is None
    assert MINOR < 1000


def test_another_fencing_policy_changes_nothing_else() -> None:
    text = plan_config(agents(), "/dev/loop8", "/dev/loop9")
    loose = plan_config(agents(), "/dev/loop8", "/dev/loop9", DONT_CARE)
    assert text.replace("resource-and-stonith", DONT_CARE) == loose


def test_a_file_that_looks_otherwise_is_refused_instead_of_compared_with() -> None:
    for missing in ("device minor 1007;", "meta-disk /dev/loop4;", "fencing resource-and-stonith;"):
        with pytest.raises(BareConfigError):
            plan_config(agents().replace(missing, ""), "/dev/loop8", "/dev/loop9", DONT_CARE)
