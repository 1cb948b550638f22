"""Every Go program of the lab, built once and kept in the cache.

The directory is named after a hash of the two modules' sources, the Go version and
the build flags, so a program that is there is the one that these sources make.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2e.lab.command import CommandError, run
from e2e.lab.config import ROOT, Settings
from e2e.lab.progress import say, step
from e2e.lab.rootfs import locked

MODULE = ROOT / "e2e" / "go"
SANITY_MODULE = ROOT / "e2e" / "go-sanity"
KUBE_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
)
_BUILD_TIMEOUT_SECONDS = 45 * 60


@dataclass(frozen=True)
class Program:
    """One program: its file name, its package and the module that builds it."""

    name: str
    package: str
    module: Path = MODULE


_SIDECARS = {
    "csi-attacher": "external-attacher/v4/cmd/csi-attacher",
    "csi-provisioner": "external-provisioner/v6/cmd/csi-provisioner",
    "csi-resizer": "external-resizer/v2/cmd/csi-resizer",
    "csi-snapshotter": "external-snapshotter/v8/cmd/csi-snapshotter",
    "snapshot-controller": "external-snapshotter/v8/cmd/snapshot-controller",
}
# The big one first: all others reuse what it compiled.
PROGRAMS = (
    Program("kube", "./kube"),
    Program("kubectl", "./kubectl"),
    Program("etcd", "./etcd"),
    *(Program(name, f"github.com/kubernetes-csi/{path}") for name, path in _SIDECARS.items()),
    Program("helm", "helm.sh/helm/v4/cmd/helm"),
    Program("coredns", "./dns"),
    Program("mockdriver", "./mockdriver"),
    Program("pause", "./pause"),
    Program(
        "csi-sanity", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", module=SANITY_MODULE
    ),
)


class BinariesError(Exception):
    """The programs cannot be built here; the message says what to do."""


def ensure_binaries(settings: Settings) -> Path:
    """Directory with every program of PROGRAMS and the names in KUBE_PROGRAMS.

    Builds what the cache lacks: 10 to 15 minutes on two cores the first time.
    """
    found = find_binaries(settings)
    if found is not None:
        return found
    target = _directory(settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / "build.lock"):
        if not target.is_dir():
            _build_all(target)
    return target


def find_binaries(settings: Settings) -> Path | None:
    """The directory if these very sources were built before; never builds."""
    target = _directory(settings)
    return target if target.is_dir() else None


def cluster_version() -> str:
    """Version of Kubernetes that the module builds, such as v1.36.3."""
    return parse_kubernetes_version((MODULE / "go.mod").read_text())


def parse_kubernetes_version(go_mod: str) -> str:
    match = re.search(r"^\s*k8s\.io/kubernetes (v\d+\.\d+\.\d+)", go_mod, re.MULTILINE)
    if match is None:
        raise BinariesError("e2e/go/go.mod names no version of k8s.io/kubernetes")
    return match[1]


def choose_linker_flags(version: str) -> str:
    """Flags that leave out debug data and stamp the version of Kubernetes."""
    major, minor, _ = version.removeprefix("v").split(".", 2)
    stamps = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
    }
    package = "k8s.io/component-base/version"
    return " ".join(["-s -w", *(f"-X {package}.{key}={text}" for key, text in stamps.items())])


@cache
def _directory(settings: Settings) -> Path:
    digest = hashlib.sha256()
    for module in (MODULE, SANITY_MODULE):
        for path in sorted(module.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(module.parent)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    flags = choose_linker_flags(cluster_version())
    digest.update(f"{_go_version()}\0{flags}\0{PROGRAMS!r}".replace(str(ROOT), "").encode())
    return settings.cache / "bin" / digest.hexdigest()[:12]


def _go_version() -> str:
    try:
        return run(["go", "version"], timeout_seconds=30, cwd=MODULE).strip()
    except CommandError as error:
        raise BinariesError(
            "Go is missing: install Go 1.26 or newer and put it on the PATH"
        ) from error


def _build_all(target: Path) -> None:
    say(f"building {len(PROGRAMS)} Go programs into {target} (minutes the first time)")
    for left in target.parent.glob("building-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as temporary:
        directory = Path(temporary) / "bin"
        directory.mkdir(mode=0o755)
        for program in PROGRAMS:
            with step(f"go build {program.name}"):
                _build(program, directory)
        for name in KUBE_PROGRAMS:
            (directory / name).symlink_to("kube")
        directory.rename(target)
    _remove_old(target)


def _remove_old(target: Path) -> None:
    """Keep what was just built and the one before it, which a lab may still run."""
    others = [path for path in target.parent.iterdir() if path.is_dir() and path != target]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[1:]:
        shutil.rmtree(old)


def _build(program: Program, directory: Path) -> None:
    argv = [
        *("nice", "go", "build", "-v", "-trimpath"),
        *("-ldflags", choose_linker_flags(cluster_version())),
        *("-o", str(directory / program.name), program.package),
    ]
    env = {**os.environ, "CGO_ENABLED": "0", "GOGC": os.environ.get("GOGC", "400")}
    total = _count_packages(program, env)
    with subprocess.Popen(
        argv,
        cwd=program.module,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as build:
        alarm = threading.Timer(_BUILD_TIMEOUT_SECONDS, build.kill)
        alarm.start()
        try:
            said = _follow(build, program.name, total)
        except BaseException:
            build.kill()
            raise
        finally:
            alarm.cancel()
    if build.returncode != 0:
        raise CommandError(argv, f"exit code {build.returncode}", "\n".join(said))


def _follow(build: subprocess.Popen[str], name: str, total: int) -> list[str]:
    """Read the compiler's list of packages; say now and then how far it got."""
    assert build.stderr is not None
    lines: list[str] = []
    said = time.monotonic()
    for line in build.stderr:
        lines.append(line.rstrip())
        if time.monotonic() - said > 20:
            said = time.monotonic()
            say(f"  ... {name}: {len(lines)} of at most {total} packages compiled")
    return lines


def _count_packages(program: Program, env: dict[str, str]) -> int:
    argv = ["go", "list", "-deps", program.package]
    listed = run(argv, timeout_seconds=600, cwd=program.module, env=env)
    return len(listed.splitlines())


if __name__ == "__main__":
    try:
        say(f"programs: {ensure_binaries(Settings.from_environment())}")
    except (BinariesError, CommandError) as error:
        say(f"error: {error}")
        sys.exit(1)
