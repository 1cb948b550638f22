"""What the machine itself must have: root, Go, and a few Debian packages."""

from __future__ import annotations

import os
import shutil
import sys

from e2e.lab.command import CommandError, run
from e2e.lab.progress import say, step

# The command that must be there, and the Debian package that brings it.
_PACKAGES = {
    "fio": "fio",
    "gcc": "build-essential",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "nsenter": "util-linux",
    "mkfs.btrfs": "btrfs-progs",
    "openssl": "openssl",
    "shellcheck": "shellcheck",
    "tc": "iproute2",
}
_INSTALL_TIMEOUT_SECONDS = 600


class HostError(Exception):
    """The machine lacks something that the lab cannot bring itself."""


def ensure_host() -> None:
    """Install the packages that are missing; HostError tells what a person must do."""
    if os.geteuid() != 0:
        raise HostError("the lab makes namespaces and mounts: run it as root")
    if shutil.which("go") is None:
        raise HostError("Go is missing: install Go 1.26 or newer and put it on the PATH")
    packages = observe_missing_packages()
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise HostError(f"install {', '.join(packages)} by hand: this machine has no apt-get")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(packages)}"):
        run(["apt-get", "-q", "update"], timeout_seconds=_INSTALL_TIMEOUT_SECONDS)
        install = ["apt-get", "-q", "install", "-y", "--no-install-recommends", *packages]
        run(install, timeout_seconds=_INSTALL_TIMEOUT_SECONDS, env=quiet)


def observe_missing_packages() -> list[str]:
    """Packages whose command is not on this machine."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = {pkg for cmd, pkg in _PACKAGES.items() if shutil.which(cmd, path=path) is None}
    return sorted(missing)


if __name__ == "__main__":
    try:
        ensure_host()
    except (CommandError, HostError) as error:
        say(f"error: {error}")
        sys.exit(1)
