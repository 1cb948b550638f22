"""Delete a volume's or snapshot's directory so that a crash at any line leaves no riddle.

1. the journal says ``deleted``  2. the directory is renamed into trash/  3. its known files go,
the journal last  4. the directory goes with rmdir. The sweep finishes 2 to 4 for whatever carries
a journal that says ``deleted``, and touches nothing else.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twinvault_core.errors import DataAtRiskError, TwinvaultError

from . import durable, journal
from .layout import PoolDirectory
from .steps import step

_JOURNALS = (journal.VOLUME_FILE, journal.SNAPSHOT_FILE)
_CONTENT = (
    journal.DATA_FILE,
    journal.META_FILE,
    journal.REPLICATION_FILE,
    f"{journal.REPLICATION_FILE}{durable.TEMPORARY_SUFFIX}",
)


def discard(pool: PoolDirectory, directory: Path) -> None:
    """Delete a directory whose journal already says ``deleted``."""
    entry = pool.trash / f"{directory.parent.name}-{directory.name}-{uuid.uuid4().hex[:8]}"
    step("move to trash")
    durable.rename(directory, entry)
    _purge(entry)


def _purge(entry: Path) -> None:
    for name in (*_CONTENT, *(f"{j}{durable.TEMPORARY_SUFFIX}" for j in _JOURNALS), *_JOURNALS):
        step(f"unlink {name}")
        with suppress(FileNotFoundError):
            (entry / name).unlink()
            durable.fsync_directory(entry)
    step("remove directory")
    try:
        entry.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataAtRiskError(
            f"{entry} holds files that this program did not make; it was left. Look at it"
        ) from error
    durable.fsync_directory(entry.parent)


def _says_deleted(directory: Path) -> bool:
    for load in (journal.load_volume, journal.load_snapshot):
        with suppress(DataAtRiskError):
            record = load(directory)
            if record is not None:
                return record.deleted
    return False


def _is_empty_leftover(directory: Path) -> bool:
    return any(journal.is_vacant(directory, name) for name in _JOURNALS)


def sweep(pool: PoolDirectory) -> tuple[list[str], list[str]]:
    """Finish deletions and unborn creations: (what went, what was left alone and why)."""
    swept: list[str] = []
    left: list[str] = []
    for entry in sorted(pool.trash.iterdir()):
        if _says_deleted(entry) or _is_empty_leftover(entry):
            _attempt(entry, swept, left, _purge)
        else:
            left.append(f"{entry}: no journal there says that it was deleted")
    for parent in (pool.volumes, pool.snapshots):
        for entry in sorted(parent.iterdir()):
            if _says_deleted(entry):
                _attempt(entry, swept, left, lambda path: discard(pool, path))
            elif _is_empty_leftover(entry):
                _attempt(entry, swept, left, _purge)
    return swept, left


def _attempt(
    entry: Path, swept: list[str], left: list[str], action: Callable[[Path], None]
) -> None:
    try:
        action(entry)
        swept.append(str(entry))
    except (TwinvaultError, OSError) as error:
        left.append(f"{entry}: {error}")
