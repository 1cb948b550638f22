from __future__ import annotations

from dataclasses import replace

from twinvault_core.replication_state import Disk, DrbdRole
from twinvault_engine.drbd_stall import PATIENCE_SECONDS, Stalls
from twinvault_engine.drbd_state import ProcMinor

WAITING = ProcMinor(1000, DrbdRole.PRIMARY, Disk.UP_TO_DATE, False, 0, pending=1, counters="dw:8")
LATE = PATIENCE_SECONDS + 1


def found(*looks: tuple[float, ProcMinor]) -> list[bool]:
    stalls = Stalls()
    return [bool(stalls.look({1000: minor}, at)) for at, minor in looks]


def test_a_request_that_does_not_end_is_found_and_forgotten_when_it_does() -> None:
    ended = replace(WAITING, pending=0, counters="dw:12")
    assert found((0, WAITING), (LATE, WAITING), (LATE + 1, ended)) == [False, True, False]


def test_a_slow_disk_is_no_stall_while_anything_moves() -> None:
    looks = [(float(at), replace(WAITING, counters=f"dw:{at // 10}")) for at in range(0, 90, 3)]
    assert not any(found(*looks))


def test_what_is_frozen_or_secondary_waits_for_somebody_else() -> None:
    for other in (replace(WAITING, suspended=True), replace(WAITING, role=DrbdRole.SECONDARY)):
        assert found((0, other), (LATE, other)) == [False, False]
        assert found((0, WAITING), (1, other), (LATE, WAITING)) == [False, False, False]


def test_a_minor_that_was_gone_begins_anew() -> None:
    stalls = Stalls()
    assert not stalls.look({1000: WAITING}, 0)
    assert not stalls.look({}, 1)
    assert not stalls.look({1000: WAITING}, LATE)
