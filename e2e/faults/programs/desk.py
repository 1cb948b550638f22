"""In a pod at each site: commits numbered rows in PostgreSQL, and tells each acknowledgement.

    desk.py HOST PORT

A number is never used for two rows, and each row carries the run of this program that wrote it: a
row that was acknowledged, lost and written again by a later run is told from the first one.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

import psycopg2  # type: ignore[import-untyped]

STREAM = "rows-" + os.environ["NODE"]
INTERVAL_SECONDS = 1 / float(os.environ.get("RATE", "20"))
RETRY_SECONDS = 0.1
# A commit that is not answered in time is asked for again on a new connection: the frozen one may
# be to a server that is gone.
CONNECT: dict[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 1,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 2000,
}
TABLE = (
    "CREATE TABLE IF NOT EXISTS acknowledged (stream text NOT NULL, number bigint NOT NULL,"
    " run bigint NOT NULL, PRIMARY KEY (stream, number))"
)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def connect(host: str, port: int) -> Any:
    # libpq waits two seconds at least for an address where nobody is; a look before costs nothing.
    socket.create_connection((host, port), 0.3).close()
    connection = psycopg2.connect(host=host, port=port, **CONNECT)
    connection.autocommit = True
    return connection


def begin(cursor: Any) -> int:
    """The next number that no row of this stream has."""
    cursor.execute("SELECT to_regclass('acknowledged') IS NULL")
    if cursor.fetchone()[0]:
        cursor.execute(TABLE)
    cursor.execute("SELECT coalesce(max(number), 0) FROM acknowledged WHERE stream = %s", (STREAM,))
    return int(cursor.fetchone()[0]) + 1


def commit(cursor: Any, number: int, run: int) -> None:
    """May be repeated after an answer that got lost: the row is this run's own then."""
    cursor.execute(
        "INSERT INTO acknowledged (stream, number, run) VALUES (%s, %s, %s)"
        " ON CONFLICT (stream, number) DO UPDATE SET run = excluded.run"
        " WHERE acknowledged.run = excluded.run",
        (STREAM, number, run),
    )
    if cursor.rowcount != 1:
        raise SystemExit(f"{STREAM} {number} is another run's: two desks count at {STREAM}")


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    observer = (os.environ["OBSERVER"], int(os.environ["OBSERVER_PORT"]))
    told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    run, number = time.time_ns(), 0
    while True:
        try:
            connection = connect(host, port)
            try:
                with connection.cursor() as cursor:
                    number = number or begin(cursor)
                    say(f"{STREAM} goes on with {number}")
                    while True:
                        begun = time.monotonic()
                        commit(cursor, number, run)
                        told.sendto(f"{STREAM} {run} {number}".encode(), observer)
                        number += 1
                        time.sleep(max(0.0, INTERVAL_SECONDS - (time.monotonic() - begun)))
            finally:
                connection.close()
        except (OSError, psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            say(f"waiting for the database: {' '.join(str(error).split())[:200]}")
            time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main()
