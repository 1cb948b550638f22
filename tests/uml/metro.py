"""A replicated volume on two kernels, and the words in which tests speak of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

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
        self.east, self.west = (Driver(kernels, node) for node in BOTH)
        for driver in self.both:
            driver.call("pool", device="/dev/ubdb")
            driver.call("serve")

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
        self, kernels: Kernels, node: Node, device: str, size_bytes: int, first: int = 0
    ) -> None:
        self._kernels, self._node = kernels, node
        self._size, self._first = size_bytes, first
        self.log = f"/root/acknowledged-{first}"
        self._number = first
        script = f"cat > /root/writer.py <<'END'\n{self.SCRIPT}\nEND\n"
        arguments = f"{device} {self.log} {first} {size_bytes}"
        kernels.sh(
            node,
            f"{script}rm -f {self.log}; touch {self.log}\n"
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
            f"kill $(cat {self.log}.pid) 2>/dev/null; i=0; while [ -e /proc/$(cat {self.log}.pid) ]"
            " && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done",
        )

    CHECK = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
first, last, size = (int(word) for word in sys.argv[2:5])
lost = [n for n in range(max(first, last + 1 - size // 4096), last + 1)
        if int.from_bytes(os.pread(fd, 8, n * 4096 % size), "little") != n]
print(len(lost), lost[:5])
"""

    def lost_at(self, node: Node, path: str, last: int) -> str:
        """How many of the acknowledged numbers are not in the image or device at ``path``."""
        argv = ["python3", "-c", self.CHECK, path, str(self._first), str(last), str(self._size)]
        return self._kernels.exec(node, argv).check().text.split()[0]
