"""Copies of an image from before something is written over it, kept until they are not needed.

``resync-HASH-N`` is taken before a resync writes over a replica that fell behind: while it is a
target it holds no usable state, and a second fault would leave nothing here. It goes when both are
in sync again. ``diverged-HASH`` is the last copy of writes that a person may give up: it goes only
when a person lists it in ``spec.eraseOrphans``. Reflinks: they cost what changes afterwards.
"""

from __future__ import annotations

import hashlib
import logging
import threading

from twinvault_core.ids import resync_copy_prefix

from ..facts import SnapshotFacts
from ..steps import step
from .storage import Storage

logger = logging.getLogger(__name__)

KEPT = 2
"""Copies of one volume; the oldest goes first."""


def _digest(volume_id: str) -> str:
    return hashlib.sha256(volume_id.encode()).hexdigest()[:20]


def diverged_name(volume_id: str) -> str:
    return f"diverged-{_digest(volume_id)}"


def is_resync_clone(facts: SnapshotFacts) -> bool:
    """Whether it is one that goes by itself."""
    return facts.snapshot_id.startswith(resync_copy_prefix(facts.volume_id))


class SafetyClones:
    """Blocking; any thread. One call for a volume at a time is made sure of here."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def _held(self, volume_id: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(volume_id, threading.Lock())

    def take(self, pool: str, volume_id: str, volume_uid: str) -> None:
        """Copy the image as it is; on return the copy is durable."""
        with self._held(volume_id):
            known = self._find(pool, volume_id)
            if len(known) >= KEPT:
                oldest = min(known, key=lambda facts: (facts.ready, facts.creation_time))
                self._storage.erase_snapshot(pool, oldest.snapshot_id)
                known = [facts for facts in known if facts is not oldest]
            used = {facts.snapshot_id for facts in known if facts.ready}
            names = [f"{resync_copy_prefix(volume_id)}{number}" for number in range(KEPT)]
            name = next(name for name in names if name not in used)
            step("clone before resync")
            self._storage.ensure_snapshot(pool, name, volume_id, volume_uid, quiesced=True)
            logger.info("image of %s copied to %s before it is written over", volume_id, name)

    def take_diverged(self, pool: str, volume_id: str, volume_uid: str) -> None:
        """Copy writes that the other replica lacks; kept until a person lists the copy."""
        with self._held(volume_id):
            step("clone diverged")
            name = diverged_name(volume_id)
            self._storage.ensure_snapshot(pool, name, volume_id, volume_uid, quiesced=True)

    def drop(self, pool: str, volume_id: str) -> None:
        """The copies that are not needed any more."""
        with self._held(volume_id):
            for facts in self._find(pool, volume_id):
                step("drop clone")
                self._storage.erase_snapshot(pool, facts.snapshot_id)

    def _find(self, pool: str, volume_id: str) -> list[SnapshotFacts]:
        held = self._storage.list_snapshots(pool)
        return [f for f in held if f.volume_id == volume_id and is_resync_clone(f)]
