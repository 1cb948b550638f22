"""What is mounted in this mount namespace, parsed from /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo; ``root`` is the part of the filesystem that is seen at ``path``."""

    mount_id: int
    parent_id: int
    major_minor: str
    root: str
    path: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


def _unescape(text: str) -> str:
    raw = _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)
    return raw.encode("latin-1", "surrogateescape").decode("utf-8", "surrogateescape")


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Mounts in the kernel's order; lines of another shape are skipped."""
    mounts = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        head, tail = left.split(" "), right.split(" ")
        if not separator or len(head) < 6 or len(tail) < 3:
            continue
        mounts.append(
            Mount(
                mount_id=int(head[0]),
                parent_id=int(head[1]),
                major_minor=head[2],
                root=_unescape(head[3]),
                path=_unescape(head[4]),
                options=frozenset(head[5].split(",")),
                fs_type=tail[0],
                source=_unescape(tail[1]),
                super_options=frozenset(tail[2].split(",")),
            )
        )
    return tuple(mounts)


def observe_mounts() -> tuple[Mount, ...]:
    # latin-1 keeps bytes as they are; _unescape turns them into paths as Python spells them.
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text("latin-1"))


def find_mount(path: Path, mounts: tuple[Mount, ...] | None = None) -> Mount | None:
    """The topmost mount exactly at ``path``, or None."""
    found = None
    for mount in observe_mounts() if mounts is None else mounts:
        if mount.path == str(path):
            found = mount
    return found


def mounts_of_device(
    major_minor: str, mounts: tuple[Mount, ...] | None = None
) -> tuple[Mount, ...]:
    """Every mount of the filesystem on that device."""
    known = observe_mounts() if mounts is None else mounts
    return tuple(mount for mount in known if mount.major_minor == major_minor)
