from __future__ import annotations

from pathlib import Path

import pytest

from twinvault_core.errors import InvalidError
from twinvault_engine import mount
from twinvault_engine.mountinfo import find_mount, mounts_of_device, parse_mountinfo

TEXT = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
51 27 7:3 / /var/lib/kubelet/a\040b rw,nosuid shared:7 master:1 - ext4 /dev/loop3 rw,errors=continue
52 51 7:3 /sub /mnt/bind ro,relatime - ext4 /dev/loop3 rw
53 27 0:5 /loop3 /var/lib/kubelet/dev rw - devtmpfs devtmpfs rw
54 27 7:4 / /mnt/bind rw - xfs /dev/loop4 rw
not a mount line
"""


def test_escapes_optional_fields_and_options_are_parsed() -> None:
    mounts = parse_mountinfo(TEXT)
    assert [m.mount_id for m in mounts] == [22, 51, 52, 53, 54]
    assert mounts[1].path == "/var/lib/kubelet/a b"
    assert mounts[1].options == {"rw", "nosuid"}
    assert mounts[1].super_options == {"rw", "errors=continue"}
    assert mounts[2].root == "/sub"
    assert mounts[2].read_only
    assert not mounts[1].read_only


def test_topmost_mount_at_a_path_is_found() -> None:
    found = find_mount(Path("/mnt/bind"), parse_mountinfo(TEXT))
    assert found is not None
    assert found.fs_type == "xfs"
    assert find_mount(Path("/mnt"), parse_mountinfo(TEXT)) is None


def test_every_mount_of_a_device_is_found() -> None:
    assert [m.mount_id for m in mounts_of_device("7:3", parse_mountinfo(TEXT))] == [51, 52]


def test_names_that_are_not_utf8_and_names_beyond_ascii_survive() -> None:
    line = "1 2 7:1 / /mnt/\udce4 rw - ext4 /dev/loop1 rw"
    raw = line.encode("utf-8", "surrogateescape").decode("latin-1")
    assert parse_mountinfo(raw)[0].path == "/mnt/\udce4"
    raw = "1 2 7:1 / /mnt/ä rw - ext4 x rw".encode().decode("latin-1")
    assert parse_mountinfo(raw)[0].path == "/mnt/ä"


def test_options_become_flags_and_data() -> None:
    flags, data = mount.parse_options(("noatime,nosuid", "ro", "commit=5", "defaults", "x-a.b"))
    assert flags == mount.MS_NOATIME | mount.MS_NOSUID | mount.MS_RDONLY
    assert data == "commit=5"


@pytest.mark.parametrize("option", ["bind", "remount,rw", "move", "rbind", "loop=/dev/loop0"])
def test_options_that_mount_something_else_are_refused(option: str) -> None:
    with pytest.raises(InvalidError, match="not allowed"):
        mount.parse_options((option,))
