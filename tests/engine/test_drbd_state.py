"""Outputs in this file were captured from DRBD 8.4.11 with drbd-utils 9.22 unless they say so."""

from __future__ import annotations

import pytest

from twinvault_core.replication_state import Connection, Disk, DrbdRole, Suspension, SyncState
from twinvault_engine.drbd_state import (
    HelperCall,
    Resource,
    apply_event,
    is_just_created,
    parse_event_line,
    parse_events,
    parse_helper,
    parse_proc_drbd,
    parse_suspended,
    parse_version,
)

FRESH = """\
exists resource name:tv-pg role:Secondary suspended:no write-ordering:flush
exists connection name:tv-pg peer-node-id:0 conn-name:peer connection:Connected role:Secondary \
congested:no
exists device name:tv-pg volume:0 minor:1000 disk:Inconsistent size:524288 read:0 written:0 \
al-writes:8 bm-writes:0 upper-pending:0 lower-pending:0 al-suspended:no blocked:no
exists peer-device name:tv-pg peer-node-id:0 conn-name:peer volume:0 replication:Established \
peer-disk:Inconsistent resync-suspended:no received:0 sent:0 out-of-sync:524032 pending:0 unacked:0
exists -
"""
FROZEN = """\
exists resource name:tv-pg role:Primary suspended:fencing write-ordering:flush
exists connection name:tv-pg peer-node-id:0 conn-name:peer connection:Connecting role:Unknown \
congested:no
exists device name:tv-pg volume:0 minor:1000 disk:UpToDate size:524288 read:0 written:26636 \
al-writes:13 bm-writes:0 upper-pending:1 lower-pending:0 al-suspended:no blocked:upper
exists peer-device name:tv-pg peer-node-id:0 conn-name:peer volume:0 replication:Off \
peer-disk:DUnknown resync-suspended:no received:0 sent:26636 out-of-sync:0 pending:1 unacked:0
exists -
"""
REJOIN = """\
2026-11-23T12:07:03.754668+00:00 destroy peer-device name:tv-pg peer-node-id:0 conn-name:peer \
volume:0
2026-11-23T12:07:03.754668+00:00 destroy connection name:tv-pg peer-node-id:0 conn-name:peer
2026-11-23T12:07:03.755439+00:00 destroy device name:tv-pg volume:0 minor:1000
2026-11-23T12:07:03.756206+00:00 destroy resource name:tv-pg
2026-11-23T12:07:03.843834+00:00 create resource name:tv-pg role:Secondary suspended:no
2026-11-23T12:07:03.856264+00:00 create device name:tv-pg volume:0 minor:1000 disk:Diskless
2026-11-23T12:07:03.890937+00:00 change device name:tv-pg volume:0 minor:1000 disk:Attaching
2026-11-23T12:07:03.891898+00:00 change device name:tv-pg volume:0 minor:1000 disk:Consistent
2026-11-23T12:07:03.902610+00:00 create connection name:tv-pg peer-node-id:0 conn-name:peer \
connection:StandAlone role:Unknown
2026-11-23T12:07:03.902610+00:00 create peer-device name:tv-pg peer-node-id:0 conn-name:peer \
volume:0 replication:Off peer-disk:DUnknown resync-suspended:no
2026-11-23T12:07:05.284307+00:00 change connection name:tv-pg peer-node-id:0 conn-name:peer \
connection:Connected
2026-11-23T12:07:05.285002+00:00 change connection name:tv-pg peer-node-id:0 conn-name:peer \
role:Primary
2026-11-23T12:07:05.285002+00:00 change device name:tv-pg volume:0 minor:1000 disk:Outdated
2026-11-23T12:07:05.285002+00:00 change peer-device name:tv-pg peer-node-id:0 conn-name:peer \
volume:0 replication:WFBitMapT peer-disk:UpToDate
2026-11-23T12:07:05.289907+00:00 call helper name:tv-pg peer-node-id:0 conn-name:peer volume:0 \
minor:1000 helper:before-resync-target
2026-11-23T12:07:05.292843+00:00 response helper name:tv-pg peer-node-id:0 conn-name:peer volume:0 \
minor:1000 helper:before-resync-target status:0
2026-11-23T12:07:05.292955+00:00 change device name:tv-pg volume:0 minor:1000 disk:Inconsistent
2026-11-23T12:07:05.292955+00:00 change peer-device name:tv-pg peer-node-id:0 conn-name:peer \
volume:0 replication:SyncTarget
"""
# The protocol's letter is a blank in the last one, which is StandAlone. The one in the middle is
# put together from the kernel's format, not captured.
PROC = """\
version: 8.4.11 (api:1/proto:86-101)
srcversion: DA6B55A41DED5E58CDBAB30

1000: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s-----
    ns:26636 nr:0 dw:26636 dr:0 al:13 bm:0 lo:0 pe:1 ua:0 ap:1 ep:1 wo:f oos:0
1001: cs:SyncTarget ro:Secondary/Primary ds:Inconsistent/UpToDate C r-----
    ns:0 nr:20352 dw:20096 dr:0 al:8 bm:0 lo:1 pe:2 ua:1 ap:0 ep:1 wo:f oos:45440
\t[=====>..............] sync'ed: 31.3% (45440/65536)K
\tfinish: 0:00:04 speed: 10,048 (10,048) want: 20,480 K/sec
1002: cs:StandAlone ro:Primary/Unknown ds:UpToDate/DUnknown   s-----
    ns:404 nr:0 dw:404 dr:0 al:9 bm:0 lo:0 pe:0 ua:0 ap:1 ep:1 wo:f oos:0
"""


