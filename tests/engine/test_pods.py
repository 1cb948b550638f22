from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from twinvault_core.errors import FailedPreconditionError
from twinvault_engine import pods

UID = "6b1f0c6e-8c4e-4f0e-9d3a-0a1b2c3d4e5f"
OTHER = "00000000-8c4e-4f0e-9d3a-0a1b2c3d4e5f"


def test_pods_are_read_from_kubelets_paths() -> None:
    paths = [
        f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pv/mount",
        "/var/lib/kubelet/plugins/kubernetes.io/csi/csi.twinvault.io/0f/globalmount",
        f"/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv/{OTHER}",
        f"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~csi/pv2/mount",
    ]
    assert pods.parse_pod_uids(paths) == (OTHER, UID)
    assert pods.parse_pod_uids(["/var/lib/kubelet/pods/../x"]) == ()


@pytest.mark.parametrize(
    "name",
    [
        f"kubepods/pod{UID}",
        f"kubepods/burstable/pod{UID}",
        f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice",
        "kubepods.slice/kubepods-burstable.slice/"
        f"kubepods-burstable-pod{UID.replace('-', '_')}.slice",
    ],
)
def test_control_groups_of_both_drivers_are_found(tmp_path: Path, name: str) -> None:
    group = tmp_path / name
    (group / "container").mkdir(parents=True)
    (tmp_path / f"kubepods/pod{OTHER}").mkdir(parents=True)
    assert pods.find_cgroups(UID, tmp_path) == (group,)


def test_pods_are_not_taken_for_dead_where_control_groups_cannot_be_seen(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    with pytest.raises(FailedPreconditionError):
        pods.kill_pods([UID], tmp_path)
    pods.kill_pods([], tmp_path)


def test_every_process_of_the_pod_is_killed(tmp_path: Path) -> None:
    """A directory in the place of the control group: who is listed there is waited for."""
    group = tmp_path / f"kubepods/pod{UID}"
    group.mkdir(parents=True)
    (tmp_path / "kubepods/cgroup.kill").touch()
    with subprocess.Popen(["sleep", "60"]) as process:
        (group / "cgroup.procs").write_text(f"{process.pid}\n")
        os.kill(process.pid, 9)
        pods.kill_pods([UID], tmp_path)
        assert (group / "cgroup.kill").read_text() == "1"
