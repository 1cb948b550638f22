"""A node: one User Mode Linux kernel, started, killed and frozen like a process.

All its processes live in a pid namespace of their own, so a power cut is one SIGKILL
that nothing in the node outlives, and its mounts in a mount namespace that goes with
it. SIGKILL loses the node's memory; what it wrote to its disks is in the host's page
cache and stays. A node that panics, powers off or reboots itself ends; `start` boots it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.lab import exec_channel, process
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import run, succeeds, tail
from e2e.lab.config import Node, Settings
from e2e.lab.disk import Disks, ensure_disks
from e2e.lab.exec_channel import Completed, ExecError
from e2e.lab.images import ensure_golden_disk, images_dir
from e2e.lab.node_files import apply_node_files
from e2e.lab.pki import kubelet_kubeconfig
from e2e.lab.progress import wait_until
from e2e.lab.rootfs import ensure_rootfs

PROCESS_NAME = "kernel"
BOOT_TIMEOUT_SECONDS = 60.0

# $0: root. $1..: bind mounts as SOURCE TARGET pairs up to --, then the program.
# The disks are handed over as open files, so that no path inside the node leads to
# them. The node's memory is a file in a tmpfs that goes with the mount namespace. The
# shell stays as the first process of the pid namespace; the console goes through a
# pipe because the kernel cannot poll a plain file.
_LAUNCHER = """
set -e
root=$0
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777,size=100% tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root/$2"
    shift 2
done
shift
chroot "$root" "$@" < /dev/null 2>&1 | cat
"""


class NodeError(Exception):
    """A node did not do what was asked; the message shows its console."""


def run_dir(settings: Settings, node: Node) -> Path:
    return settings.node_dir(node)


def console_log(settings: Settings, node: Node) -> Path:
    """What the node's kernel and init printed, over all its boots."""
    return process.log_file(PROCESS_NAME, run_dir(settings, node))


def is_running(settings: Settings, node: Node) -> bool:
    """Whether the node's kernel process lives (a frozen one does)."""
    return process.is_running(PROCESS_NAME, run_dir(settings, node))


def ensure_node(settings: Settings, node: Node) -> None:
    """The node is booted and takes commands; nothing is done if it is already.

    Needs the location's namespace with the node's tap, and the cluster's PKI. Raises
    NodeError when it does not boot in BOOT_TIMEOUT_SECONDS.
    """
    if is_running(settings, node):
        wait_for_boot(settings, node)
        return
    start(settings, node)


def start(settings: Settings, node: Node) -> None:
    """Boot the node on the disks it has (made when missing); returns when it is up."""
    if is_running(settings, node):
        return
    root = ensure_rootfs(settings)
    binaries = ensure_binaries(settings)
    directory = settings.node_dir(node)
    disks = ensure_disks(settings, node, lambda: ensure_golden_disk(settings))
    files = directory / "files"
    apply_node_files(settings, node, files)
    shutil.copyfile(kubelet_kubeconfig(settings, node), files / "kubeconfig")
    shutil.copyfile(settings.pki / "ca.crt", files / "ca.crt")
    _ensure_management_tap(node)
    mounts = {files: "lab", binaries: "lab/bin", images_dir(settings): "lab/images"}
    process.start(
        PROCESS_NAME,
        choose_start_command(root, node, mounts, disks, settings.node_memory_mib),
        run_dir=run_dir(settings, node),
        namespace=node.location.namespace,
        env={"TMPDIR": "/tmp"},
    )
    wait_for_boot(settings, node)


def choose_start_command(
    root: Path, node: Node, mounts: Mapping[Path, str], disks: Disks, memory_mib: int
) -> list[str]:
    """The argument list that becomes the node's kernel in namespaces of its own."""
    kernel = [
        "/usr/bin/linux.uml",
        f"mem={memory_mib}M",
        "seccomp=on",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        *(f"ubd{n}=/proc/self/fd/{n + 3}" for n in range(len(disks.all))),
        _vector_interface(0, node, node.tap),
        _vector_interface(1, node, node.management_tap),
        "init=/lab/init.sh",
        f"NODE={node.name}",
        "uml_dir=/tmp/",
        "con=null",
        "con0=null,fd:1",
    ]
    pairs = [text for source, target in mounts.items() for text in (str(source), target)]
    launcher = ["sh", "-c", _LAUNCHER, str(root), *pairs, "--", *kernel]
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", *launcher]
    opened = " ".join(f"{n + 3}<>{shlex.quote(str(p))}" for n, p in enumerate(disks.all))
    return ["sh", "-c", f'exec {opened}; exec "$@"', "sh", *isolated]


