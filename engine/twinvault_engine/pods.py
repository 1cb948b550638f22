"""Which pods use a volume, by its mounts; and their end by SIGKILL, at once.

The kernel kills a whole control group (``cgroup.kill``), also one whose container runtime hangs. A
process that waits for I/O dies when that ends, before it sees how it ended.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

from twinvault_core.errors import DeadlineError, FailedPreconditionError

from .steps import step

CGROUP_ROOT = Path("/sys/fs/cgroup")
"""The host's; a container sees it only if it is mounted there."""
_POD_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DEEPEST = 4
_KILL_SECONDS = 2.0


def parse_pod_uids(paths: Iterable[str]) -> tuple[str, ...]:
    """UIDs of the pods in kubelet's paths: ``pods/UID/volumes/...`` for filesystems,
    ``volumeDevices/publish/VOLUME/UID`` for devices. Sorted.
    """
    found = {part for path in paths for part in path.split("/") if _POD_UID.fullmatch(part)}
    return tuple(sorted(found))


def find_cgroups(uid: str, root: Path = CGROUP_ROOT) -> tuple[Path, ...]:
    """The pod's control groups, by the names that either of kubelet's drivers gives them."""
    names = {f"pod{uid}", f"pod{uid.replace('-', '_')}.slice"}
    found: list[Path] = []
    level = [root]
    for _ in range(_DEEPEST):
        children = [child for parent in level for child in parent.iterdir() if child.is_dir()]
        found += [c for c in children if any(c.name.endswith(name) for name in names)]
        level = [c for c in children if c not in found]
    return tuple(found)


def kill_pods(uids: Iterable[str], root: Path = CGROUP_ROOT) -> None:
    """SIGKILL to every process of the pods; on return each has it, though it may still wait in the
    kernel. FailedPreconditionError when that cannot be known: the host's control groups are not
    visible. A pod without a group has no process left.
    """
    wanted = tuple(uids)
    if not wanted:
        return
    if not any((child / "cgroup.kill").exists() for child in root.iterdir() if child.is_dir()):
        raise FailedPreconditionError(
            f"{root} does not show the host's control groups (version 2), so the pods"
            f" {', '.join(wanted)} cannot be killed; mount the host's /sys/fs/cgroup there in the"
            " agent's pod"
        )
    for uid in wanted:
        for group in find_cgroups(uid, root):
            step("kill pod")
            (group / "cgroup.kill").write_text("1")
            _wait_until_killed(group)


def _wait_until_killed(group: Path) -> None:
    """Until nobody in the group could run another instruction of its program."""
    deadline = time.monotonic() + _KILL_SECONDS
    while True:
        pids = [p for file in group.rglob("cgroup.procs") for p in _read(file).split()]
        if all(_is_dying(Path("/proc") / pid) for pid in pids):
            return
        if time.monotonic() > deadline:
            raise DeadlineError(
                f"processes {', '.join(pids[:5])} of {group.name} do not take SIGKILL after"
                f" {_KILL_SECONDS:g} s; see /proc/PID/stack of one"
            )
        time.sleep(0.01)


def _is_dying(process: Path) -> bool:
    """Gone, a zombie, or with SIGKILL pending. One of another pid namespace (0) counts as dying:
    cgroup.kill has signalled it before it returned.
    """
    status = _read(process / "status")
    if not status or process.name == "0":
        return True
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    return fields.get("State", "Z")[:1] in "ZX" or bool(pending >> 8 & 1)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
