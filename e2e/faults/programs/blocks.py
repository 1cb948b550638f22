"""In a pod with a raw volume: writes numbered blocks past every cache, tells each acknowledgement.

    blocks.py DEVICE                     write for ever
    blocks.py FILE --dump                print "NUMBER RUN" for each block that was ever written

Block i holds the highest number n with n % blocks == i, filled with (n, run): half a block of one
write and half of another is seen. ``run`` is this run of the program, so that a number that was
acknowledged, lost and written again later is told from the first one.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
import time

BLOCK_BYTES = 4096
BLOCKS = 8192
"""The part of the device that is used: the first 32 MiB, whatever it grows to."""
STREAM = os.environ.get("STREAM", "blocks")
INTERVAL_SECONDS = 1 / float(os.environ.get("RATE", "50"))
PAIR = struct.Struct("<QQ")
REPEATED = BLOCK_BYTES // PAIR.size


def read_block(fd: int, page: mmap.mmap, index: int) -> tuple[int, int]:
    """(number, run) of the block, (0, 0) when never written; SystemExit when it is torn."""
    if os.preadv(fd, [page], index * BLOCK_BYTES) != BLOCK_BYTES:
        raise SystemExit(f"block {index} is beyond the end")
    number, run = PAIR.unpack_from(page, 0)
    if page[:] != PAIR.pack(number, run) * REPEATED:
        raise SystemExit(f"block {index} is torn: begins with {number} of run {run}")
    return number, run


def find_next(fd: int, page: mmap.mmap) -> int:
    """The first number not yet written. Numbers rise by one around the ring, so the newest block
    is found by halving; 13 reads, not 8192, before the first write after a failover.
    """
    first = read_block(fd, page, 0)[0]
    low, high = 0, BLOCKS
    while high - low > 1:
        middle = (low + high) // 2
        if read_block(fd, page, middle)[0] == first + middle:
            low = middle
        else:
            high = middle
    return first + low + 1


def write(device: str) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, BLOCK_BYTES)
    observer = (os.environ["OBSERVER"], int(os.environ["OBSERVER_PORT"]))
    told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    run, number = time.time_ns(), find_next(fd, page)
    print(f"goes on with {number}", file=sys.stderr, flush=True)
    while True:
        begun = time.monotonic()
        page[:] = PAIR.pack(number, run) * REPEATED
        # An error here ends the program: a new one looks at the device before it writes.
        if os.pwritev(fd, [page], number % BLOCKS * BLOCK_BYTES) != BLOCK_BYTES:
            raise SystemExit(f"short write of {number}")
        os.fdatasync(fd)
        told.sendto(f"{STREAM} {run} {number}".encode(), observer)
        number += 1
        time.sleep(max(0.0, INTERVAL_SECONDS - (time.monotonic() - begun)))


def dump(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, BLOCK_BYTES)
    lines = []
    for index in range(BLOCKS):
        number, run = read_block(fd, page, index)
        if number:
            if number % BLOCKS != index:
                raise SystemExit(f"block {index} holds {number}")
            lines.append(f"{number} {run}")
    print("\n".join(lines))


if __name__ == "__main__":
    if sys.argv[2:] == ["--dump"]:
        dump(sys.argv[1])
    else:
        write(sys.argv[1])
