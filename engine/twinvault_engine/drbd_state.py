"""What DRBD says of itself: the lines of ``drbdsetup events2`` and of /proc/drbd, parsed. Pure.

Our resources have one volume and one peer each, so what four kinds of lines tell is one flat
value. 8.4 and 9 print the same lines. /proc/drbd of 8.4 says less, but costs the read of a file
where the other costs a process; it alone tells how fast a resync is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from twinvault_core.replication_state import (
    Connection,
    Disk,
    DrbdRole,
    DrbdState,
    Resync,
    Suspension,
    SyncState,
)

Word = TypeVar("Word", bound=StrEnum)
_VERBS = frozenset({"exists", "create", "change", "destroy"})


@dataclass(frozen=True)
class Resource:
    """One resource as one node sees it. ``minor`` is -1 while it has no device.

    ``size_bytes`` and ``out_of_sync_bytes`` are 0 unless statistics were asked for.
    """

    name: str
    state: DrbdState = field(default_factory=DrbdState)
    minor: int = -1
    size_bytes: int = 0
    out_of_sync_bytes: int = 0


@dataclass(frozen=True)
class HelperCall:
    """The kernel called its helper (``status`` None), or has its exit code."""

    name: str
    handler: str
    status: int | None


@dataclass(frozen=True)
class EventLine:
    """One line of events2: ``verb kind key:value...``."""

    verb: str
    kind: str
    fields: Mapping[str, str]

    @property
    def ends_dump(self) -> bool:
        """``exists -``: what was there at the start has been told; changes follow."""
        return self.verb == "exists" and self.kind == "-"


def parse_event_line(line: str) -> EventLine | None:
    """None for a line that is none. A leading time stamp is skipped."""
    words = line.split()
    if words and words[0][:1].isdigit():
        words = words[1:]
    if len(words) < 2:
        return None
    pairs = (word.partition(":") for word in words[2:])
    return EventLine(words[0], words[1], {key: value for key, _, value in pairs})


def parse_events(text: str) -> dict[str, Resource]:
    """All resources, by name, from what ``events2 --now`` printed."""
    resources: dict[str, Resource] = {}
    for line in text.splitlines():
        event = parse_event_line(line)
        if event is not None:
            apply_event(resources, event)
    return resources


def apply_event(resources: dict[str, Resource], event: EventLine) -> str:
    """Bring ``resources`` up to date; the name of the one that the line is about, '' for none."""
    name = event.fields.get("name", "")
    if not name or event.verb not in _VERBS or event.kind == "helper":
        return ""
    before = resources.get(name)
    if event.verb != "destroy":
        resources[name] = _with(before or Resource(name), event.kind, event.fields)
    elif event.kind == "resource":
        resources.pop(name, None)
    elif before is not None:
        resources[name] = _without(before, event.kind)
    return name


def parse_helper(event: EventLine) -> HelperCall | None:
    """A ``call helper`` or ``response helper`` line, None for any other."""
    if event.kind != "helper" or event.verb not in ("call", "response"):
        return None
    status = event.fields.get("status")
    # As wait(2) tells it; when the helper could not be run it is a negative errno.
    code = None if status is None else (int(status) >> 8) & 0xFF
    return HelperCall(event.fields.get("name", ""), event.fields.get("helper", ""), code)


def _with(resource: Resource, kind: str, fields: Mapping[str, str]) -> Resource:
    state = resource.state
    if kind == "resource":
        role = _word(DrbdRole, fields.get("role"), state.role, DrbdRole.UNKNOWN)
        suspended = state.suspended
        if "suspended" in fields:
            suspended = parse_suspended(fields["suspended"])
        return replace(resource, state=replace(state, role=role, suspended=suspended))
    if kind == "connection":
        link = _word(Connection, fields.get("connection"), state.connection, Connection.UNCONNECTED)
        peer = _word(DrbdRole, fields.get("role"), state.peer_role, DrbdRole.UNKNOWN)
        return replace(resource, state=replace(state, connection=link, peer_role=peer))
    if kind == "device":
        return replace(
            resource,
            minor=int(fields.get("minor", resource.minor)),
            size_bytes=_bytes(fields.get("size"), resource.size_bytes),
            state=replace(
                state, disk=_word(Disk, fields.get("disk"), state.disk, Disk.INCONSISTENT)
            ),
        )
    if kind == "peer-device":
        sync = _word(SyncState, fields.get("replication"), state.sync, SyncState.OFF)
        disk = _word(Disk, fields.get("peer-disk"), state.peer_disk, Disk.UNKNOWN)
        held = state.held
        if "resync-suspended" in fields:
            held = "user" in fields["resync-suspended"].split(",")
        return replace(
            resource,
            out_of_sync_bytes=_bytes(fields.get("out-of-sync"), resource.out_of_sync_bytes),
            state=replace(state, sync=sync, peer_disk=disk, held=held),
        )
    return resource


def _without(resource: Resource, kind: str) -> Resource:
    """What is left of a resource when its device or its connection is gone."""
    none, state = DrbdState(), resource.state
    if kind == "device":
        return replace(resource, minor=-1, size_bytes=0, state=replace(state, disk=none.disk))
    if kind == "connection":
        gone = replace(state, connection=none.connection, peer_role=none.peer_role)
        return replace(resource, state=gone)
    if kind == "peer-device":
        gone = replace(state, sync=none.sync, peer_disk=none.peer_disk, held=none.held)
        return replace(resource, out_of_sync_bytes=0, state=gone)
    return resource


def _word(kind: type[Word], text: str | None, before: Word, pessimistic: Word) -> Word:
    """The member; ``before`` if it is not told, ``pessimistic`` for a word that is not known."""
    if text is None:
        return before
    try:
        return kind(text)
    except ValueError:
        return pessimistic


def parse_suspended(text: str) -> frozenset[Suspension]:
    """``no`` or words with commas. A reason that this program does not know counts as no data:
    I/O does not go on, and it was not us.
    """
    known = {member.value: member for member in Suspension}
    return frozenset(
        known.get(word, Suspension.NO_DATA) for word in text.split(",") if word and word != "no"
    )


def _bytes(kib: str | None, otherwise: int) -> int:
    return otherwise if kib is None else int(kib) * 1024


@dataclass(frozen=True)
class ProcMinor:
    """One minor in /proc/drbd of 8.4. ``resync`` is None unless it resyncs or verifies.

    ``pending``: requests of applications that have not ended. ``counters``: all that moves when
    one of them does, as it stands there.
    """

    minor: int
    role: DrbdRole
    disk: Disk
    suspended: bool
    out_of_sync_bytes: int
    resync: Resync | None = None
    stalled: bool = False
    pending: int = 0
    counters: str = ""


# The single character is the protocol, a blank while StandAlone.
_MINOR = re.compile(r"^\s*(\d+): cs:\S+ ro:(\w+)/\w+ ds:(\w+)/\w+ . ([rs])", re.MULTILINE)
_COUNTERS = re.compile(r"\bns:.*\boos:\d+")
_PENDING = re.compile(r"\bap:(\d+)")
_OUT_OF_SYNC = re.compile(r"\boos:(\d+)")
_DONE = re.compile(r"(?:sync'ed|verified):\s*([\d.]+)%")
_FINISH = re.compile(r"finish: (\d+):(\d+):(\d+)")


def parse_proc_drbd(text: str) -> dict[int, ProcMinor]:
    """Every configured minor of /proc/drbd; 9 prints none there."""
    heads = list(_MINOR.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)][: len(heads)]
    found = [
        _proc_minor(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=True)
    ]
    return {minor.minor: minor for minor in found}


def _proc_minor(head: re.Match[str], rest: str) -> ProcMinor:
    out_of_sync, done, finish = (pattern.search(rest) for pattern in (_OUT_OF_SYNC, _DONE, _FINISH))
    left = int(out_of_sync[1]) * 1024 if out_of_sync else 0
    pending, counters = _PENDING.search(rest), _COUNTERS.search(rest)
    seconds = -1
    if finish:
        seconds = int(finish[1]) * 3600 + int(finish[2]) * 60 + int(finish[3])
    return ProcMinor(
        minor=int(head[1]),
        role=_word(DrbdRole, head[2], DrbdRole.UNKNOWN, DrbdRole.UNKNOWN),
        disk=_word(Disk, head[3], Disk.DISKLESS, Disk.INCONSISTENT),
        suspended=head[4] == "s",
        out_of_sync_bytes=left,
        resync=Resync(float(done[1]), left, seconds) if done else None,
        stalled="stalled" in rest,
        pending=int(pending[1]) if pending else 0,
        counters=counters[0] if counters else "",
    )


def parse_version(text: str) -> str:
    """``8.4.11`` from /proc/drbd or from the module's version file; '' when there is none."""
    found = re.search(r"(\d+\.\d+\.\d+\S*)", text)
    return found[1] if found else ""


def is_just_created(uuids: str) -> bool:
    """Whether ``get-gi`` tells of metadata that was made and never used: generation 4, no
    history. Flags follow the four generations.
    """
    fields = uuids.strip().split(":")
    return len(fields) >= 4 and [int(f, 16) for f in fields[:4]] == [4, 0, 0, 0]
