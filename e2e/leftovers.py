"""What a volume leaves behind in the lab: objects, loop devices, mounts and files."""

from __future__ import annotations

import json
from typing import Any

from e2e.deploy import wait_seen
from e2e.lab.api import Lab

_OBJECTS = "volumes.twinvault.io,volumereplicas.twinvault.io,snapshots.twinvault.io"
_SCRIPT = r"""
losetup --noheadings --raw --output NAME,BACK-FILE | sed 's/^/loop /'
findmnt --raw --noheadings --output TARGET | grep -E 'csi.twinvault.io|kubernetes.io~csi' \
  | sed 's/^/mount /' || true
find /var/lib/twinvault/pools -mindepth 3 -maxdepth 3 2>/dev/null | sed 's/^/file /' || true
"""


def find_leftovers(lab: Lab) -> frozenset[str]:
    """One line a thing; things of volumes that are in use now are among them."""
    found: set[str] = set()
    objects: dict[str, Any] = json.loads(lab.kubectl("get", _OBJECTS, "-o", "json"))
    found.update(f"{o['kind']} {o['metadata']['name']}" for o in objects["items"])
    volumes = json.loads(lab.kubectl("get", "persistentvolumes,volumeattachments", "-o", "json"))
    found.update(f"{o['kind']} {o['metadata']['name']}" for o in volumes["items"])
    for node in lab.nodes:
        lines = node.exec("sh", "-c", _SCRIPT).check().text.splitlines()
        found.update(f"{node.name} {line}" for line in lines if line.strip())
    return frozenset(found)


def wait_no_leftovers(lab: Lab, before: frozenset[str], timeout_seconds: float = 90) -> None:
    """Until nothing is there that was not there before."""

    def probe() -> tuple[bool, str]:
        extra = sorted(find_leftovers(lab) - before)
        return not extra, "\n".join(extra)

    wait_seen("everything of the test to be gone", probe, timeout_seconds=timeout_seconds)