def _vector_interface(number: int, node: Node, tap: str) -> str:
    mac = f"02:74:76:{number:02x}:{node.location.number:02x}:{node.number:02x}"
    # gro=1: without it large frames are dropped.
    return f"vec{number}:transport=tap,ifname={tap},gro=1,depth=128,mac={mac}"


def _ensure_management_tap(node: Node) -> None:
    namespace, tap = node.location.namespace, node.management_tap
    if succeeds(["ip", "link", "show", tap], namespace=namespace):
        return
    address = f"{node.management_network[1]}/{node.management_network.prefixlen}"
    for argv in (
        ["ip", "tuntap", "add", tap, "mode", "tap"],
        ["ip", "addr", "add", address, "dev", tap],
        ["ip", "link", "set", tap, "up"],
    ):
        run(argv, namespace=namespace, timeout_seconds=10)


def wait_for_boot(settings: Settings, node: Node) -> None:
    """Return once the node takes commands; NodeError with its console if it does not."""
    deadline = time.monotonic() + BOOT_TIMEOUT_SECONDS
    console = console_log(settings, node)
    while time.monotonic() < deadline:
        if not is_running(settings, node):
            raise NodeError(f"{node.name} ended while booting:\n{tail(console)}")
        try:
            exec_channel.run_in_node(node, ["true"], timeout_seconds=5)
        except ExecError:
            time.sleep(0.05)
        else:
            return
    raise NodeError(
        f"{node.name} takes no command {BOOT_TIMEOUT_SECONDS:g} s after its start:\n{tail(console)}"
    )


def kill(settings: Settings, node: Node) -> None:
    """Power cut: every process of the node ends at once, nothing is flushed."""
    members = _members(settings, node)
    process.kill(PROCESS_NAME, run_dir(settings, node))
    wait_until(
        f"the last of {len(members)} processes of {node.name} to be gone",
        lambda: not any(_holds_resources(pid) for pid in members),
        timeout_seconds=10,
        interval_seconds=0.01,
    )


def freeze(settings: Settings, node: Node) -> None:
    """The node hangs: all its processes stop where they are."""
    _signal_members(settings, node, signal.SIGSTOP)


def thaw(settings: Settings, node: Node) -> None:
    """A frozen node goes on; its clock jumps to now."""
    _signal_members(settings, node, signal.SIGCONT)


def exec_in(
    settings: Settings,
    node: Node,
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout_seconds: float,
) -> Completed:
    """Run ``argv`` as root in the node; see exec_channel for errors and streaming."""
    if not is_running(settings, node):
        raise ExecError(f"{node.name} is not running: start it with `node start {node.name}`")
    return exec_channel.run_in_node(
        node,
        argv,
        stdin=stdin,
        timeout_seconds=timeout_seconds,
        is_alive=lambda: is_running(settings, node),
    )


def memory_mib(settings: Settings, node: Node) -> int:
    """Memory that the node takes of the host: its processes' proportional set size."""
    total = 0
    for pid in _members(settings, node):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total // 1024


def _signal_members(settings: Settings, node: Node, number: signal.Signals) -> None:
    members = _members(settings, node)
    if not members:
        raise NodeError(f"{node.name} is not running: start it with `node start {node.name}`")
    for pid in members:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # a process of the node that ended by itself


def _members(settings: Settings, node: Node) -> list[int]:
    """Pids of the node's pid namespace, seen from here; empty when it is not running."""
    launcher = process.running_pid(PROCESS_NAME, run_dir(settings, node))
    if launcher is None:
        return []
    try:
        namespace = Path(f"/proc/{launcher}/ns/pid_for_children").readlink()
    except OSError:
        return []
    if namespace == _pid_namespace(Path(f"/proc/{launcher}")):
        return []
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(path.name) for path in processes if _pid_namespace(path) == namespace]


def _holds_resources(pid: int) -> bool:
    """Whether the process still has memory, files or a tap: a zombie has not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _pid_namespace(process_dir: Path) -> Path | None:
    try:
        return (process_dir / "ns" / "pid").readlink()
    except OSError:
        return None
