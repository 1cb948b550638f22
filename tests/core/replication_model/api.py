"""The API server: one record under compare-and-swap, whose writes may arrive late; the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twinvault_core.model import ReplicationRecord, ReplicationSpec, ReplicationStatus
from twinvault_core.numbers import Device, device_of
from twinvault_core.replication_record import start_record

from .kernel import NODES


@dataclass(frozen=True)
class Sent:
    """A compare-and-swap on its way. It may arrive long after its sender gave up."""

    number: int
    version: int
    record: ReplicationRecord
    by: str
    device: Device | None = None
    approve: str = ""
    """The word of a person that allowed it; ``word`` tells it from an earlier one."""
    word: int = 0


@dataclass(frozen=True)
class Report:
    """What an agent's status says. The Lease is renewed apart from it, before or after."""

    status: ReplicationStatus = field(default_factory=ReplicationStatus)
    in_use: bool = False
    blank: bool = False
    broken: bool = False


@dataclass(frozen=True)
class Pod:
    uid: int
    node: str


@dataclass(frozen=True)
class Replica:
    """A VolumeReplica. Replaced as a whole with every write, so a reader may keep an old one."""

    uid: int
    node: str
    spec: ReplicationSpec | None = None
    deleting: bool = False


@dataclass
class Api:
    on_change: Callable[[ReplicationRecord, ReplicationRecord, str], None]
    record: ReplicationRecord = field(default_factory=lambda: start_record(NODES[0]))
    version: int = 1
    flight: list[Sent] = field(default_factory=list)
    outcome: dict[int, bool] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    lease: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    marked: set[str] = field(default_factory=set)
    resyncing: dict[str, int] = field(default_factory=dict)
    """Nodes with the taint, and the tick at which it was put on."""
    pod: Pod | None = None
    published: str = ""
    first_sync: str = ""
    deleting: bool = False
    hold: bool = False
    verify: bool = False
    replicas: dict[str, Replica] = field(default_factory=dict)
    device: Device = field(default_factory=lambda: device_of(0))
    claims: set[int] = field(default_factory=lambda: {0})
    leaving: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    paired: bool = True
    made: bool = False
    manual: bool = False
    approve: str = ""
    word: int = 0
    words_used: list[int] = field(default_factory=list)
    approval_used: str = ""
    approval_taken: str = ""
    """By the failover that is told of in the pair's status; used up when that is over."""
    counter: int = 0

    def send(
        self,
        version: int,
        record: ReplicationRecord,
        by: str,
        device: Device | None = None,
        approve: str = "",
        word: int = 0,
    ) -> int:
        self.counter += 1
        self.flight.append(Sent(self.counter, version, record, by, device, approve, word))
        return self.counter

    def is_open(self, node: str) -> bool:
        """Whether a pod may be sent there."""
        return node not in self.marked and node not in self.resyncing

    def deliver(self, index: int) -> None:
        sent = self.flight.pop(index)
        self.outcome[sent.number] = sent.version == self.version
        if sent.version == self.version:
            before, self.record = self.record, sent.record
            self.device = sent.device or self.device
            self.made = self.made or len(self.record.in_sync) > 1
            if sent.approve:
                self.approval_taken = sent.approve
                self.words_used.append(sent.word)
            self.version += 1
            self.on_change(before, sent.record, sent.by)

    def deliver_number(self, number: int) -> None:
        for index, sent in enumerate(self.flight):
            if sent.number == number:
                self.deliver(index)
                return

    def touch(self) -> None:
        """Somebody writes something else of the Volume's status."""
        self.version += 1
