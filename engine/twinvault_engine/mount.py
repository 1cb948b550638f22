"""mount(2) and umount(2), called directly: no program to start, errors as numbers.

Nothing here ever removes files: a mount point is taken away with rmdir, which fails on anything
that is not empty.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from twinvault_core.errors import FailedPreconditionError, InUseError, InvalidError, TwinvaultError

from .mountinfo import find_mount
from .steps import step

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_RELATIME = 1 << 21
_UMOUNT_NOFOLLOW = 8

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_MOVE_FROM_EMPTY_PATH = 0x4
_MOVE_TO_SYMLINKS = 0x10

_FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": MS_NOSYMFOLLOW,
    "noatime": MS_NOATIME,
    "nodiratime": 2048,
    "relatime": MS_RELATIME,
    "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}
_ATTRIBUTES = {MS_RDONLY: 1, MS_NOSUID: 2, MS_NODEV: 4, MS_NOEXEC: 8, MS_NOSYMFOLLOW: 0x200000}
"""mount(2) flags that a bind may have of its own -> MOUNT_ATTR_ values."""
_IGNORED = frozenset(
    {"defaults", "rw", "suid", "dev", "exec", "async", "auto", "noauto", "user", "nouser"}
    | {"_netdev", "nofail", "atime", "diratime", "nostrictatime", "nolazytime"}
)
_REFUSED = frozenset({"bind", "rbind", "move", "remount", "loop", "shared", "slave", "private"})


def parse_options(options: Iterable[str]) -> tuple[int, str]:
    """Flags and data for mount(2) from mount(8)-style options.

    InvalidError for options that would change what is mounted instead of how.
    """
    flags, data = 0, []
    for option in (part for text in options for part in text.split(",") if part):
        if option.partition("=")[0] in _REFUSED:
            raise InvalidError(f"mount option {option!r} is not allowed; remove it from the class")
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option not in _IGNORED and not option.startswith("x-"):
            data.append(option)
    return flags, ",".join(data)


def _mount(source: str, target: str, fs_type: str | None, flags: int, data: str) -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fs_type.encode() if fs_type else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def mount_filesystem(source: str, target: str, fs_type: str, flags: int, data: str) -> None:
    """Mount the device ``source``. OSError as the kernel gave it: the caller knows what it means.

    ``target`` may be a path below /proc/self/fd, so that no symlink can be swapped in.
    """
    step(f"mount {fs_type}")
    _mount(source, target, fs_type, flags, data)


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def bind(source: str, target: str, *, flags: int = 0) -> None:
    """Bind ``source`` to ``target``; ``flags`` are the per-mount ones (read-only, nosuid, ...).

    The mount appears at ``target`` with its flags: nobody ever sees it without (Linux 5.12).
    """
    step("bind")
    try:
        tree = _call(_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
        try:
            wanted = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
            if wanted:
                attributes = _MountAttributes(attr_set=wanted)
                size = ctypes.sizeof(attributes)
                _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
            move = _MOVE_FROM_EMPTY_PATH | _MOVE_TO_SYMLINKS
            _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), move)
        finally:
            os.close(tree)
    except OSError as error:
        raise TwinvaultError(f"{source} cannot be bound to {target}: {error.strerror}") from error


def _call(number: int, *arguments: object) -> int:
    """A system call that libc has no name for."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *converted))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unmount(path: Path) -> bool:
    """Unmount what is mounted at ``path``; False when nothing was. InUseError says who holds it."""
    if find_mount(path) is None:
        return False
    step("unmount")
    if _libc.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EINVAL and find_mount(path) is None:
        return False
    if number == errno.EBUSY:
        raise InUseError(f"{path} is busy: {_describe_users(path)}; stop them and try again")
    raise TwinvaultError(f"{path} cannot be unmounted: {os.strerror(number)}")


def find_users(path: Path, limit: int = 5) -> list[str]:
    """Processes that have a file, a directory or their root below ``path``, as 'name (pid)'."""
    prefix = f"{path}/"
    users: list[str] = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or len(users) >= limit:
            continue
        try:
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            if any(_points_below(link, str(path), prefix) for link in links):
                users.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
        except OSError:
            continue
    return users


def _points_below(link: Path, path: str, prefix: str) -> bool:
    try:
        target = str(link.readlink())
    except OSError:
        return False
    return target == path or target.startswith(prefix)


def _describe_users(path: Path) -> str:
    users = find_users(path)
    if users:
        return "used by " + ", ".join(users)
    return "a process in another namespace, a mount below it or a swap file uses it"


def require_blank_mount_point(path: Path) -> None:
    """FailedPreconditionError when something that is not ours to hide lies at ``path``."""
    if any(path.iterdir()):
        raise FailedPreconditionError(
            f"{path} is not empty; files there would be hidden by the mount. Move them away"
        )
