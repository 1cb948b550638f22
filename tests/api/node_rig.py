"""One node's agent as a process of its own, with a real pool on a loop device, to be killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from e2e.lab.config import ROOT
from tests.agent.world import NODE, Json, node_object
from twinvault_core.agent_api import MAX_LINE_BYTES, Request, format_request, parse_answer

SOURCES = ("core", "kube", "engine", "operator", "csi", ".")
DISK_BYTES = 1 << 30
_CLONE_NEWNS = 0x20000
_PRIVATE = ctypes.c_ulong(1 << 18 | 1 << 14)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


@dataclass
class NodeRig:
    """``directory`` holds the disk's file, the agent's data directory, kubelet's and the log."""

    directory: Path
    kubeconfig: Path
    device: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def kubelet_dir(self) -> Path:
        return self.directory / "kubelet"

    @property
    def socket_path(self) -> Path:
        return self.directory / "run" / "agent.sock"

    @property
    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def node_object(self) -> Json:
        """A StorageNode whose pool is this rig's disk."""
        pools = [{"name": "fast", "filesystem": "xfs", "devices": {"paths": [self.device]}}]
        return node_object(pools=pools)

    def start(self, *, kill_at: int = 0, after: str = "", **environment: str) -> None:
        """Start the agent. ``kill_at`` n: it kills itself at the n-th step (``after`` that one)."""
        program = ["-m", "twinvault_engine.agent.main"]
        if kill_at:
            program = [str(ROOT / "tests/api/agent_that_dies.py"), str(kill_at), after]
        with (self.directory / "agent.log").open("ab") as log:
            self.process = self._launch(program, environment, log)

    def _launch(
        self, program: list[str], environment: dict[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *program],
            env={
                **os.environ,
                "PYTHONPATH": ":".join(str(ROOT / source) for source in SOURCES),
                "KUBECONFIG": str(self.kubeconfig),
                "NODE_NAME": NODE,
                "POD_NAMESPACE": "twinvault-system",
                "TWINVAULT_DATA_DIR": str(self.data_dir),
                "TWINVAULT_KUBELET_DIR": str(self.kubelet_dir),
                "TWINVAULT_AGENT_SOCKET": str(self.socket_path),
                "TWINVAULT_METRICS_ADDRESS": "127.0.0.1",
                "TWINVAULT_METRICS_PORT": "0",
                # Many short lives: each would compile all sources again.
                "PYTHONDONTWRITEBYTECODE": "",
                "PYTHONPYCACHEPREFIX": str(self.directory / "bytecode"),
                **environment,
            },
            cwd="/",
            stdout=log,
            stderr=log,
        )

    def wait_dead(self, timeout_seconds: float) -> int:
        """The exit code of the agent that ends by itself."""
        assert self.process is not None
        return self.process.wait(timeout_seconds)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> int:
        """End it as Kubernetes does; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def ask(self, request: Request, timeout_seconds: float = 30.0) -> Json:
        """One request over the socket, as the CSI node service asks."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout_seconds)
            client.connect(str(self.socket_path))
            client.sendall(format_request(request))
            line = b""
            while not line.endswith(b"\n"):
                part = client.recv(MAX_LINE_BYTES)
                if not part:
                    raise ConnectionResetError("the agent hung up")
                line += part
        return dict(parse_answer(line))

    def loops_over_volumes(self) -> list[str]:
        """Loop devices whose backing file lies in the pool, by the number of its filesystem."""
        pool = f"{os.major(self.device_number)}:{os.minor(self.device_number)}"
        listed = run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-MAJ:MIN")
        pairs = [line.split() for line in listed.splitlines()]
        return [name for name, backing in pairs if backing == pool]

    @property
    def device_number(self) -> int:
        return Path(self.device).stat().st_rdev

    def mounts(self) -> list[str]:
        """Mount points below the rig's directory."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        points = [line.split(" ")[4] for line in lines]
        return sorted(point for point in points if point.startswith(str(self.directory)))

    def pool_files(self) -> list[str]:
        """Every file and directory that volumes and snapshots may leave in the pool."""
        pool = self.data_dir / "pools" / "fast"
        found = [p for part in ("volumes", "snapshots", "trash") for p in (pool / part).rglob("*")]
        return sorted(str(path.relative_to(pool)) for path in found)


@contextlib.contextmanager
def node_rig(directory: Path, kubeconfig: Path) -> Iterator[NodeRig]:
    """A rig with a blank disk; whatever happened, nothing of it is left afterwards."""
    take_own_mounts()
    rig = NodeRig(directory, kubeconfig)
    rig.kubelet_dir.mkdir(parents=True)
    disk = directory / "disk.img"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    rig.device = run("losetup", "--find", "--show", str(disk)).strip()
    try:
        yield rig
    finally:
        rig.kill()
        _clean(rig)


def _clean(rig: NodeRig) -> None:
    for point in reversed(rig.mounts()):
        if not point.startswith(str(rig.data_dir / "pools")):
            run("umount", point)
    for loop in rig.loops_over_volumes():
        run("losetup", "--detach", loop)
    for point in reversed(rig.mounts()):
        run("umount", point)
    run("losetup", "--detach", rig.device)


def take_own_mounts() -> None:
    """Give this process a mount namespace of its own: others that make one do not copy our mounts
    and keep them busy, and nothing stays mounted however a test ends.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _PRIVATE, None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
