"""The course of a volume as a hospital's pod sees it: every step through PVCs and pods."""

from __future__ import annotations

import pytest

from e2e.deploy import get_json, wait_seen
from e2e.workload import DATA_PATH, DEVICE_PATH, Namespace, claim, pod, volume_snapshot

pytestmark = pytest.mark.e2e

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"


def _write(space: Namespace, pod_name: str, file: str, mib: int) -> str:
    """Random data in ``file``, synced; its checksum."""
    script = (
        f"head -c {mib}M /dev/urandom > {DATA_PATH}/{file}; sync; sha256sum < {DATA_PATH}/{file}"
    )
    return space.shell(pod_name, script).strip()


def _checksum(space: Namespace, pod_name: str, file: str) -> str:
    return space.shell(pod_name, f"sha256sum < {DATA_PATH}/{file}").strip()


def test_data_outlives_its_pod_and_returns_from_snapshot_and_clone(namespace: Namespace) -> None:
    namespace.apply(claim("data", "512Mi"), pod("writer", "data"))
    namespace.wait_pod("writer")
    first = _write(namespace, "writer", "first", 32)

    namespace.apply(volume_snapshot("before", "data"))
    namespace.wait_snapshot("before")
    second = _write(namespace, "writer", "first", 32)
    assert first != second

    namespace.apply(
        claim(
            "restored",
            "512Mi",
            source={"kind": "VolumeSnapshot", "name": "before", "apiGroup": SNAPSHOT_GROUP},
        ),
        pod("restored", "restored"),
        claim("cloned", "512Mi", source={"kind": "PersistentVolumeClaim", "name": "data"}),
        pod("cloned", "cloned"),
    )
    namespace.wait_pod("restored")
    namespace.wait_pod("cloned")
    assert _checksum(namespace, "restored", "first") == first
    assert _checksum(namespace, "cloned", "first") == second

    namespace.kubectl("delete", "pod", "writer", "--wait=true")
    namespace.apply(pod("reader", "data"))
    namespace.wait_pod("reader")
    assert _checksum(namespace, "reader", "first") == second


def test_filesystem_grows_while_the_pod_writes(namespace: Namespace) -> None:
    namespace.apply(claim("data", "320Mi"), pod("writer", "data"))
    namespace.wait_pod("writer")
    before = int(namespace.shell("writer", f"df --output=size -B1 {DATA_PATH} | tail -1"))
    namespace.shell(
        "writer",
        f"(i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i >> {DATA_PATH}/log;"
        f" sync {DATA_PATH}/log || echo FAIL > {DATA_PATH}/bad; sleep 0.01; done)"
        " >/dev/null 2>&1 &",
    )
    namespace.kubectl(
        "patch",
        "pvc",
        "data",
        "--type",
        "merge",
        "-p",
        '{"spec":{"resources":{"requests":{"storage":"1Gi"}}}}',
    )

    def grown() -> tuple[bool, str]:
        now = int(namespace.shell("writer", f"df --output=size -B1 {DATA_PATH} | tail -1"))
        return now > before * 2, f"{before} -> {now} bytes"

    wait_seen("the filesystem to grow", grown, timeout_seconds=120)
    assert namespace.shell("writer", f"test ! -e {DATA_PATH}/bad && echo fine").strip() == "fine"


def test_raw_block_volume_keeps_what_was_written_and_grows(namespace: Namespace) -> None:
    namespace.apply(claim("raw", "256Mi", block=True), pod("writer", "raw", block=True))
    namespace.wait_pod("writer")
    script = (
        f"head -c 64M /dev/urandom > /tmp/x; dd if=/tmp/x of={DEVICE_PATH} bs=1M oflag=direct"
        " 2>/dev/null; sha256sum < /tmp/x"
    )
    wanted = namespace.shell("writer", script).strip()
    namespace.kubectl("delete", "pod", "writer", "--wait=true")
    namespace.apply(pod("reader", "raw", block=True))
    namespace.wait_pod("reader")
    read = f"head -c 64M {DEVICE_PATH} | sha256sum"
    assert namespace.shell("reader", read).strip() == wanted
    namespace.kubectl(
        "patch",
        "pvc",
        "raw",
        "--type",
        "merge",
        "-p",
        '{"spec":{"resources":{"requests":{"storage":"512Mi"}}}}',
    )

    def grown() -> tuple[bool, str]:
        seek = f"import os; print(os.lseek(os.open('{DEVICE_PATH}', os.O_RDONLY), 0, os.SEEK_END))"
        size = namespace.shell("reader", f'python3 -c "{seek}"').strip()
        return int(size) >= 512 * 1024**2, f"{size} bytes"

    wait_seen("the block device to grow", grown, timeout_seconds=120)
    assert namespace.shell("reader", read).strip() == wanted


def test_volume_lives_at_the_site_where_its_pod_was_scheduled(namespace: Namespace) -> None:
    namespace.apply(
        claim("east", "64Mi"),
        pod("east", "east", zone="east"),
        claim("west", "64Mi"),
        pod("west", "west", zone="west"),
    )
    for site in ("east", "west"):
        namespace.wait_pod(site)
        name = namespace.volume_of(site)
        volume = get_json(namespace.lab, "volumes.twinvault.io", name)
        assert volume["status"]["replication"]["primary"].startswith(site)
        assert volume["status"]["phase"] == "Ready"


def test_a_volume_in_use_is_not_deleted(namespace: Namespace) -> None:
    namespace.apply(claim("data", "64Mi"), pod("user", "data"))
    namespace.wait_pod("user")
    checksum = _write(namespace, "user", "kept", 8)
    volume = namespace.volume_of("data")
    namespace.lab.kubectl("delete", "volumes.twinvault.io", volume, "--wait=false")

    def held() -> tuple[bool, str]:
        conditions = get_json(namespace.lab, "volumes.twinvault.io", volume)["status"]["conditions"]
        told = [c for c in conditions if c["type"] == "InUse" and c["status"] == "True"]
        return bool(told), str(conditions)

    wait_seen("the volume to say that it is in use", held, timeout_seconds=30)
    assert _checksum(namespace, "user", "kept") == checksum
