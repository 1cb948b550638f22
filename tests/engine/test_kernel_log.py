"""Where a verify found differences: lines as the kernel's ring buffer has them."""

from __future__ import annotations

from pathlib import Path

from twinvault_engine.kernel_log import observe_differing, parse_differing

LOG = """\
3,811,100500000,-;block drbd1000: Out of sync: start=8, size=8 (sectors)
 SUBSYSTEM=block
3,812,200000000,-;block drbd1000: Out of sync: start=2048, size=16 (sectors)
3,813,200000001,-;drbd tv-v/0 drbd1001: Out of sync: start=4096, size=8 (sectors)
6,814,200000002,-;block drbd1000: Online verify done (total 1 sec; paused 0 sec; 524288 K/sec)
3,815,200000003,c;block drbd1000: Out of sync: start=2048, size=16 (sectors)
"""


def test_places_of_this_volume_and_this_pass_are_found_in_bytes() -> None:
    assert parse_differing(LOG, 1000, 150.0) == ((1048576, 8192),)
    assert parse_differing(LOG, 1000, 0.0) == ((4096, 4096), (1048576, 8192))
    assert parse_differing(LOG, 1001, 0.0) == ((2097152, 4096),)


def test_nothing_is_found_for_another_volume_or_in_nonsense() -> None:
    assert parse_differing(LOG, 100, 0.0) == ()
    assert parse_differing("nonsense\n;\nx,y,z;a", 1000, 0.0) == ()


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert observe_differing(1000, 0.0, tmp_path / "missing") == ()
    file = tmp_path / "kmsg"
    file.write_text(LOG)
    assert observe_differing(1001, 0.0, file) == ((2097152, 4096),)
