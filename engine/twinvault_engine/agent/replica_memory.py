"""What the agent must not forget of a replica, on the node's own disk.

The kernel does not keep it: after a reboot an image that was detached by force looks like any
other, and its metadata does not know which writes it misses.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import durable
from ..steps import step


@dataclass(frozen=True)
class Remembered:
    """``disk_failed`` and ``detached`` as in ``ReplicationView``. ``snapshotted``: the own image
    was cloned since it diverged or fell behind. ``equal_epoch``: the last epoch in which both were
    seen in sync; what a person gave up before counts as done then. ``attached_boot``: the boot in
    which the image was last seen attached: only then a missing disk is one that failed.
    ``verify_...``: the comparison that was asked for last; without a result it has not ended.
    ``replica_uid``: of the VolumeReplica for which metadata was made or attached; another one's
    image is that of an earlier replica.
    """

    volume_uid: str
    disk_failed: bool = False
    detached: bool = False
    snapshotted: bool = False
    equal_epoch: int = 0
    attached_boot: str = ""
    verify_request: str = ""
    verify_result: str = ""
    verify_started: str = ""
    verify_ended: str = ""
    verify_different_bytes: int = 0
    verify_ranges: tuple[tuple[int, int], ...] = ()
    replica_uid: str = ""


class ReplicaMemory:
    """One small file a volume below ``directory``. Blocking; any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Remembered] = {}
        self._lock = threading.Lock()

    def recall(self, volume_id: str, volume_uid: str) -> Remembered:
        """A volume of another UID has nothing to remember. DataAtRiskError: unreadable file."""
        with self._lock:
            return self._recall(volume_id, volume_uid)

    def _recall(self, volume_id: str, volume_uid: str) -> Remembered:
        known = self._known.get(volume_id)
        if known is None:
            raw = durable.read_json(self._path(volume_id)) or {}
            fields = {name: raw[name] for name in asdict(Remembered("")) if name in raw}
            known = Remembered(**{"volume_uid": volume_uid, **fields})
        if known.volume_uid != volume_uid:
            known = Remembered(volume_uid)
        self._known[volume_id] = known
        return known

    def note(self, volume_id: str, volume_uid: str, **changes: Any) -> Remembered:
        """Durable on return; nothing is written when nothing changes."""
        with self._lock:
            before = self._recall(volume_id, volume_uid)
            after = replace(before, **changes)
            if after != before:
                step("note of the replica")
                durable.make_directory(self._directory)
                durable.write_json(self._path(volume_id), asdict(after))
                self._known[volume_id] = after
            return after

    def forget(self, volume_id: str) -> None:
        with self._lock:
            self._known.pop(volume_id, None)
            if self._path(volume_id).exists():
                durable.remove_file(self._path(volume_id))

    def _path(self, volume_id: str) -> Path:
        return self._directory / f"{volume_id}.json"
