"""What counts as left over in the lab."""

from __future__ import annotations

from e2e.leftovers import node_things

_BEFORE = """
loop /dev/loop0 /var/lib/twinvault/pools/fast/volumes/pvc-1/data.img
mount /var/lib/kubelet/plugins/kubernetes.io/csi/csi.twinvault.io/0d0f/globalmount /dev/loop0
mount /var/lib/kubelet/pods/20c1/volumes/kubernetes.io~csi/pvc-1/mount /dev/loop0
file /var/lib/twinvault/pools/fast/volumes/pvc-1
"""
_AFTER = """
loop /dev/loop3 /volumes/pvc-1/data.img
mount /var/lib/kubelet/plugins/kubernetes.io/csi/csi.twinvault.io/0d0f/globalmount /dev/loop3
mount /var/lib/kubelet/pods/77aa/volumes/kubernetes.io~csi/pvc-1/mount /dev/loop3
file /var/lib/twinvault/pools/fast/volumes/pvc-1
"""


def test_a_volume_that_was_there_before_is_no_leftover_when_its_node_started_again() -> None:
    assert node_things(_AFTER.splitlines()) == node_things(_BEFORE.splitlines())


def test_a_device_a_mount_and_a_file_of_another_volume_are_left_over() -> None:
    other = _AFTER.replace("pvc-1", "pvc-2")
    extra = node_things((_AFTER + other).splitlines()) - node_things(_BEFORE.splitlines())
    assert extra == {
        "loop of pvc-2",
        "mount of pvc-2",
        "file /var/lib/twinvault/pools/fast/volumes/pvc-2",
    }


def test_what_replication_leaves_on_a_node_is_told_by_its_volume() -> None:
    lines = """
drbd 1000 -
drbd 1003 -
resource pvc-1 -
mark tv-pvc-1
mark minor-1000
mark minor-1003
"""
    assert node_things(lines.splitlines(), {"1000": "pvc-1"}) == {
        "drbd of pvc-1",
        "drbd of 1003",
        "resource of pvc-1",
        "mark of pvc-1",
        "mark of minor-1003",
    }
