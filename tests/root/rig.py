"""A node for tests: a real disk (a loop device over a sparse file) and an engine on it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twinvault_core.agent_api import Publish, Stage
from twinvault_core.model import (
    Meta,
    PoolSpec,
    PoolState,
    PoolStatus,
    Source,
    VolumeMode,
    VolumeReplica,
)
from twinvault_engine import loop, steps
from twinvault_engine.engine import Engine
from twinvault_engine.mountinfo import Mount, observe_mounts

MIB = 1024**2
GIB = 1024**3
POOL = "fast"
CLUSTER = "east"
CAP_SYS_RESOURCE = 24
_FITHAW = 0xC0045878
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def has_capability(number: int) -> bool:
    """Whether this process may do what root may do by capability ``number``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def replica(
    name: str,
    size_bytes: int = 512 * MIB,
    *,
    uid: str = "",
    fs_type: str = "ext4",
    source: Source | None = None,
    mode: VolumeMode = VolumeMode.FILESYSTEM,
) -> VolumeReplica:
    """Desired state of one volume; its UID follows from its name unless given."""
    return VolumeReplica(
        meta=Meta(f"{name}.node-a"),
        volume=name,
        volume_uid=uid or f"uid-{name}",
        node="node-a",
        storage_cluster=CLUSTER,
        pool=POOL,
        size_bytes=size_bytes,
        volume_mode=mode,
        fs_type=fs_type if mode is VolumeMode.FILESYSTEM else "",
        source=source or Source(),
    )


class Rig:
    """Temporary directories, disks and engines; ``close`` leaves nothing on the host."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="twinvault-test-"))
        self.kubelet = self.root / "kubelet"
        self.kubelet.mkdir()
        self.disks: list[loop.LoopDevice] = []
        self.engine = self.new_engine()

    def new_engine(self, *, data: str = "data", node: str = "node-a") -> Engine:
        """An engine as a newly started agent has it."""
        return Engine(self.root / data, node, self.kubelet)

    def add_disk(self, size_bytes: int = 3 * GIB) -> loop.LoopDevice:
        image = self.root / f"disk-{len(self.disks)}"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        device = loop.attach(image)
        self.disks.append(device)
        return device

    def disk_image(self, device: loop.LoopDevice) -> Path:
        return Path(device.backing_file)

    def make_pool(self, reserve_percent: int = 0) -> PoolStatus:
        device = self.add_disk()
        spec = PoolSpec(POOL, paths=(device.path,), reserve_percent=reserve_percent)
        status = self.engine.ensure_pool(spec, CLUSTER)
        assert status.state is PoolState.READY, status
        return status

    @property
    def pool_root(self) -> Path:
        return self.root / "data/pools" / POOL

    def staging_path(self, name: str) -> Path:
        return self.kubelet / "plugins" / name / "globalmount"

    def target_path(self, name: str, pod: str = "pod") -> Path:
        return self.kubelet / "pods" / pod / name / "mount"

    def stage_request(
        self,
        name: str,
        *,
        fs_type: str = "ext4",
        mode: str = "Filesystem",
        options: tuple[str, ...] = (),
        read_only: bool = False,
    ) -> Stage:
        return Stage(
            name,
            str(self.staging_path(name)),
            mode,
            fs_type if mode == "Filesystem" else "",
            options,
            read_only,
        )

    def publish_request(self, name: str, *, mode: str = "Filesystem", pod: str = "pod") -> Publish:
        return Publish(name, str(self.staging_path(name)), str(self.target_path(name, pod)), mode)

    def holdings(self) -> dict[str, list[str]]:
        """What the engine holds, by kind, without what is meant to stay."""
        found: dict[str, list[str]] = {}
        for holding in self.engine.list_holdings():
            found.setdefault(holding.kind, []).append(holding.name)
        found.pop("pool-mount", None)
        return found

    def close(self) -> None:
        steps.install(None)
        mounts = [m for m in observe_mounts() if m.path.startswith(f"{self.root}/")]
        for mount in mounts:
            _thaw(mount.path)
        below_data = (f"{self.root}/data", f"{self.root}/other-data")
        pools = [m for m in mounts if m.path.startswith(below_data)]
        _unmount_all([m for m in mounts if m not in pools])
        for device in loop.list_devices():
            if device.backing_file.startswith(below_data):
                with suppress(Exception):
                    loop.detach(device)
        _unmount_all(pools)
        for device in self.disks:
            with suppress(OSError, Exception):
                loop.detach(device)
        left = [d for d in loop.list_devices() if d.backing_file.startswith(f"{self.root}/")]
        assert not left, f"still attached: {left}"
        _remove_tree(self.root)


def _unmount_all(mounts: list[Mount]) -> None:
    for mount in reversed(mounts):
        if _libc.umount2(os.fsencode(mount.path), 0) != 0:
            _libc.umount2(os.fsencode(mount.path), _MNT_DETACH)


def _thaw(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.ioctl(fd, _FITHAW, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM):
            raise
    finally:
        os.close(fd)


def _remove_tree(root: Path) -> None:
    """Remove the test's own directory; anything still mounted below is left, and fails the test."""
    still = [m.path for m in observe_mounts() if m.path.startswith(f"{root}/")]
    assert not still, f"still mounted: {still}"
    for directory, names, files in os.walk(root, topdown=False):
        for file in files:
            (Path(directory) / file).unlink()
        for name in names:
            path = Path(directory) / name
            if path.is_symlink():
                path.unlink()
            else:
                path.rmdir()
    root.rmdir()


def run_killed_at(operation: Callable[[], object], index: int) -> str | None:
    """Run ``operation`` in a child that is killed (SIGKILL) at its step number ``index``.

    The name of the step, None when the operation ended before. A failure in the child fails here.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(operation, index, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return said
    assert os.WEXITSTATUS(status) == 0, said
    return None


def _run_child(operation: Callable[[], object], index: int, write_end: int) -> None:
    count = 0

    def hook(name: str) -> None:
        nonlocal count
        if count == index:
            os.write(write_end, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    try:
        steps.install(hook)
        operation()
    except BaseException as error:  # noqa: BLE001 - told to the parent, which fails the test
        os.write(write_end, repr(error).encode())
        os._exit(1)
    os._exit(0)


def fingerprint(path: Path) -> list[tuple[int, int, str]]:
    """Every stretch of data in a sparse file with its digest."""
    found = []
    with path.open("rb") as file:
        fd, offset, size = file.fileno(), 0, path.stat().st_size
        while offset < size:
            try:
                start = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                break
            end = os.lseek(fd, start, os.SEEK_HOLE)
            digest = hashlib.sha256()
            for at in range(start, end, MIB):
                digest.update(os.pread(fd, min(MIB, end - at), at))
            found.append((start, end, digest.hexdigest()))
            offset = end
    return found
