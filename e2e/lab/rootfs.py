"""Debian roots made by mmdebstrap: the nodes' shared root and the base of the images.

A root is made once, keyed by its suite and package list, unpacked under a temporary
name and renamed, so that a root that exists is whole. Which kernel and which tool
versions it got is asked from the root, never assumed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from e2e.lab.command import CommandError, run
from e2e.lab.config import Settings
from e2e.lab.progress import step

MAKE_ROOT_TIMEOUT_SECONDS = 900
SEARCH_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENTER_ROOT = Path(__file__).parent / "enter_root.sh"
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*")


class RootError(RuntimeError):
    """A Debian root could not be made; the message holds the tool's last lines."""


@dataclass(frozen=True)
class RootSpec:
    """What a root is made of. Equal specs share one root."""

    purpose: str
    suite: str
    packages: tuple[str, ...]

    @property
    def key(self) -> str:
        text = json.dumps([asdict(self), LEFT_OUT], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


NODE_ROOT = RootSpec(
    "nodes",
    "forky",
    (
        "btrfs-progs",
        "buildah",
        "busybox-static",
        "ca-certificates",
        "containerd",
        "containernetworking-plugins",
        "crun",
        "dmsetup",
        "drbd-utils",
        "e2fsprogs",
        "fio",
        "iproute2",
        "iputils-ping",
        "kmod",
        "netavark",
        "procps",
        "python3",
        "strace",
        "tcpdump",
        "user-mode-linux",
        "util-linux",
        "xfsprogs",
    ),
)
IMAGE_BASE = RootSpec("images", "bookworm", ("ca-certificates",))


def ensure_rootfs(settings: Settings) -> Path:
    """Root of the nodes: kernel, storage tools, containerd, etcd, kubectl, buildah."""
    return ensure_root(settings, NODE_ROOT)


def ensure_root(settings: Settings, spec: RootSpec) -> Path:
    """Directory of the root made from ``spec``; made when missing (one to two minutes)."""
    root = settings.cache / "roots" / f"{spec.purpose}-{spec.key}"
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with locked(root.with_suffix(".lock")):
        if not root.is_dir():
            with step(f"Debian {spec.suite} root for the {spec.purpose}"):
                _make_root(spec, observe_mirror(), root)
    return root


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, so that two runs never make the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_root(spec: RootSpec, mirror: str, root: Path) -> None:
    unfinished = root.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        f"--include={','.join(spec.packages)}",
        spec.suite,
        str(unfinished),
        f"deb {mirror} {spec.suite} main",
    ]
    if shutil.which("mmdebstrap") is None:
        raise RootError("mmdebstrap is missing: apt-get install mmdebstrap")
    log = root.with_suffix(".log")
    log.unlink(missing_ok=True)
    try:
        run(command, timeout_seconds=MAKE_ROOT_TIMEOUT_SECONDS, log=log)
    except CommandError as error:
        raise RootError(str(error)) from error
    unfinished.chmod(0o755)
    _prepare_for_nodes(unfinished)
    unfinished.rename(root)


def _prepare_for_nodes(root: Path) -> None:
    """The mount point of a node's files, and the kernel's modules where modprobe looks."""
    (root / "lab").mkdir()
    if (root / "usr/lib/uml/modules").is_dir():
        shutil.rmtree(root / "usr/lib/modules", ignore_errors=True)
        (root / "usr/lib/modules").symlink_to("uml/modules")


def run_in_root(
    root: Path,
    argv: Sequence[str],
    mounts: Mapping[Path, str],
    *,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float,
    network: bool = True,
    log: Path | None = None,
) -> str:
    """Run ``argv`` chrooted in ``root``, in mount and pid namespaces that end with it.

    ``mounts`` maps a directory or file here to its absolute path inside. Returns
    standard output; raises CommandError (see command.run).
    """
    pairs = [text for source, target in mounts.items() for text in (str(source), target)]
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]
    isolated += [] if network else ["--net"]
    return run(
        [*isolated, "sh", str(ENTER_ROOT), str(root), *pairs, "--", *argv],
        env={"PATH": SEARCH_PATH, "HOME": "/root", **(env or {})},
        timeout_seconds=timeout_seconds,
        log=log,
    )


def observe_mirror() -> str:
    """URI of the mirror that apt here uses for Debian itself (not its security archive)."""
    line = "$(REPO_URI)|$(LABEL)|$(CREATED_BY)"
    output = run(["apt-get", "indextargets", "--format", line], timeout_seconds=60)
    return choose_mirror(output.splitlines())


def choose_mirror(lines: list[str]) -> str:
    """Choose from lines ``uri|label|created-by`` of `apt-get indextargets`."""
    for line in lines:
        uri, label, created_by = line.split("|")
        if label == "Debian" and created_by == "Packages":
            return uri
    raise RootError("apt on this machine knows no Debian archive: run `apt-get update` first")


def observe_kernel_release(root: Path) -> str:
    """Release of the root's User Mode Linux kernel, by its directory of modules."""
    releases = sorted(path.name for path in (root / "usr/lib/uml/modules").iterdir())
    if not releases:
        raise RootError(f"{root} holds no User Mode Linux kernel; remove it and run again")
    return releases[-1]
