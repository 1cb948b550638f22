"""One node's disk and kernel: what survives a power cut, and what does not."""

from __future__ import annotations

from dataclasses import dataclass, field

from twinvault_core.replication_state import (
    Connection,
    Disk,
    DrbdRole,
    DrbdState,
    Resync,
    Suspension,
    SyncState,
)

BLOCKS = (0, 1, 2)
BLOCK_BYTES = 4096
NODES = ("a", "b")

_PAUSED = {
    SyncState.SYNC_SOURCE: SyncState.PAUSED_SYNC_SOURCE,
    SyncState.SYNC_TARGET: SyncState.PAUSED_SYNC_TARGET,
}
USABLE = (Disk.UP_TO_DATE, Disk.CONSISTENT)


def other(node: str) -> str:
    return NODES[1 - NODES.index(node)]


@dataclass
class Image:
    """What survives a power cut. ``generation`` None: metadata just made."""

    blocks: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BLOCKS, 0))
    state: Disk = Disk.INCONSISTENT
    generation: int | None = None
    ancestors: set[int] = field(default_factory=set)
    dirty: set[int] = field(default_factory=set)
    crashed_primary: bool = False
    broken: bool = False
    """Gives I/O errors; its content counts as lost."""
    rotten: set[int] = field(default_factory=set)
    """Blocks that hold something else than what was written, and nobody knows."""

    def hold(self, write: Write) -> None:
        self.blocks[write.block] = write.number
        self.rotten.discard(write.block)

    def take(self, block: int, source: Image) -> None:
        """Copied from the other replica, rotten or not."""
        self.blocks[block] = source.blocks[block]
        self.rotten.discard(block)
        self.rotten |= source.rotten & {block}


@dataclass
class Write:
    number: int
    block: int
    local: bool = False
    remote: bool = False


class Kernel:
    """The kernel of one node: what a power cut loses."""

    def __init__(self, node: str, image: Image, peer: str = "", port: int = 0) -> None:
        self.node, self.image, self.peer, self.port = node, image, peer, port
        self.up = False
        self.attached = False
        self.wants_link = False
        self.link: int | None = None
        self.role = DrbdRole.SECONDARY
        self.peer_role = DrbdRole.UNKNOWN
        self.peer_disk = Disk.UNKNOWN
        self.syncing: SyncState = SyncState.OFF
        self.left: set[int] = set()
        self.frozen = False
        self.question: int | None = None
        self.promoting = False
        self.alone = False
        self.diverged = False
        self.exposed: int | None = None
        self.held = self.peer_held = False
        self.pending: dict[int, Write] = {}

    @property
    def disk(self) -> Disk:
        return self.image.state if self.attached else Disk.DISKLESS

    @property
    def primary(self) -> bool:
        return self.role is DrbdRole.PRIMARY

    def observe(self) -> DrbdState | None:
        if not self.up:
            return None
        connection = Connection.STANDALONE
        if self.link is not None:
            connection = Connection.CONNECTED
        elif self.wants_link:
            connection = Connection.WF_CONNECTION
        sync = self.syncing
        if self.held or self.peer_held:
            sync = _PAUSED.get(sync, sync)
        return DrbdState(
            connection=connection,
            sync=sync,
            role=self.role,
            peer_role=self.peer_role,
            disk=self.disk,
            peer_disk=self.peer_disk,
            suspended=frozenset({Suspension.FENCING} if self.frozen else ()),
            resync=Resync() if self.left else None,
            held=self.held,
        )

    def is_serving(self) -> bool:
        return self.up and self.primary and not self.frozen
