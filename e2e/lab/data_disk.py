"""The data disk of a node as its kernel sees it: a mapping that can be told to fail.

init.sh puts it over ubdb, one MiB in: what lies on it carries its signature there alone, and
nobody takes the disk below for a second copy of it.
"""

from __future__ import annotations

from e2e.lab import exec_channel
from e2e.lab.config import Node

DEVICE = "/dev/dm-0"
_NAME = "data"
_DISK = "/dev/ubdb"
_OFFSET_SECTORS = 2048
_TIMEOUT_SECONDS = 20.0


def plan_table(*, failing: bool) -> str:
    """Shell words for a device mapper table; ``$sectors`` is the size of the mapping."""
    if failing:
        # Up for 0 seconds, down for 1, and so for ever: every read and write is an error.
        return f"0 $sectors flakey {_DISK} {_OFFSET_SECTORS} 0 1"
    return f"0 $sectors linear {_DISK} {_OFFSET_SECTORS}"


def plan_load(*, failing: bool) -> str:
    """Shell lines that change the mapping under whatever uses it. May be repeated."""
    return "\n".join(
        (
            f"sectors=$(($(blockdev --getsz {_DISK}) - {_OFFSET_SECTORS}))",
            f'dmsetup load {_NAME} --table "{plan_table(failing=failing)}"',
            # Without a flush: a disk that fails is not flushed before.
            f"dmsetup suspend --noflush --nolockfs {_NAME}",
            f"dmsetup resume {_NAME}",
        )
    )


def apply(node: Node, *, failing: bool) -> None:
    """Make every read and write of the disk fail, or work again. A boot mends it too."""
    script = plan_load(failing=failing)
    if not failing:
        script = f"dmsetup table {_NAME} | grep -q flakey || exit 0\n{script}"
    exec_channel.run_in_node(node, ["sh", "-ec", script], timeout_seconds=_TIMEOUT_SECONDS).check()
