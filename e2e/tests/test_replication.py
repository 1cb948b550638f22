"""A replicated volume as a hospital's pod sees it: everything at either site, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.deploy import get_json, wait_seen
from e2e.lab.api import Lab
from e2e.workload import DATA_PATH, DEVICE_PATH, Namespace, Object, claim, pod, volume_snapshot

pytestmark = pytest.mark.e2e

METRO = "twinvault-metro"
_IMAGE = "/var/lib/twinvault/pools/*/volumes/{}/data.img"
_SNAPSHOT_GROUP = "snapshot.storage.k8s.io"


@pytest.fixture
def metro(namespace: Namespace) -> Namespace:
    classes = get_json(namespace.lab, "storageclasses")["items"]
    if METRO not in {c["metadata"]["name"] for c in classes}:
        pytest.skip(f"class {METRO} is not enabled in this chart")
    return namespace


def in_sync(lab: Lab, volume: str) -> set[str]:
    status = get_json(lab, "volumes.twinvault.io", volume).get("status", {})
    return set((status.get("replication") or {}).get("inSync", ()))


def wait_in_sync(lab: Lab, volume: str, timeout_seconds: float = 180) -> None:
    def probe() -> tuple[bool, str]:
        found = get_json(lab, "volumes.twinvault.io", volume).get("status", {})
        told = [f"{c['type']}={c['status']} {c['message']}" for c in found.get("conditions", ())]
        ready = found.get("phase") == "Ready"
        return ready and len(in_sync(lab, volume)) == 2, "; ".join(told)

    wait_seen(f"{volume} to be in sync", probe, timeout_seconds=timeout_seconds)


def write(space: Namespace, pod_name: str, file: str, mib: int = 16) -> str:
    """Random data, synced; its checksum."""
    path = f"{DATA_PATH}/{file}"
    script = f"head -c {mib}M /dev/urandom > {path}; sync; sha256sum < {path}"
    return space.shell(pod_name, script).strip()


def checksum(space: Namespace, pod_name: str, file: str) -> str:
    return space.shell(pod_name, f"sha256sum < {DATA_PATH}/{file}").strip()


def node_of(space: Namespace, pod_name: str) -> str:
    return str(space.get(f"pod/{pod_name}")["spec"]["nodeName"])


def other(lab: Lab, node: str) -> str:
    return next(one.name for one in lab.nodes if one.name != node)


@contextmanager
def cordoned(lab: Lab, node: str) -> Iterator[None]:
    lab.kubectl("cordon", node)
    try:
        yield
    finally:
        lab.kubectl("uncordon", node)


def move(space: Namespace, body: Object) -> str:
    """The pod ends and starts anew at the other node, as in a drain; that node."""
    name = body["metadata"]["name"]
    with cordoned(space.lab, node_of(space, name)):
        space.kubectl("delete", "pod", name, "--wait=true")
        space.apply(body)
        space.wait_pod(name, timeout_seconds=180)
    return node_of(space, name)


def images(lab: Lab, volume: str) -> set[str]:
    """Checksums of the volume's image on every node; for a volume that nobody uses."""
    script = f"dd if=$(ls {_IMAGE.format(volume)}) bs=1M iflag=direct status=none | sha256sum"
    return {node.exec("sh", "-c", script).check().text for node in lab.nodes}


def wait_unused(lab: Lab, volume: str) -> None:
    def probe() -> tuple[bool, str]:
        found = get_json(lab, "volumereplicas.twinvault.io")["items"]
        mine = [r for r in found if r["spec"]["volume"] == volume]
        used = [r["metadata"]["name"] for r in mine if r.get("status", {}).get("inUse")]
        return not used, f"in use: {used}"

    wait_seen(f"{volume} to be unused", probe, timeout_seconds=60)


def test_a_pod_finds_its_data_at_the_other_site_and_back_and_both_images_are_equal(
    metro: Namespace,
) -> None:
    lab, body = metro.lab, pod("app", "data")
    metro.apply(claim("data", "320Mi", storage_class=METRO), body)
    metro.wait_pod("app", timeout_seconds=180)
    volume, home = metro.volume_of("data"), node_of(metro, "app")
    wait_in_sync(lab, volume)
    first = write(metro, "app", "first")
    assert move(metro, body) == other(lab, home)
    assert checksum(metro, "app", "first") == first
    second = write(metro, "app", "second")
    assert move(metro, body) == home
    assert checksum(metro, "app", "second") == second
    wait_in_sync(lab, volume)
    metro.kubectl("delete", "pod", "app", "--wait=true")
    wait_unused(lab, volume)
    assert len(images(lab, volume)) == 1


def test_a_volume_grows_at_both_sites_while_the_pod_writes(metro: Namespace) -> None:
    lab, body = metro.lab, pod("app", "data")
    metro.apply(claim("data", "320Mi", storage_class=METRO), body)
    metro.wait_pod("app", timeout_seconds=180)
    kept = write(metro, "app", "kept")
    patch = '{"spec":{"resources":{"requests":{"storage":"512Mi"}}}}'
    metro.kubectl("patch", "pvc", "data", "--type=merge", "-p", patch)

    def grown() -> tuple[bool, str]:
        size = int(metro.shell("app", f"df --output=size -B1 {DATA_PATH} | tail -1"))
        return size > 400 << 20, f"{size} bytes"

    wait_seen("the filesystem to grow", grown, timeout_seconds=120)
    wait_in_sync(lab, metro.volume_of("data"))
    write(metro, "app", "more", mib=200)
    move(metro, body)
    assert checksum(metro, "app", "kept") == kept


def test_a_snapshot_is_restored_at_the_site_that_is_left(metro: Namespace) -> None:
    lab = metro.lab
    metro.apply(claim("data", "320Mi", storage_class=METRO), pod("app", "data"))
    metro.wait_pod("app", timeout_seconds=180)
    home = node_of(metro, "app")
    wait_in_sync(lab, metro.volume_of("data"))
    before = write(metro, "app", "file")
    metro.apply(volume_snapshot("before", "data"))
    metro.wait_snapshot("before")
    assert write(metro, "app", "file") != before
    source = {"kind": "VolumeSnapshot", "name": "before", "apiGroup": _SNAPSHOT_GROUP}
    with cordoned(lab, home):
        metro.apply(claim("restored", "320Mi", source=source), pod("reader", "restored"))
        metro.wait_pod("reader", timeout_seconds=180)
    assert node_of(metro, "reader") == other(lab, home)
    assert checksum(metro, "reader", "file") == before


def test_a_raw_block_volume_is_whole_at_the_other_site(metro: Namespace) -> None:
    body = pod("app", "raw", block=True)
    metro.apply(claim("raw", "64Mi", storage_class=METRO, block=True), body)
    metro.wait_pod("app", timeout_seconds=180)
    script = f"head -c 32M /dev/urandom > /tmp/x; dd if=/tmp/x of={DEVICE_PATH} bs=1M oflag=direct"
    wanted = metro.shell("app", f"{script} 2>/dev/null; sha256sum < /tmp/x").strip()
    wait_in_sync(metro.lab, metro.volume_of("raw"))
    move(metro, body)
    assert metro.shell("app", f"head -c 32M {DEVICE_PATH} | sha256sum").strip() == wanted
