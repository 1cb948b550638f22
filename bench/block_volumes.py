"""Raw block volumes through CSI, each held by a pod that waits; loads run in the pod's node on the
very device that the pod has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engine_rig import FIO_SLACK_SECONDS, Load, fill_arguments, fio_arguments, parse_fio
from e2e.deploy import get_json, wait_seen
from e2e.lab.api import Lab, LabNode
from e2e.workload import Namespace, claim, pod

_READY_SECONDS = 180.0


@dataclass(frozen=True)
class BlockVolume:
    """``device``: what the pod has, as its node names it."""

    name: str
    node: LabNode
    device: str

    @property
    def minor(self) -> int:
        """DRBD's number of a replicated volume; ValueError for another."""
        return int(self.device.removeprefix("/dev/drbd"))


@contextmanager
def bench_namespace(lab: Lab, name: str) -> Iterator[Namespace]:
    """A namespace of that bench; what an interrupted run left is removed first."""
    space = Namespace(lab, f"bench-{name}")
    space.delete()
    space.create()
    try:
        yield space
    finally:
        space.delete()


def make_volume(
    space: Namespace, name: str, storage_class: str, size_mib: int, *, zone: str = ""
) -> BlockVolume:
    """A claim with a pod at ``zone``, running."""
    space.apply(
        claim(name, f"{size_mib}Mi", storage_class=storage_class, block=True),
        pod(name, name, block=True, zone=zone),
    )
    space.wait_pod(name, timeout_seconds=_READY_SECONDS)
    node = str(space.get(f"pod/{name}")["spec"]["nodeName"])
    volume = space.volume_of(name)
    return BlockVolume(volume, space.lab.node(node), _wait_device(space.lab, volume, node))


def _wait_device(lab: Lab, volume: str, node: str) -> str:
    """Path of the volume's device on its pod's node, as the agent tells it."""
    path = ""

    def told() -> tuple[bool, str]:
        nonlocal path
        replica: dict[str, Any] = get_json(lab, f"volumereplicas.twinvault.io/{volume}.{node}")
        path = replica.get("status", {}).get("devicePath", "")
        return bool(path), f"status {replica.get('status')}"

    wait_seen(f"the device of {volume} on {node}", told, timeout_seconds=30)
    return path


def run_fio_on(
    node: LabNode, device: str, size_bytes: int, load: Load, seconds: float
) -> dict[str, Any]:
    """fio's own result of one job on a device of a node."""
    argv = fio_arguments(Path(device), size_bytes, load, seconds)
    return parse_fio(_run(node, argv, seconds))


def fill_device(node: LabNode, device: str, size_bytes: int, *, offset_bytes: int = 0) -> None:
    """Write a part of the device once: every block of it then exists."""
    _run(node, fill_arguments(Path(device), size_bytes, offset_bytes=offset_bytes), 120)


def rewrite_blocks(node: LabNode, device: str, region_bytes: int, changed_bytes: int) -> None:
    """Write so many bytes at random in the first ``region_bytes``, 4 KiB each, none twice."""
    argv = [
        "fio", "--output-format=json", "--name=change", f"--filename={device}",
        f"--size={region_bytes}", f"--io_size={changed_bytes}", "--direct=1",
        "--ioengine=libaio", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--randrepeat=0",
        "--thread",
    ]  # fmt: skip
    _run(node, argv, 120)


def _run(node: LabNode, argv: Sequence[str], seconds: float) -> str:
    return node.exec(*argv, timeout_seconds=seconds + FIO_SLACK_SECONDS).check().text


def read_program(name: str) -> bytes:
    """Text of a program beside this file that runs in a node on its own."""
    return (Path(__file__).parent / name).read_bytes()
