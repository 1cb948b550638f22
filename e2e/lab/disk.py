"""Disks of a node: sparse files on the host's own disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.command import run
from e2e.lab.config import Node, Settings

SYSTEM_DISK_GIB = 10
SPARE_DISK_GIB = 1


@dataclass(frozen=True)
class Disks:
    """Order is the order of the kernel's devices: ubda, ubdb, ubdc.

    ``system``: ext4 with the node's root changes, containerd and kubelet state.
    ``data``: blank at first, for the storage pool. ``spare``: blank, for tests.
    """

    system: Path
    data: Path
    spare: Path

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.system, self.data, self.spare)


def disks_of(settings: Settings, node: Node) -> Disks:
    directory = settings.node_dir(node) / "disks"
    return Disks(directory / "system", directory / "data", directory / "spare")


def ensure_disks(settings: Settings, node: Node, golden: Callable[[], Path]) -> Disks:
    """Make the disks that are missing; the system disk is a copy of ``golden()``."""
    disks = disks_of(settings, node)
    disks.system.parent.mkdir(parents=True, exist_ok=True)
    if not disks.system.exists():
        copy_sparse(golden(), disks.system)
    ensure_blank(disks.data, settings.data_disk_gib << 30)
    ensure_blank(disks.spare, SPARE_DISK_GIB << 30)
    return disks


def ensure_blank(path: Path, size_bytes: int) -> None:
    """A sparse file of that size; one that exists is left as it is."""
    if path.exists():
        return
    with path.open("xb") as file:
        file.truncate(size_bytes)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy with holes kept (and blocks shared where the filesystem can)."""
    unfinished = target.with_suffix(".unfinished")
    run(
        ["cp", "--sparse=always", "--reflink=auto", str(source), str(unfinished)],
        timeout_seconds=300,
    )
    unfinished.rename(target)


def make_ext4(path: Path, size_bytes: int) -> None:
    """A sparse file with an empty ext4, quick to make and to grow into."""
    path.unlink(missing_ok=True)
    ensure_blank(path, size_bytes)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    run(
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=64", "-E", options, str(path)],
        timeout_seconds=60,
    )
