"""Makes and removes the bare DRBD resource on one node. Runs inside the node.

    python3 -m bench.bare_inside up VOLUME [FENCING]     # as the replica of VOLUME here is
    python3 -m bench.bare_inside down

Images, loop devices and metadata are made by the engine's own functions, in the same pool and of
the same size, so that what differs from a volume is only who manages it. Nothing of it is left
after ``down``, which may be repeated and comes first in ``up``.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from bench.bare_config import MINOR, RESOURCE, plan_config
from twinvault_engine import drbd, drbd_kernel, durable, image, loop, runner
from twinvault_engine.journal import DATA_FILE, META_FILE
from twinvault_engine.layout import DataDirectory

DATA = DataDirectory(Path("/var/lib/twinvault"))
CONFIG = Path(f"/etc/drbd.d/{RESOURCE}.res")
"""Where drbdadm finds it by itself: the kernel calls it before each resync of what is not ours, and
a resource that it does not know would end the connection.
"""
# Where drbdadm notes which file a resource came from.
_REGISTERED = tuple(
    Path(directory) / name
    for directory in ("/var/lib/drbd", "/run/drbd")
    for name in (f"drbd-minor-{MINOR}.conf", f"drbd-resource-{RESOURCE}.conf")
)
_FILES = (DATA_FILE, META_FILE)
_SHORT_SECONDS, _LONG_SECONDS = 10.0, 60.0
_CLOSE_SECONDS = 45.0
"""A load that was left behind by an interrupted run ends within this."""


def up(volume: str, fencing: str) -> None:
    down()
    replica = find_replica(volume)
    directory = replica.parents[1] / RESOURCE
    directory.mkdir()
    devices = {name: make_device(replica / name, directory / name) for name in _FILES}
    version = drbd_kernel.ensure_module()
    handle = drbd.Handle(volume_id=RESOURCE, minor=MINOR, node_id=0, version=version, file=CONFIG)
    drbd.make_metadata(handle, devices[META_FILE])
    durable.fsync_file(Path(devices[META_FILE]))
    agents = (DATA.drbd / f"{volume}.res").read_text()
    CONFIG.write_text(plan_config(agents, devices[DATA_FILE], devices[META_FILE], fencing))
    argv = ["drbdadm", "-c", str(CONFIG), "adjust", RESOURCE]
    runner.run(argv, timeout_seconds=_LONG_SECONDS)


def find_replica(volume: str) -> Path:
    """Directory of the volume's replica on this node; SystemExit when there is none."""
    found = list(DATA.pools.glob(f"*/volumes/{volume}"))
    if len(found) != 1 or not (found[0] / META_FILE).exists():
        raise SystemExit(f"this node has no replica of volume {volume} with DRBD metadata")
    return found[0]


def make_device(like: Path, path: Path) -> str:
    """A blank image of the same size on a loop device; the device's path."""
    image.make_blank(path, like.stat().st_size)
    return loop.attach(path).path


def down() -> None:
    if drbd_kernel.observe_version() and drbd.observe(RESOURCE) is not None:
        # What is frozen cannot be closed; nobody needs these writes.
        with suppress(runner.CommandError):
            _setup("resume-io", str(MINOR))
        _demote()
        _setup("down", RESOURCE)
    for directory in DATA.pools.glob(f"*/{RESOURCE}"):
        for name in _FILES:
            device = loop.find_device(directory / name)
            if device is not None:
                loop.detach(device)
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
    for path in (CONFIG, *_REGISTERED):
        path.unlink(missing_ok=True)


def _demote() -> None:
    deadline = time.monotonic() + _CLOSE_SECONDS
    while True:
        try:
            _setup("secondary", str(MINOR))
        except runner.CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _setup(*words: str) -> None:
    runner.run(["drbdsetup", *words], timeout_seconds=_SHORT_SECONDS)


def main(words: list[str]) -> None:
    if words == ["down"]:
        down()
    elif words[:1] == ["up"] and len(words) in (2, 3):
        up(words[1], "".join(words[2:]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
