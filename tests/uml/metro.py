"""A replicated volume on two kernels, and the words in which tests speak of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

from e2e.lab import data_disk
from e2e.lab.config import Node
from e2e.lab.progress import wait_until
from tests.uml.driver import Driver
from tests.uml.kernels import BOTH, EAST, WEST, Kernels

MIB = 1024**2
GIB = 1024**3
POOL_IMAGE = "/var/lib/twinvault/pools/fast/volumes/{}/data.img"
SNAPSHOT_IMAGE = "/var/lib/twinvault/pools/fast/snapshots/{}/data.img"


class Metro:
    """Both kernels with an engine each; ``east`` and ``west`` are the engines."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self._minor = 1000
        self.east, self.west = (self.start_engine(node) for node in BOTH)

    def start_engine(self, node: Node) -> Driver:
        """A new engine in a kernel, as a newly started agent has it."""
        driver = Driver(self.kernels, node)
        driver.call("pool", device=data_disk.DEVICE)
        driver.call("serve")
        return driver

    @property
    def both(self) -> tuple[Driver, Driver]:
        return (self.east, self.west)

    def other(self, driver: Driver) -> Driver:
        return self.west if driver is self.east else self.east

    def new_minor(self) -> int:
        self._minor += 1
        return self._minor

    def spec(self, node: Node, minor: int) -> dict[str, Any]:
        peer = WEST if node == EAST else EAST
        return {
            "minor": minor,
            "port": 6000 + minor,
            "address": str(node.address),
            "peerNode": peer.name,
            "peerAddress": str(peer.address),
            "settings": {"maxRateBytesPerSecond": 200 * MIB, "minRateBytesPerSecond": 50 * MIB},
        }

    def make(self, name: str, size_bytes: int = 256 * MIB, mode: str = "Filesystem") -> int:
        """A new replicated volume, in sync, both secondary; its minor."""
        minor = self.new_minor()
        for driver in self.both:
            driver.call("volume", name=name, size_bytes=size_bytes, mode=mode)
            driver.call("replica", name=name, spec=self.spec(driver.node, minor))
        self.wait(self.east, name, "connected", lambda s: s["connection"] == "Connected")
        self.east.call("act", name=name, act="skip_first_sync")
        for driver in self.both:
            self.wait_in_sync(driver, name)
        return minor

    def wait(
        self,
        driver: Driver,
        name: str,
        what: str,
        holds: Callable[[dict[str, Any]], bool],
        timeout_seconds: float = 30,
    ) -> dict[str, Any]:
        """The state once it holds."""
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = driver.call("observe", name=name)
            return bool(last["up"]) and holds(last)

        wait_until(
            f"{name} at {driver.node.name} to be {what}",
            look,
            timeout_seconds=timeout_seconds,
            interval_seconds=0.1,
            explain=lambda: str(last),
        )
        return last

    def wait_in_sync(self, driver: Driver, name: str) -> None:
        self.wait(driver, name, "in sync", lambda s: s["in_sync"], 60)

    def wait_frozen(self, driver: Driver, name: str) -> None:
        self.wait(driver, name, "frozen", lambda s: s["frozen"])

    def images(self, path: str) -> list[str]:
        """Checksum of a file in both kernels."""
        return [self.kernels.sh(node, f"sha256sum {path}").split()[0] for node in BOTH]

    def assert_identical(self, name: str) -> None:
        """Both images hold the same bytes. For a volume that is secondary at both."""
        east, west = self.images(POOL_IMAGE.format(name))
        assert east == west, f"the images of {name} differ"

    def write(self, driver: Driver, name: str, text: str) -> None:
        """One file, on stable storage on return."""
        script = f"echo {text} > {self.path(name)}/{text}; sync {self.path(name)}/{text}"
        self.kernels.sh(driver.node, script)

    def files(self, driver: Driver, name: str) -> set[str]:
        found = self.kernels.sh(driver.node, f"ls {self.path(name)}").split()
        return set(found) - {"lost+found"}

    def path(self, name: str) -> str:
        return f"/var/lib/kubelet/{name}"

    def killed_at(self, driver: Driver, index: int, method: str, **arguments: Any) -> str | None:
        """Name of the step at which a process of its own, doing the call, was killed; None when it
        had fewer steps and ended well.
        """
        argv = ["python3", "/run/host/python/inside.py", "once", method, json.dumps(arguments)]
        done = self.kernels.exec(driver.node, [*argv, str(index)])
        if done.returncode == -signal.SIGKILL:
            return done.text.strip()
        done.check()
        return None

    def close(self) -> None:
        for driver in self.both:
            driver.close()


