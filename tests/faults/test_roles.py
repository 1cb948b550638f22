"""Two primaries are told from an old one that can acknowledge nothing."""

from __future__ import annotations

from e2e.faults.roles import find_double_primaries, parse_sides

_PROC = """version: 8.4.11 (api:1/proto:86-101)
srcversion: ABC
 1000: cs:{connection} ro:{roles} ds:{disks} C {flags}
    ns:0 nr:0 dw:0 dr:0 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0
"""


def proc(connection: str, roles: str, disks: str, flags: str = "r-----") -> str:
    return _PROC.format(connection=connection, roles=roles, disks=disks, flags=flags)


PRIMARY = proc("Connected", "Primary/Secondary", "UpToDate/UpToDate")
SECONDARY = proc("Connected", "Secondary/Primary", "UpToDate/UpToDate")
ALONE = proc("WFConnection", "Primary/Unknown", "UpToDate/Outdated")
FROZEN = proc("WFConnection", "Primary/Unknown", "UpToDate/DUnknown", "s-----")
DETACHED = proc("WFConnection", "Primary/Unknown", "Diskless/DUnknown")
BOTH = proc("Connected", "Primary/Primary", "UpToDate/UpToDate")
STALE = proc("Connected", "Primary/Secondary", "UpToDate/UpToDate")


def double(one: str, other: str, after: str | None = None) -> list[str]:
    return find_double_primaries(parse_sides(one), parse_sides(other), parse_sides(after or one))


def test_states_are_read_from_the_kernels_own_file() -> None:
    side = parse_sides(FROZEN)[1000]
    assert (side.connection, side.role, side.disk) == ("WFConnection", "Primary", "UpToDate")
    assert side.alone
    assert not side.flowing
    assert not side.acknowledges
    assert parse_sides(" 1001: cs:Unconfigured\n") == {}


def test_two_that_both_write_alone_are_two_primaries() -> None:
    assert double(ALONE, ALONE)


def test_two_connected_primaries_are_two_primaries() -> None:
    assert double(BOTH, BOTH)


def test_a_frozen_or_detached_old_primary_is_none() -> None:
    assert not double(FROZEN, ALONE)
    assert not double(DETACHED, ALONE)
    assert not double(PRIMARY, SECONDARY)


def test_an_old_primary_that_still_believes_in_its_link_cannot_acknowledge() -> None:
    assert not double(STALE, ALONE)


def test_a_switchover_between_the_looks_is_no_double() -> None:
    assert not double(ALONE, ALONE, after=SECONDARY)
