"""What a volume leaves behind in the lab: objects, numbers, devices, mounts, marks and files.

A thing is told by the volume it belongs to, never by a device number or a pod's path: both
change when a node starts again, and a volume that was there before is then no leftover.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from e2e.deploy import NAMESPACE, wait_seen
from e2e.lab.api import Lab
from e2e.lab.command import CommandError

_OBJECTS = "volumes.twinvault.io,volumereplicas.twinvault.io,snapshots.twinvault.io"
_SCRIPT = r"""
losetup --noheadings --raw --output NAME,BACK-FILE | sed 's/^/loop /'
findmnt --raw --noheadings --output TARGET,SOURCE | grep -E 'csi.twinvault.io|kubernetes.io~csi' \
  | sed 's/^/mount /' || true
find /var/lib/twinvault/pools -mindepth 3 -maxdepth 3 2>/dev/null | sed 's/^/file /' || true
find /var/lib/twinvault/records/drbd /var/lib/twinvault/fence/ours -type f 2>/dev/null \
  | sed -n 's|^.*/records/drbd/\(.*\)\.res$|resource \1 -|p; s|^.*/fence/ours/|mark |p' || true
sed -n 's/^ *\([0-9][0-9]*\): cs:.*/drbd \1 -/p' /proc/drbd 2>/dev/null || true
"""
_VOLUME = re.compile(r"/volumes/([^/]+)/")
_CLAIMS = re.compile(r"^drbd-\d+$")
_CLAIM_VOLUME = "twinvault.io/volume"
_POD_VOLUME = re.compile(r"/kubernetes\.io~csi/([^/]+)/")


def node_things(
    lines: Iterable[str], volume_of_minor: Mapping[str, str] | None = None
) -> frozenset[str]:
    """``loop of pvc-1``, ``mount of pvc-1``; what has no volume by its own name. A device or mark
    that goes by its minor is told by ``volume_of_minor``, as the objects have it.
    """
    minors = volume_of_minor or {}
    cut = [line.split(maxsplit=2) for line in lines if line.strip()]
    volume_of: dict[str, str] = {}
    for words in cut:
        if words[0] == "loop" and (match := _VOLUME.search(words[-1])):
            volume_of[words[1]] = match[1]
    found: set[str] = set()
    for words in cut:
        kind, name, source = words[0], words[1], words[-1]
        if kind in ("drbd", "mark", "resource"):
            minor = name if kind == "drbd" else name.removeprefix("minor-")
            found.add(f"{kind} of {minors.get(minor) or name.removeprefix('tv-')}")
            continue
        match = _POD_VOLUME.search(name) if kind == "mount" else None
        volume = match[1] if match else volume_of.get(source if kind == "mount" else name)
        found.add(f"{kind} of {volume}" if volume else f"{kind} {name}")
    return frozenset(found)


def find_leftovers(lab: Lab) -> frozenset[str]:
    """One line a thing; things of volumes that are in use now are among them."""
    found: set[str] = set()
    objects: dict[str, Any] = json.loads(lab.kubectl("get", _OBJECTS, "-o", "json"))
    found.update(f"{o['kind']} {o['metadata']['name']}" for o in objects["items"])
    volumes = json.loads(
        lab.kubectl("get", "persistentvolumes,volumeattachments.storage.k8s.io", "-o", "json")
    )
    for item in volumes["items"]:
        source = item["spec"].get("source", {}).get("persistentVolumeName")
        found.add(f"{item['kind']} {source or item['metadata']['name']}")
    found.update(_find_claims(lab))
    found.update(_find_contents(lab))
    minors = {
        str(device["minor"]): o["metadata"]["name"]
        for o in objects["items"]
        if (device := o.get("status", {}).get("replicationDevice"))
    }
    for node in lab.nodes:
        lines = node.exec("sh", "-c", _SCRIPT).check().text.splitlines()
        found.update(f"{node.name} {thing}" for thing in node_things(lines, minors))
    return frozenset(found)


def _find_claims(lab: Lab) -> Iterable[str]:
    """The DRBD numbers that are claimed, each by the volume that has it."""
    leases = json.loads(lab.kubectl("-n", NAMESPACE, "get", "leases", "-o", "json"))
    for lease in leases["items"]:
        meta = lease["metadata"]
        if _CLAIMS.match(meta["name"]):
            volume = (meta.get("annotations") or {}).get(_CLAIM_VOLUME)
            yield f"number of {volume or meta['name']}"


def _find_contents(lab: Lab) -> Iterable[str]:
    """VolumeSnapshotContents; their names have the uid of the VolumeSnapshot."""
    words = ("volumesnapshotcontents.snapshot.storage.k8s.io", "-o", "json")
    try:
        contents = json.loads(lab.kubectl("get", *words))
    except CommandError as error:
        if "the server doesn't have a resource type" in error.output:
            return
        raise
    yield from (f"{o['kind']} {o['metadata']['name']}" for o in contents["items"])


def wait_no_leftovers(lab: Lab, before: frozenset[str], timeout_seconds: float = 90) -> None:
    """Until nothing is there that was not there before."""

    def probe() -> tuple[bool, str]:
        extra = sorted(find_leftovers(lab) - before)
        return not extra, "\n".join(extra)

    wait_seen("everything of the test to be gone", probe, timeout_seconds=timeout_seconds)
