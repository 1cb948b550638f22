"""Registers numbered patients, one transaction each, and checks afterwards that none is missing.

    register-patients --desk east --rate 5    prints "acknowledged N" after each commit
    check-patients --desk east < FILE         asks for every number that FILE holds

The database is found by libpq's environment: PGHOST, PGUSER, PGPASSWORD, PGDATABASE.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import psycopg2

RETRY_SECONDS = 0.5
# A server that lost its power is noticed after three seconds, not after the kernel's fifteen
# minutes: the desk then asks again.
CONNECT_OPTIONS = {
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 3000,
    "application_name": "registration",
}
_FIRST = ("Ada", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hans", "Ida", "Jonas")
_LAST = ("Adler", "Berger", "Clemens", "Dorn", "Eder", "Fuchs", "Gruber", "Huber", "Ilg", "Jung")
_WARDS = ("Surgery", "Cardiology", "Neurology", "Paediatrics", "Radiology")
_REASONS = ("check-up", "fever", "fracture", "follow-up", "chest pain")


def make_patient(desk: str, number: int) -> tuple[str, datetime.date, str, str]:
    """Name, birthday, ward and reason; the same every time, so that a row can be checked."""
    digest = hashlib.sha256(f"{desk}/{number}".encode()).digest()
    name = f"{_FIRST[digest[0] % 10]} {_LAST[digest[1] % 10]} {digest[2:5].hex()}"
    born = datetime.date(1930, 1, 1) + datetime.timedelta(days=(digest[5] << 8 | digest[6]) % 33000)
    return name, born, _WARDS[digest[7] % 5], _REASONS[digest[8] % 5]


def observe_last(cursor: Any, desk: str) -> int:
    """The desk's highest number so far, 0 if it has none."""
    cursor.execute("SELECT coalesce(max(number), 0) FROM patients WHERE desk = %s", (desk,))
    return int(cursor.fetchone()[0])


def apply_registration(connection: Any, desk: str, number: int) -> None:
    """Commit the patient and a first visit. May be repeated after an answer that got lost:

    1. the commit reached the server's disk, the answer did not reach us;
    2. the second try finds the row and adds nothing;
    3. its commit is answered, and the number counts as acknowledged.
    """
    name, born, ward, reason = make_patient(desk, number)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO patients (desk, number, name, born) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            (desk, number, name, born),
        )
        if cursor.rowcount == 1:
            cursor.execute(
                "INSERT INTO visits (desk, number, ward, reason) VALUES (%s, %s, %s, %s)",
                (desk, number, ward, reason),
            )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())


def register() -> int:
    """Until killed, or until ``--count`` patients were acknowledged; outages are waited out."""
    parser = argparse.ArgumentParser(description=register.__doc__)
    parser.add_argument("--desk", default=os.environ.get("DESK", "desk"), help="who counts")
    parser.add_argument("--rate", type=float, default=5.0, help="patients a second; 0: no pause")
    parser.add_argument("--count", type=int, default=0, help="how many; 0: for ever")
    options = parser.parse_args()
    number, done = 0, 0
    while True:
        try:
            connection = psycopg2.connect(**CONNECT_OPTIONS)
            try:
                if number == 0:
                    with connection, connection.cursor() as cursor:
                        number = observe_last(cursor, options.desk) + 1
                    say(f"desk {options.desk} begins with number {number}")
                while not options.count or done < options.count:
                    begun = time.monotonic()
                    apply_registration(connection, options.desk, number)
                    print(f"acknowledged {number}", flush=True)
                    number, done = number + 1, done + 1
                    if options.rate > 0:
                        time.sleep(max(0.0, 1 / options.rate - (time.monotonic() - begun)))
                return 0
            finally:
                connection.close()
        except psycopg2.OperationalError as error:
            say(f"waiting for the database: {_short(error)}")
            time.sleep(RETRY_SECONDS)
        except psycopg2.InterfaceError as error:
            say(f"connection lost: {_short(error)}")
            time.sleep(RETRY_SECONDS)


def parse_numbers(lines: Iterable[str]) -> list[int]:
    """Numbers of all lines "acknowledged N"; other lines are log and skipped."""
    words = (line.split() for line in lines)
    return [int(w[1]) for w in words if len(w) == 2 and w[0] == "acknowledged"]


def check() -> int:
    """Ask for every acknowledged number one by one; exit 1 and name those missing or changed."""
    parser = argparse.ArgumentParser(description=check.__doc__)
    parser.add_argument("--desk", default=os.environ.get("DESK", "desk"), help="who counted")
    options = parser.parse_args()
    numbers = parse_numbers(sys.stdin)
    missing, changed = [], []
    connection = psycopg2.connect(**CONNECT_OPTIONS)
    with connection, connection.cursor() as cursor:
        for number in numbers:
            cursor.execute(
                "SELECT p.name, p.born, v.ward, v.reason FROM patients p JOIN visits v"
                " USING (desk, number) WHERE p.desk = %s AND p.number = %s",
                (options.desk, number),
            )
            rows = cursor.fetchall()
            if not rows:
                missing.append(number)
            elif rows != [make_patient(options.desk, number)]:
                changed.append(number)
    connection.close()
    print(f"checked {len(numbers)}, missing {len(missing)}, changed {len(changed)}")
    for word, found in (("missing", missing), ("changed", changed)):
        if found:
            print(f"{word}: {' '.join(map(str, found))}")
    return 1 if missing or changed else 0
