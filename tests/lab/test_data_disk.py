"""The data disk fails and works again under whatever uses it."""

from __future__ import annotations

from e2e.lab import data_disk
from e2e.lab.node_files import INSIDE


def test_a_failing_disk_never_works_for_a_moment() -> None:
    assert data_disk.plan_table(failing=True).endswith(" 0 1")


def test_failed_and_mended_the_same_sectors_are_meant_as_at_boot() -> None:
    failing, working = (data_disk.plan_table(failing=f).split() for f in (True, False))
    assert failing[:2] == working[:2]
    assert failing[3:5] == working[3:5]
    boot = (INSIDE / "init.sh").read_text()
    assert f'--table "{data_disk.plan_table(failing=False)}"' in boot


def test_the_change_waits_for_no_flush_of_a_disk_that_fails() -> None:
    for failing in (True, False):
        script = data_disk.plan_load(failing=failing)
        assert "suspend --noflush --nolockfs" in script
        assert script.endswith("resume data")
