"""Paths that a caller gives us: below the kubelet's directory, without '..' and symlinks.

A path is walked component by component with O_NOFOLLOW; the descriptor it ends in is what gets
mounted on, so that nobody can swap a component in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from twinvault_core.errors import FailedPreconditionError, InvalidError

_DIRECTORY_MODE = 0o750
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def parse_below(root: Path, text: str, what: str) -> Path:
    """The path if it lies below ``root`` and is spelled plainly; InvalidError otherwise."""
    if not text or "\0" in text:
        raise InvalidError(f"{what} is empty or holds a NUL byte")
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts:
        raise InvalidError(f"{what} {text!r} must be absolute and without '..'")
    if len(os.fsencode(text)) >= 4096:
        raise InvalidError(f"{what} is longer than a path can be")
    try:
        relative = path.relative_to(root)
    except ValueError:
        relative = PurePosixPath()
    if not relative.parts:
        raise InvalidError(f"{what} {text!r} does not lie below {root}; only the kubelet's may")
    return Path(root, *relative.parts)


@contextmanager
def opened(root: Path, path: Path, *, create: str = "") -> Iterator[str]:
    """A name for ``path`` that cannot be redirected, valid inside the block.

    ``create``: '' or what to make when it is missing, 'directory' or 'file'; missing parents are
    made too. FileNotFoundError when it is missing and not to be made. InvalidError for a symlink.
    """
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = path.relative_to(root).parts
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            kind = create if last else ("directory" if create else "")
            inner = _open_part(fd, part, kind, path)
            os.close(fd)
            fd = inner
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _open_part(parent: int, part: str, create: str, path: Path) -> int:
    if create == "directory":
        with suppress(FileExistsError):
            os.mkdir(part, _DIRECTORY_MODE, dir_fd=parent)
    elif create == "file":
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_EXCL
        with suppress(FileExistsError):
            os.close(os.open(part, flags, 0o640, dir_fd=parent))
    fd = os.open(part, _WALK, dir_fd=parent)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidError(f"{path} goes through the symlink {part!r}; nothing was mounted")
    return fd


def remove_mount_point(path: Path) -> None:
    """Remove an empty directory or an empty file; nothing to do when it is not there.

    FailedPreconditionError when there is something in it: it is never emptied.
    """
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if path.is_symlink() or path.lstat().st_size:
            raise FailedPreconditionError(f"{path} is not an empty file; it was left") from None
        path.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise FailedPreconditionError(
            f"{path} is not empty although nothing is mounted there; it was left. Move its files"
            " away"
        ) from error
