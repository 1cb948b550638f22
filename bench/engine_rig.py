"""Volumes for the engine's figures: in a pool of our own, or in the pool that a node has.

Needs Python, fio and root alone, so that it runs on this machine and inside a node of the lab:
``PYTHONPATH=.:core:engine python3 -m bench.local_io --here``.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinvault_core.agent_api import Stage, Unstage
from twinvault_core.model import Meta, PoolSpec, PoolState, VolumeMode, VolumeReplica
from twinvault_engine import loop, mount
from twinvault_engine.engine import Engine
from twinvault_engine.mountinfo import observe_mounts

MIB = 1024**2
GIB = 1024**3
NODE_DATA_DIR = Path("/var/lib/twinvault")
NODE_KUBELET_DIR = Path("/var/lib/kubelet")
NAME_PREFIX = "twinvault-bench-"
FIO_SLACK_SECONDS = 180
_CLONE_NEWNS = 0x20000
_PRIVATE = ctypes.c_ulong(1 << 18 | 1 << 14)


@dataclass(frozen=True)
class Rig:
    """``scratch`` is for logs; ``pool_root`` is the pool's own filesystem."""

    engine: Engine
    pool: str
    pool_root: Path
    kubelet: Path
    scratch: Path

    def make_volume(self, name: str, size_bytes: int, *, block: bool = False) -> Path:
        """A new staged volume: its mount point, or its device for a block volume."""
        mode = VolumeMode.BLOCK if block else VolumeMode.FILESYSTEM
        fs_type = "" if block else "ext4"
        self.engine.ensure_volume(
            VolumeReplica(
                Meta(name), name, f"uid-{name}", "bench", "bench", self.pool, size_bytes,
                volume_mode=mode, fs_type=fs_type,
            )
        )  # fmt: skip
        path = self.kubelet / "twinvault-bench" / name
        staged = self.engine.stage(Stage(name, str(path), mode.value, fs_type))
        return Path(staged["devicePath"]) if block else path

    def drop_volume(self, name: str) -> None:
        self.engine.unstage(Unstage(name, str(self.kubelet / "twinvault-bench" / name)))
        self.engine.erase_volume(self.pool, name, f"uid-{name}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--here", action="store_true", help="only this machine, no lab node")
    parser.add_argument("--pool", default="", help="use this pool of this node, not one of our own")
    parser.add_argument("--directory", default=None, help="where the disk of our own pool is made")


@contextmanager
def make_rig(pool: str, directory: str | None, size_bytes: int) -> Iterator[Rig]:
    """Volumes in ``pool`` of this node, or in a new pool on a file of ``size_bytes``."""
    root = Path(tempfile.mkdtemp(prefix="twinvault-bench-", dir=directory))
    try:
        with _use_pool(pool, root) if pool else _own_pool(root, size_bytes) as rig:
            yield rig
    finally:
        _remove(root)


def _remove(root: Path) -> None:
    """Remove our directory; never while anything is mounted below it."""
    mounted = [found.path for found in observe_mounts() if found.path.startswith(f"{root}/")]
    if mounted:
        raise RuntimeError(f"left {root}: {', '.join(mounted)} still mounted")
    shutil.rmtree(root)


@contextmanager
def _use_pool(pool: str, root: Path) -> Iterator[Rig]:
    engine = Engine(NODE_DATA_DIR, os.uname().nodename, NODE_KUBELET_DIR)
    status = engine.observe_pool(pool)
    if status is None or status.state is not PoolState.READY:
        raise RuntimeError(f"pool {pool} is not ready on this node: {status}")
    rig = Rig(engine, pool, Path(status.mount_path), NODE_KUBELET_DIR, root)
    try:
        yield rig
    finally:
        for facts in engine.list_volumes(pool):
            if facts.volume_id.startswith(NAME_PREFIX):
                rig.drop_volume(facts.volume_id)
        for snapshot in engine.list_snapshots(pool):
            if snapshot.snapshot_id.startswith(NAME_PREFIX):
                engine.erase_snapshot(pool, snapshot.snapshot_id)


@contextmanager
def _own_pool(root: Path, size_bytes: int) -> Iterator[Rig]:
    _own_mounts()
    disk = None
    try:
        with (root / "disk").open("wb") as file:
            file.truncate(size_bytes)
        disk = loop.attach(root / "disk")
        (root / "kubelet").mkdir()
        engine = Engine(root / "data", "bench", root / "kubelet")
        spec = PoolSpec("bench", paths=(disk.path,), reserve_percent=0)
        status = engine.ensure_pool(spec, "bench")
        if status.state is not PoolState.READY:
            raise RuntimeError(status.message)
        yield Rig(engine, "bench", Path(status.mount_path), root / "kubelet", root)
    finally:
        _close(root, disk)


def _own_mounts() -> None:
    """A mount namespace of our own: nobody copies our mounts into one of theirs and keeps them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _close(root: Path, disk: loop.LoopDevice | None) -> None:
    for found in reversed(observe_mounts()):
        if found.path.startswith(f"{root}/kubelet/"):
            mount.unmount(Path(found.path))
    for device in loop.list_devices():
        if device.backing_file.startswith(f"{root}/data/"):
            with suppress(Exception):
                loop.detach(device)
    mount.unmount(root / "data/pools/bench")
    if disk is not None:
        loop.detach(disk)


@dataclass(frozen=True)
class Load:
    """One fio job; ``mix`` is the share of reads in a mixed one."""

    name: str
    pattern: str
    block: str
    depth: int
    mix: int = 50


def run_fio(target: Path, size_bytes: int, load: Load, seconds: float) -> dict[str, Any]:
    """fio's own result of one job on the file or device ``target``."""
    argv = fio_arguments(target, size_bytes, load, seconds)
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=seconds + FIO_SLACK_SECONDS, check=True
    )
    return parse_fio(done.stdout)


def parse_fio(text: str) -> dict[str, Any]:
    """The one job in what fio printed; it may say something before its JSON."""
    job: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]
    return job


def fio_arguments(target: Path, size_bytes: int, load: Load, seconds: float) -> Sequence[str]:
    return [
        "fio", "--output-format=json", "--name=bench", f"--filename={target}",
        f"--size={size_bytes}", "--direct=1", "--ioengine=libaio", f"--rw={load.pattern}",
        f"--bs={load.block}", f"--iodepth={load.depth}", f"--rwmixread={load.mix}",
        "--time_based", f"--runtime={seconds}", "--ramp_time=0.5", "--randrepeat=0",
        "--norandommap", "--group_reporting", "--thread",
    ]  # fmt: skip


def fill(target: Path, size_bytes: int) -> None:
    """Write all of ``target`` once, in large direct writes: every block of it then exists."""
    subprocess.run(fill_arguments(target, size_bytes), capture_output=True, timeout=600, check=True)


def fill_arguments(target: Path, size_bytes: int, *, offset_bytes: int = 0) -> Sequence[str]:
    return [
        "fio", "--output-format=json", "--name=fill", f"--filename={target}",
        f"--offset={offset_bytes}", f"--size={size_bytes}", "--direct=1", "--ioengine=libaio",
        "--rw=write", "--bs=1M", "--iodepth=8", "--end_fsync=1", "--thread",
    ]  # fmt: skip
