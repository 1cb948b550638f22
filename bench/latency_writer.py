"""Writes 4 KiB at random places of a part of a device, one at a time, each synced, and prints when
each began and how long it took. Runs alone inside a node, from standard input:

    python3 - DEVICE OFFSET_BYTES SIZE_BYTES SECONDS STOP_FILE

It ends after SECONDS, or as soon as STOP_FILE is there.
"""

from __future__ import annotations

import mmap
import os
import random
import sys
import time

BLOCK_BYTES = 4096
INTERVAL_SECONDS = 0.005


def main(device: str, offset: int, size: int, seconds: float, stop: str) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    page = mmap.mmap(-1, BLOCK_BYTES)
    told = []
    end = time.monotonic() + seconds
    while time.monotonic() < end and not os.path.exists(stop):  # noqa: PTH110
        page[:] = os.urandom(BLOCK_BYTES)
        place = offset + random.randrange(size // BLOCK_BYTES) * BLOCK_BYTES
        at, begun = time.time(), time.monotonic()
        os.pwritev(fd, [page], place)
        told.append(f"{at:.6f} {time.monotonic() - begun:.6f}")
        time.sleep(INTERVAL_SECONDS)
    print("\n".join(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