def test_new_replica_is_told_with_sizes() -> None:
    resource = parse_events(FRESH)["tv-pg"]
    assert (resource.minor, resource.size_bytes) == (1000, 524288 * 1024)
    assert resource.out_of_sync_bytes == 524032 * 1024
    state = resource.state
    assert (state.connection, state.sync) == (Connection.CONNECTED, SyncState.ESTABLISHED)
    assert (state.disk, state.peer_disk) == (Disk.INCONSISTENT, Disk.INCONSISTENT)
    assert not state.frozen
    assert not state.in_sync


def test_freeze_for_a_lost_peer_is_told() -> None:
    state = parse_events(FROZEN)["tv-pg"].state
    assert state.frozen
    assert state.suspended == {Suspension.FENCING}
    assert (state.role, state.peer_role) == (DrbdRole.PRIMARY, DrbdRole.UNKNOWN)
    assert (state.connection, state.peer_disk) == (Connection.CONNECTING, Disk.UNKNOWN)


def test_changes_are_followed_through_a_tear_down_and_a_resync() -> None:
    resources = parse_events(FROZEN)
    seen = []
    for line in REJOIN.splitlines():
        event = parse_event_line(line)
        assert event is not None
        apply_event(resources, event)
        seen.append(resources.get("tv-pg"))
    assert seen[3] is None
    assert seen[4] == Resource("tv-pg")
    state = resources["tv-pg"].state
    assert (state.disk, state.peer_disk) == (Disk.INCONSISTENT, Disk.UP_TO_DATE)
    assert (state.sync, state.syncing) == (SyncState.SYNC_TARGET, True)
    assert state.peer_role is DrbdRole.PRIMARY