class Writer:
    """Numbered direct writes to a device inside a kernel; what was acknowledged is on its disk's
    own log, one number a line, each written after the device said yes.
    """

    SCRIPT = """
import os, sys, mmap
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
log = open(sys.argv[2], "a", buffering=1)
page = mmap.mmap(-1, 4096)
for number in range(int(sys.argv[3]), 10**9):
    page.seek(0)
    page.write(number.to_bytes(8, "little") * 512)
    try:
        os.pwrite(fd, page, number * 4096 % int(sys.argv[4]))
    except OSError as error:
        log.write(f"error {error.errno}\\n")
        break
    log.write(f"{number}\\n")
"""

    def __init__(
        self,
        kernels: Kernels,
        node: Node,
        device: str,
        size_bytes: int,
        *,
        first: int = 0,
        create: bool = False,
        pod: str = "",
    ) -> None:
        """``create``: ``device`` is a file that is made first. ``pod``: a UID; the writer is in
        that pod's control group.
        """
        self._kernels, self._node = kernels, node
        self._size, self._first = size_bytes, first
        self.log = f"/root/acknowledged-{first}"
        self._number = first
        script = f"cat > /root/writer.py <<'END'\n{self.SCRIPT}\nEND\n"
        arguments = f"{device} {self.log} {first} {size_bytes}"
        if create:
            kernels.sh(node, f"truncate -s {size_bytes} {device}")
        enter = ""
        if pod:
            group = f"/sys/fs/cgroup/kubepods/pod{pod}"
            enter = f"mkdir -p {group}/c; echo $$ > {group}/c/cgroup.procs\n"
        kernels.sh(
            node,
            f"{script}{enter}rm -f {self.log}; touch {self.log}\n"
            f"setsid python3 /root/writer.py {arguments} </dev/null >/root/writer.log 2>&1 &\n"
            f"echo $! > {self.log}.pid",
        )

    def lines(self) -> list[str]:
        return self._kernels.sh(self._node, f"cat {self.log}").split("\n")[:-1]

    def acknowledged(self) -> int:
        """The last number that the device acknowledged, -1 for none yet."""
        numbers = [int(line) for line in self.lines() if line.isdigit()]
        return numbers[-1] if numbers else self._first - 1

    def wait_for_progress(self, more: int = 5, timeout_seconds: float = 60) -> None:
        before = self.acknowledged()
        wait_until(
            f"the writer to get {more} more acknowledgements after {before}",
            lambda: self.acknowledged() >= before + more,
            timeout_seconds=timeout_seconds,
        )

    def stands_still(self, seconds: float = 1.5) -> bool:
        before = self.acknowledged()
        time.sleep(seconds)
        return self.acknowledged() == before

    def failed(self) -> bool:
        return any(line.startswith("error") for line in self.lines())

    def stop(self) -> None:
        self._kernels.sh(
            self._node,
            f"pid=$(cat {self.log}.pid); kill $pid 2>/dev/null || true; i=0\n"
            "while [ -e /proc/$pid ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done",
        )

    def wait_for_end(self, timeout_seconds: float = 20) -> None:
        status = f"/proc/$(cat {self.log}.pid)/status"
        script = f"[ ! -e {status} ] || grep -q zombie {status}"
        wait_until(
            "the writer to be gone",
            lambda: not self._kernels.exec(self._node, ["sh", "-c", script]).returncode,
            timeout_seconds=timeout_seconds,
        )

    CHECK = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
first, last, size = (int(word) for word in sys.argv[2:5])
# The number after the last may be written already, over the oldest, without having been told.
lost = [n for n in range(max(first, last + 2 - size // 4096), last + 1)
        if int.from_bytes(os.pread(fd, 8, n * 4096 % size), "little") != n]
print(len(lost), lost[:5])
"""

    def lost_at(self, node: Node, path: str, last: int) -> str:
        """How many of the acknowledged numbers are not in the image or device at ``path``."""
        argv = ["python3", "-c", self.CHECK, path, str(self._first), str(last), str(self._size)]
        return self._kernels.exec(node, argv).check().text.split()[0]
