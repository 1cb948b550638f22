"""Two User Mode Linux kernels joined by one link that can be cut; nothing of Kubernetes in them.

They borrow the lab's root filesystem, boot and command channel, in a network namespace and a
state directory of their own, so that the lab may run beside them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from e2e.lab import data_disk, exec_channel, node, process
from e2e.lab.command import run, succeeds
from e2e.lab.config import ROOT, Location, Node, Settings
from e2e.lab.disk import Disks, disks_of, ensure_blank, make_ext4
from e2e.lab.exec_channel import Completed
from e2e.lab.node_files import apply_node_files
from e2e.lab.rootfs import ensure_rootfs

MEMORY_MIB = 384
DATA_GIB = 3
_SYSTEM_BYTES = 1 << 30
_SOURCES = ("core/twinvault_core", "engine/twinvault_engine")
_INITTAB = (
    "::respawn:/bin/sh /run/host/keep.sh exec-server /usr/bin/python3 -I /run/host/exec_server.py\n"
)


@dataclass(frozen=True)
class Metro(Location):
    """Both kernels are on one bridge of a namespace that the lab does not know."""

    @property
    def namespace(self) -> str:
        return "tvd-metro"

    @property
    def network(self) -> IPv4Network:
        return IPv4Network("10.76.1.0/24")


METRO = Metro("metro", 1, controllers=False)
EAST = Node(METRO, 1)
WEST = Node(METRO, 2)
BOTH = (EAST, WEST)


class Kernels:
    """The two kernels; ``close`` ends them and removes the namespace and every file."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tvd-", dir="/var/tmp"))
        cache = Settings.from_environment().cache
        self.settings = Settings(cache, self.directory / "state", 2, MEMORY_MIB, DATA_GIB)

    def start(self) -> None:
        self._make_network()
        helper = self.directory / "fence-peer"
        source = ROOT / "images/fence-peer/fence-peer.c"
        compiler = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
        run([*compiler, "-o", str(helper), str(source)], timeout_seconds=60)
        for one in BOTH:
            self._prepare(one, helper)
            self.boot(one)

    def _prepare(self, one: Node, helper: Path) -> None:
        files = self.settings.node_dir(one) / "files"
        apply_node_files(self.settings, one, files)
        (files / "inittab").write_text(_INITTAB)
        for source in _SOURCES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / source, files / "python" / Path(source).name, ignore=ignored)
        shutil.copyfile(Path(__file__).parent / "inside.py", files / "python/inside.py")
        shutil.copy(helper, files / "fence-peer")
        disks = disks_of(self.settings, one)
        disks.system.parent.mkdir(parents=True)
        make_ext4(disks.system, _SYSTEM_BYTES)
        ensure_blank(disks.data, DATA_GIB << 30)
        ensure_blank(disks.spare, 1 << 20)

    def boot(self, one: Node) -> None:
        """Start a kernel that does not run; its disks are as its last life left them."""
        root = ensure_rootfs(self.settings)
        files = self.settings.node_dir(one) / "files"
        disks: Disks = disks_of(self.settings, one)
        process.start(
            node.PROCESS_NAME,
            node.choose_start_command(root, one, {files: "lab"}, disks, MEMORY_MIB),
            run_dir=self.settings.node_dir(one),
            namespace=METRO.namespace,
            env={"TMPDIR": "/tmp"},
        )
        node.wait_for_boot(self.settings, one)

    def _make_network(self) -> None:
        succeeds(["ip", "netns", "del", METRO.namespace])
        run(["ip", "netns", "add", METRO.namespace], timeout_seconds=10)
        commands = ["link set lo up", "link add br0 type bridge forward_delay 0"]
        commands += ["addr add 10.76.1.1/24 dev br0", "link set br0 up"]
        for one in BOTH:
            for tap in (one.tap, one.management_tap):
                commands += [f"tuntap add {tap} mode tap", f"link set {tap} up"]
            commands += [f"link set {one.tap} master br0"]
            network = one.management_network
            commands += [f"addr add {network[1]}/{network.prefixlen} dev {one.management_tap}"]
        batch = "".join(f"{command}\n" for command in commands)
        run(["ip", "-batch", "-"], namespace=METRO.namespace, stdin=batch, timeout_seconds=10)

    def cut(self) -> None:
        """No frame passes between the two any more, in either direction."""
        for one in BOTH:
            run(
                ["ip", "link", "set", one.tap, "nomaster"],
                namespace=METRO.namespace,
                timeout_seconds=10,
            )

    def heal(self) -> None:
        for one in BOTH:
            run(
                ["ip", "link", "set", one.tap, "master", "br0"],
                namespace=METRO.namespace,
                timeout_seconds=10,
            )

    def fail_disk(self, one: Node) -> None:
        """From now on every read and write of the data disk ends in an error."""
        data_disk.apply(one, failing=True)

    def repair_disk(self, one: Node) -> None:
        data_disk.apply(one, failing=False)

    def power_cut(self, one: Node) -> None:
        node.kill(self.settings, one)

    def sh(self, one: Node, script: str, *, timeout_seconds: float = 60) -> str:
        """What a shell script in the kernel prints; ExecError when it fails."""
        argv = ["sh", "-ec", script]
        return self.exec(one, argv, timeout_seconds=timeout_seconds).check().text

    def exec(self, one: Node, argv: Sequence[str], *, timeout_seconds: float = 60) -> Completed:
        return exec_channel.run_in_node(
            one,
            argv,
            env={"PYTHONPATH": "/run/host/python", "PYTHONPYCACHEPREFIX": "/tmp/pycache"},
            timeout_seconds=timeout_seconds,
            is_alive=lambda: node.is_running(self.settings, one),
        )

    def close(self) -> None:
        for one in BOTH:
            node.kill(self.settings, one)
        succeeds(["ip", "netns", "del", METRO.namespace])
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def running() -> Iterator[Kernels]:
    kernels = Kernels()
    try:
        kernels.start()
        yield kernels
    finally:
        kernels.close()
