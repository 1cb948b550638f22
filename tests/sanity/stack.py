"""Every process of ours as it runs in a cluster, on this machine: a real API server, the operator,
the agent with a real pool on a loop device, and both CSI processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import process
from e2e.lab.command import CommandError, run, tail
from e2e.lab.config import ROOT, Settings
from e2e.lab.progress import WaitError, step, wait_until
from e2e.lab.standalone import ApiServer

NODE = "sanity-node"
CLUSTER = "here"
POOL = "fast"
NAMESPACE = "twinvault-system"
DISK_BYTES = 24 * 1024**3
"""Sparse: what is promised counts, not what is written."""
SOURCES = ("core", "kube", "engine", "operator", "csi")
DISK = "disk.img"
START_TIMEOUT_SECONDS = 60
TIDY_ROUNDS = 20
TIDY_PAUSE_SECONDS = 0.25
PROCESSES = {
    "csi-node": "twinvault_csi.node_main",
    "csi-controller": "twinvault_csi.controller_main",
    "agent": "twinvault_engine.agent.main",
    "operator": "twinvault_operator.main",
}
"""In the order in which they are stopped: who asks before who answers."""


class StackError(Exception):
    """The stack cannot run here; the message says what to do."""


@dataclass
class Stack:
    """``directory`` holds everything; nothing outside of it is left when the stack is closed."""

    directory: Path
    api: ApiServer
    device: str = ""

    @classmethod
    @contextmanager
    def started(cls, settings: Settings, directory: Path) -> Iterator[Stack]:
        """Start everything; on leaving, end and remove everything, also after a failure."""
        if os.geteuid() != 0:
            raise StackError("loop devices and mounts need root")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with directory.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StackError(f"another run uses {directory}; wait for it") from error
            tidy(directory)
            directory.mkdir()
            try:
                with ApiServer.started(settings, directory / "api") as api:
                    stack = cls(directory, api)
                    try:
                        stack.start()
                        yield stack
                    finally:
                        stack.stop()
            finally:
                tidy(directory)

    @property
    def kubelet_dir(self) -> Path:
        return self.directory / "kubelet"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def logs(self) -> Path:
        return self.directory / "run"

    def socket(self, name: str) -> Path:
        return self.directory / "run" / f"{name}.sock"

    def start(self) -> None:
        with step("objects, processes and a pool"):
            self.kubelet_dir.mkdir()
            self._apply_objects()
            self.device = _attach(self.directory / DISK)
            for name in reversed(PROCESSES):
                self.start_process(name)
            self._create_cluster()
            self._wait_ready()

    def start_process(self, name: str) -> None:
        argv = [sys.executable, "-m", PROCESSES[name]]
        process.start(name, argv, run_dir=self.logs, env=self._environment(name), tied=True)

    def stop(self) -> None:
        for name in PROCESSES:
            process.stop(name, self.logs)

    def memory_mib(self) -> dict[str, int | None]:
        """Resident memory of each of our processes."""
        found: dict[str, int | None] = {}
        for name, module in PROCESSES.items():
            found[name] = _python_memory_mib(name, module, self.logs)
        return found

    def tail(self) -> str:
        """The last lines of every log."""
        return "\n".join(
            f"--- {name}\n{tail(process.log_file(name, self.logs))}" for name in PROCESSES
        )

    def _environment(self, name: str) -> dict[str, str]:
        return {
            "PYTHONPATH": ":".join(str(ROOT / source) for source in SOURCES),
            "KUBECONFIG": str(self.api.kubeconfig),
            "NODE_NAME": NODE,
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": name,
            "TWINVAULT_LOG_LEVEL": "DEBUG" if name.startswith("csi") else "INFO",
            "TWINVAULT_DATA_DIR": str(self.data_dir),
            "TWINVAULT_KUBELET_DIR": str(self.kubelet_dir),
            "TWINVAULT_AGENT_SOCKET": str(self.socket("agent")),
            "TWINVAULT_CSI_ENDPOINT": f"unix://{self.socket(name)}",
            "TWINVAULT_METRICS_ADDRESS": "127.0.0.1",
            "TWINVAULT_METRICS_PORT": "0",
        }

    def _apply_objects(self) -> None:
        self.api.kubectl("apply", "-f", str(ROOT / "crds"))
        self.api.kubectl("create", "namespace", NAMESPACE)
        self.api.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"twinvault.io/site": CLUSTER}},
        }
        self.api.kubectl("create", "-f", "-", stdin=json.dumps(node))

    def _create_cluster(self) -> None:
        pool = {"name": POOL, "devices": {"paths": [self.device]}}
        selector = {"matchLabels": {"twinvault.io/site": CLUSTER}}
        cluster = {
            "apiVersion": "twinvault.io/v1alpha1",
            "kind": "StorageCluster",
            "metadata": {"name": CLUSTER},
            "spec": {"nodeSelector": selector, "pools": [pool]},
        }
        self.api.kubectl("create", "-f", "-", stdin=json.dumps(cluster))

    def _wait_ready(self) -> None:
        arguments = ("storagecluster", CLUSTER, "--for=condition=Ready", "--timeout=60s")
        try:
            self.api.kubectl("wait", *arguments, timeout_seconds=90)
            wait_until(
                "the CSI node service to offer itself to kubelet",
                (self.kubelet_dir / "plugins_registry/csi.twinvault.io-reg.sock").is_socket,
                timeout_seconds=START_TIMEOUT_SECONDS,
            )
            wait_until(
                "the CSI controller to serve",
                self.socket("csi-controller").is_socket,
                timeout_seconds=START_TIMEOUT_SECONDS,
            )
        except (CommandError, WaitError) as error:
            described = self.api.kubectl("get", "storageclusters,storagenodes", "-o", "yaml")
            raise StackError(f"{error}\n{described}\n{self.tail()}") from error


def _attach(image: Path) -> str:
    """A loop device over a new sparse file: the disk that the pool is made on."""
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    argv = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    return run(argv, timeout_seconds=30).strip()


def _python_memory_mib(name: str, module: str, logs: Path) -> int | None:
    """Of the program itself, without the shell that ties it to us."""
    shell = process.running_pid(name, logs)
    if shell is None:
        return None
    listed = run(["ps", "-o", "rss=,args=", "-g", str(shell)], timeout_seconds=10)
    sizes = [line.split(None, 1) for line in listed.splitlines() if f"-m {module}" in line]
    found = [int(size) for size, argv in sizes if argv.startswith(sys.executable)]
    return max(found, default=0) // 1024


def mounts_below(directory: Path) -> list[str]:
    """Mount points below ``directory``, the deepest last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = line.split()[4].encode("latin-1").decode("unicode_escape")
        if Path(path).is_relative_to(directory):
            found.append(path)
    return found