def test_connection_that_is_gone_leaves_a_disk_without_a_peer() -> None:
    resources = parse_events(FRESH)
    for line in REJOIN.splitlines()[:2]:
        event = parse_event_line(line)
        assert event is not None
        assert apply_event(resources, event) == "tv-pg"
    state = resources["tv-pg"].state
    assert (state.connection, state.sync) == (Connection.STANDALONE, SyncState.OFF)
    assert (state.disk, state.peer_disk) == (Disk.INCONSISTENT, Disk.UNKNOWN)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "call helper name:tv-pg peer-node-id:0 conn-name:peer helper:fence-peer",
            HelperCall("tv-pg", "fence-peer", None),
        ),
        (
            "response helper name:tv-pg conn-name:peer helper:fence-peer status:1792",
            HelperCall("tv-pg", "fence-peer", 7),
        ),
        # The program that was configured did not exist.
        (
            "response helper name:tv-pg conn-name:peer helper:fence-peer status:4294967294",
            HelperCall("tv-pg", "fence-peer", 255),
        ),
        ("change resource name:tv-pg role:Primary", None),
    ],
)
def test_calls_of_the_helper_are_told_with_their_exit_code(
    line: str, expected: HelperCall | None
) -> None:
    event = parse_event_line(line)
    assert event is not None
    assert parse_helper(event) == expected


def test_calls_of_the_helper_change_no_state() -> None:
    resources = parse_events(FRESH)
    before = dict(resources)
    event = parse_event_line("call helper name:tv-pg conn-name:peer helper:fence-peer")
    assert event is not None
    assert apply_event(resources, event) == ""
    assert resources == before


def test_a_resync_that_this_side_holds_back_is_told() -> None:
    line = (
        "change peer-device name:tv-pg peer-node-id:0 conn-name:peer volume:0"
        " replication:PausedSyncS peer-disk:Inconsistent resync-suspended:"
    )
    resources = parse_events(FRESH)
    for told, held in (("user", True), ("peer", False), ("user,peer", True), ("no", False)):
        event = parse_event_line(line + told)
        assert event is not None
        apply_event(resources, event)
        assert resources["tv-pg"].state.held is held
        assert resources["tv-pg"].state.paused


def test_words_that_are_not_known_count_as_the_worst() -> None:
    text = FRESH.replace("connection:Connected", "connection:Brilliant")
    text = text.replace(" disk:Inconsistent", " disk:Sparkling")
    state = parse_events(text)["tv-pg"].state
    assert state.connection is Connection.UNCONNECTED
    assert state.disk is Disk.INCONSISTENT
    assert parse_suspended("quorum") == {Suspension.NO_DATA}
    assert parse_suspended("user,fencing") == {Suspension.USER, Suspension.FENCING}
    assert parse_suspended("no") == frozenset()


@pytest.mark.parametrize("line", ["", "exists", "\n", "2026-11-23T12:05:14 x"])
def test_what_is_no_event_is_none(line: str) -> None:
    assert parse_event_line(line) is None


def test_proc_drbd_tells_frozen_minors_and_how_far_a_resync_is() -> None:
    minors = parse_proc_drbd(PROC)
    assert [m.suspended for m in minors.values()] == [True, False, True]
    assert minors[1000].role is DrbdRole.PRIMARY
    resync = minors[1001].resync
    assert resync is not None
    assert (resync.done_percent, resync.seconds_left) == (31.3, 4)
    assert resync.remaining_bytes == 45440 * 1024
    assert minors[1002].resync is None
    assert all(m.counters.startswith("ns:") and "oos:" in m.counters for m in minors.values())
    assert [m.pending for m in minors.values()] == [1, 0, 1]


def test_proc_drbd_without_devices_is_empty() -> None:
    assert parse_proc_drbd(PROC[: PROC.index("1000:")]) == {}
    assert parse_proc_drbd("") == {}


def test_versions_are_read_from_either_file() -> None:
    assert parse_version(PROC) == "8.4.11"
    assert parse_version("9.2.4\n") == "9.2.4"
    assert parse_version("") == ""


def test_only_metadata_that_was_never_used_is_just_created() -> None:
    never = "0000000000000004:0000000000000000:0000000000000000:0000000000000000:0:0:0:1:0:1:0\n"
    used = "5486E7991728A940:0000000000000000:0000000000000000:0000000000000000:1:1:0:0:0:0:1\n"
    assert is_just_created(never)
    assert not is_just_created(used)
    assert not is_just_created("")
