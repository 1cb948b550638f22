"""The one place that writes files which must survive a power cut.

A file is either its old self or its new self: temporary file, fsync, rename, fsync of the
directory. The temporary name is fixed, so that a crash leaves at most one, which the next write
replaces.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from twinvault_core.errors import DataAtRiskError, NoSpaceError

from .steps import step

TEMPORARY_SUFFIX = ".tmp"


def fsync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Create ``path`` (its parent exists) durably; nothing to do when it is there."""
    with suppress(FileExistsError):
        path.mkdir(mode)
        fsync_directory(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put ``value`` at ``path``; after a crash there is the old or the new one, never a mix."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    data = json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"
    step(f"write {temporary.name}")
    try:
        _write(temporary, data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with suppress(OSError):
            temporary.unlink()
        raise NoSpaceError(
            f"no space for {path.name} in {path.parent}; delete snapshots or volumes of that pool"
        ) from error
    step(f"rename {temporary.name}")
    temporary.rename(path)
    step(f"fsync directory of {path.name}")
    fsync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` at ``path``; after a crash there is the old or the new one, never a mix."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes, mode: int = 0o600) -> None:
    """As ``write_text``; the file gets ``mode`` before it gets its name."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    _write(temporary, data, mode)
    temporary.rename(path)
    fsync_directory(path.parent)


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object at ``path``, None when there is no such file.

    DataAtRiskError when it is not a JSON object: such a file was damaged by somebody else.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataAtRiskError(
            f"{path} is damaged ({error}); nothing was touched. Restore the file from a backup, or"
            f" move {path.parent} away if its data is not needed"
        ) from error
    if not isinstance(value, dict):
        raise DataAtRiskError(f"{path} holds no JSON object; nothing was touched. Look at the file")
    return value


def remove_file(path: Path) -> None:
    """Remove ``path`` durably; nothing to do when it is not there."""
    with suppress(FileNotFoundError):
        path.unlink()
    fsync_directory(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename durably, within one filesystem; ``target`` must not exist as a file."""
    source.rename(target)
    fsync_directory(target.parent)
    if source.parent != target.parent:
        fsync_directory(source.parent)