def loops_below(directory: Path) -> list[tuple[str, str]]:
    """(device, backing file) of every loop device over a file below ``directory``, disks first.

    Also over a file in a pool on such a device: after a killed run the pool is mounted nowhere,
    its path means nothing, and only the number of its device tells whose it is.
    """
    columns = "NAME,MAJ:MIN,BACK-FILE,BACK-MAJ:MIN"
    listed = run(["losetup", "--list", "--json", "--output", columns], timeout_seconds=30)
    entries = json.loads(listed or '{"loopdevices": []}')["loopdevices"]
    direct = [one for one in entries if str(one["back-file"]).startswith(f"{directory}/")]
    numbers = {one["maj:min"].strip() for one in direct}
    nested = [
        one for one in entries if one["back-maj:min"].strip() in numbers and one not in direct
    ]
    return [(one["name"], str(one["back-file"])) for one in (*direct, *nested)]


def tidy(directory: Path) -> None:
    """End, unmount, detach and remove what a run left in ``directory``; nothing else.

    A pool is busy until the loop devices over its files are gone, and those until what is mounted
    from them is: so everything is tried in rounds until nothing is left.
    """
    for run_dir in (directory / "run", directory / "api"):
        for name in process.names(run_dir):
            process.stop(name, run_dir)
    said: list[str] = []
    for _ in range(TIDY_ROUNDS):
        todo = _plan_release(directory)
        if not todo:
            break
        for argv in todo:
            try:
                run(argv, timeout_seconds=30)
            except CommandError as error:
                said.append(str(error))
        # The kernel lets go of a filesystem a moment after its last file.
        time.sleep(TIDY_PAUSE_SECONDS)
    left = _plan_release(directory)
    if left:
        hint = "; ".join(" ".join(argv) for argv in left)
        raise StackError(f"do by hand: {hint}\n" + "\n".join(said[-3:]))
    shutil.rmtree(directory, ignore_errors=True)


def _plan_release(directory: Path) -> list[list[str]]:
    """Commands that release mounts and loop devices, what lies on top first."""
    mounted = [["umount", path] for path in reversed(mounts_below(directory))]
    attached = loops_below(directory)
    volumes = [name for name, back in attached if back != str(directory / DISK)]
    disks = [name for name, back in attached if back == str(directory / DISK)]
    return [*mounted, *(["losetup", "--detach", name] for name in (*volumes, *disks))]
