"""What the kernel's log says of differing blocks: DRBD tells how many differ, and only there where.

The log is a ring: what is old is gone, and a container without /dev/kmsg sees nothing. So an empty
answer proves nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

KMSG = Path("/dev/kmsg")
SECTOR_BYTES = 512
_RECORD_BYTES = 8192
_DIFFERS = re.compile(r"\bdrbd(\d+)\b.*?: Out of sync: start=(\d+), size=(\d+) \(sectors\)")


def parse_differing(records: str, minor: int, since_seconds: float) -> tuple[tuple[int, int], ...]:
    """(offset, length) in bytes of each place that a verify of ``minor`` logged, in order.

    ``records`` are lines as /dev/kmsg has them: ``priority,number,microseconds,flags;text``.
    ``since_seconds``: those of before do not count; of the clock that kmsg and CLOCK_MONOTONIC use.
    """
    found: dict[tuple[int, int], None] = {}
    for line in records.splitlines():
        head, _, text = line.partition(";")
        fields = head.split(",")
        if len(fields) < 3 or not fields[2].isdigit():
            continue
        told = _DIFFERS.search(text)
        if told is None or int(told[1]) != minor or int(fields[2]) < since_seconds * 1_000_000:
            continue
        found[(int(told[2]) * SECTOR_BYTES, int(told[3]) * SECTOR_BYTES)] = None
    return tuple(sorted(found))


def observe_differing(
    minor: int, since_seconds: float, path: Path = KMSG
) -> tuple[tuple[int, int], ...]:
    """As ``parse_differing``, from the log as it is now; empty when it cannot be read."""
    try:
        return parse_differing(_read(path), minor, since_seconds)
    except OSError:
        return ()


def _read(path: Path) -> str:
    """Everything that is in the ring, without waiting for more."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    parts: list[bytes] = []
    try:
        while True:
            try:
                part = os.read(handle, _RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # what was to be read next has been overwritten meanwhile
            if not part:
                break
            parts.append(part if part.endswith(b"\n") else part + b"\n")
    finally:
        os.close(handle)
    return b"".join(parts).decode("utf-8", "replace")
