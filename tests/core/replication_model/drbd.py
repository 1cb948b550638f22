"""Two kernels with DRBD between them, as far as its protocol decides who holds which write.

Writes are numbers that only grow; a disk holds for each block the number that it was given last.
What is here was read from the kernel's source and measured by hand (see docs/replication.md):
protocol C, frozen I/O until the fence-peer question is answered, an answer that comes after the
link was back is ignored, generations that tell which side is older, a bitmap of what one side wrote
alone, a graceful disconnect that outdates the secondary and freezes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from twinvault_core.fence import FenceExit
from twinvault_core.replication_state import Disk, DrbdRole, SyncState

from .kernel import BLOCKS, NODES, USABLE, Image, Kernel, Write


class Drbd:
    """All kernels and the links. ``acknowledge`` is told of every write that is done for a pod.

    A kernel looks for one peer at one port, and takes whoever calls there.
    """

    def __init__(
        self, acknowledge: Callable[[str, Write, bool], None], nodes: tuple[str, ...] = NODES
    ) -> None:
        self.nodes = nodes
        self.images = {node: Image() for node in nodes}
        self.kernels = {node: Kernel(node, self.images[node]) for node in nodes}
        for node in NODES:
            self.kernels[node].peer = NODES[1 - NODES.index(node)]
        self.running = dict.fromkeys(nodes, True)
        self.stopped = dict.fromkeys(nodes, False)
        self.cable = True
        self.latched = False
        self.counter = 0
        self.acknowledge = acknowledge

    def next(self) -> int:
        self.counter += 1
        return self.counter

    def active(self, node: str) -> bool:
        return self.running[node] and not self.stopped[node]

    def other(self, node: str) -> Kernel:
        """The kernel that this one is linked with, else the one that it looks for."""
        mine = self.kernels[node]
        for kernel in self.kernels.values():
            if mine.link is not None and kernel is not mine and kernel.link == mine.link:
                return kernel
        return self.kernels[mine.peer or node]

    def linked(self, node: str) -> bool:
        """Messages pass: same connection on both sides, cable in, both running."""
        one = self.kernels[node]
        two = self.other(node)
        same = one.link is not None and one.link == two.link
        return same and self.cable and self.active(node) and self.active(two.node)

    def can_acknowledge(self, node: str) -> bool:
        """Not while it waits for a peer that is gone, and not without good data."""
        kernel = self.kernels[node]
        alone = kernel.link is None and kernel.disk in USABLE
        return kernel.is_serving() and (alone or self.linked(node))

    def refresh(self) -> None:
        """Each side tells the other of its changes while messages pass."""
        for node in self.nodes:
            if self.linked(node):
                mine, peer = self.kernels[node], self.other(node)
                mine.peer_role, mine.peer_disk = peer.role, peer.disk
                mine.peer_held = peer.held

    # -- faults ----------------------------------------------------------------------------------

    def power_cut(self, node: str) -> None:
        kernel, image = self.kernels[node], self.images[node]
        if kernel.primary and kernel.attached:
            image.crashed_primary = True
            image.dirty |= {w.block for w in kernel.pending.values()}
        self.running[node] = self.stopped[node] = False
        self.kernels[node] = Kernel(node, image, kernel.peer, kernel.port)

    def break_disk(self, node: str) -> None:
        """The image gives an error: detached at once, nothing of it can be read again."""
        image = self.images[node]
        self.kernels[node].exposed = image.generation
        image.broken, image.state, image.generation = True, Disk.INCONSISTENT, None
        image.blocks = dict.fromkeys(BLOCKS, 0)
        image.ancestors, image.dirty, image.crashed_primary = set(), set(), False
        image.rotten.clear()
        kernel = self.kernels[node]
        kernel.attached = False
        self._end_sync(node)
        self.complete()

    def rot(self, node: str) -> None:
        """The disk gives back, without an error, what nobody wrote."""
        image = self.images[node]
        block = BLOCKS[self.next() % len(BLOCKS)]
        image.blocks[block] = -self.counter
        image.rotten.add(block)

    def replace_disk(self, node: str) -> None:
        self.images[node].broken = False

    # -- commands --------------------------------------------------------------------------------

    def attach(self, node: str, *, fresh: bool = False) -> None:
        kernel, image = self.kernels[node], self.images[node]
        kernel.up = True
        if image.broken or kernel.attached:
            return
        if fresh:
            image.state, image.generation = Disk.INCONSISTENT, None
            image.ancestors, image.dirty, image.crashed_primary = set(), set(), False
        kernel.attached = True
        if image.state is Disk.UP_TO_DATE:
            image.state = Disk.CONSISTENT

    def reattach(self, node: str, *, fresh: bool = False) -> None:
        """While connected the two negotiate at once; otherwise the next handshake does."""
        kernel = self.kernels[node]
        if kernel.link is not None and not self.linked(node):
            return  # it waits for the peer's answer
        if kernel.link is None:
            kernel.wants_link = False
        self.attach(node, fresh=fresh)
        if not kernel.attached or not self.linked(node):
            return
        peer = self.other(node)
        one, two = sorted((kernel, peer), key=lambda k: k.node)
        source, full = self._choose_source(one, two)
        if isinstance(source, str) or (source is kernel and peer.primary):
            kernel.attached = False
            return
        target = None if source is None else two if source is one else one
        self._agree(one, two, source, target, full)
        self.refresh()
        self.complete()

    def connect(self, node: str, *, discard: bool = False) -> None:
        self.kernels[node].wants_link = True
        if discard:
            self.images[node].generation = None
            self.images[node].state = Disk.INCONSISTENT

    def disconnect(self, node: str) -> None:
        """Graceful: the secondary side is outdated, and the primary goes on without asking."""
        mine = self.kernels[node]
        peer = self.other(node)
        linked = self.linked(node)
        if linked and any(k.primary and k.disk not in USABLE for k in (mine, peer)):
            return  # refused: a primary would be left without good data
        if linked and (mine.primary or peer.primary):
            outdated = peer if mine.primary else mine
            if outdated.attached and outdated.disk in USABLE:
                outdated.image.state = Disk.OUTDATED
            self.refresh()
            for kernel in (mine, peer):
                if kernel.peer_disk in USABLE:
                    kernel.peer_disk = Disk.OUTDATED
        graceful = self.linked(node)
        mine.wants_link = False
        self._unlink(mine)
        if graceful:
            self._unlink(peer)

    def down(self, node: str) -> None:
        self.disconnect(node)
        before = self.kernels[node]
        self.kernels[node] = Kernel(node, self.images[node], before.peer, before.port)

    def erase(self, node: str) -> None:
        """The image and its metadata, out of the kernel."""
        self.images[node] = Image()
        before = self.kernels[node]
        self.kernels[node] = Kernel(node, self.images[node], before.peer, before.port)

    def stand_alone(self, node: str) -> None:
        """Up and whole, with nobody to ask; the peer is left without a word."""
        self.force_disconnect(node)
        self.attach(node)
        kernel = self.kernels[node]
        kernel.peer_disk = Disk.OUTDATED
        if kernel.attached and kernel.image.generation is not None:
            kernel.image.state = Disk.UP_TO_DATE

    def force_disconnect(self, node: str) -> None:
        """Without a word to the peer, which finds the link lost."""
        kernel = self.kernels[node]
        kernel.wants_link = False
        self._unlink(kernel)

    def force_detach(self, node: str) -> None:
        kernel = self.kernels[node]
        kernel.exposed = kernel.image.generation
        if kernel.attached:
            kernel.image.dirty |= {w.block for w in kernel.pending.values()}
        kernel.attached = False

    def resume(self, node: str) -> None:
        """resume-io: without a disk and a peer frozen writes end in errors, else they go on."""
        kernel = self.kernels[node]
        kernel.frozen, kernel.question = False, None
        if not kernel.attached and kernel.link is None:
            kernel.pending.clear()
            return
        if kernel.link is None:
            kernel.peer_disk = Disk.OUTDATED
            self._begin_alone(kernel)
        self.complete()

    def ask_promotion(self, node: str) -> bool:
        """drbdsetup primary: True when done; False when refused or the handler is asked."""
        kernel = self.kernels[node]
        if kernel.primary or kernel.disk not in USABLE:
            return kernel.primary
        if kernel.link is not None:
            if not self.linked(node) or kernel.peer_role is DrbdRole.PRIMARY:
                return False
            kernel.role = DrbdRole.PRIMARY
            kernel.image.crashed_primary = True
            if kernel.peer_disk.gone:
                self._begin_alone(kernel)
            self.refresh()
            return True
        if kernel.peer_disk is Disk.OUTDATED or kernel.peer_disk is Disk.INCONSISTENT:
            self._promote_alone(kernel)
            return True
        kernel.question, kernel.promoting = self.next(), True
        return False

    def answer(self, node: str, question: int, exit_code: FenceExit) -> None:
        """The helper ended. Ignored when the question is not open any more."""
        kernel = self.kernels[node]
        if kernel.question != question or kernel.link is not None:
            return
        promoting, kernel.promoting, kernel.question = kernel.promoting, False, None
        if exit_code is FenceExit.PEER_OUTDATED:
            kernel.peer_disk = Disk.OUTDATED
            if promoting and not kernel.primary:
                self._promote_alone(kernel)
            elif kernel.primary:
                kernel.frozen = False
                self._begin_alone(kernel)
                self.complete()
        elif exit_code is FenceExit.PEER_IS_PRIMARY and kernel.attached and kernel.disk in USABLE:
            kernel.image.state = Disk.OUTDATED

    def demote(self, node: str) -> None:
        kernel = self.kernels[node]
        if kernel.primary and not kernel.frozen and not kernel.pending:
            kernel.role, kernel.alone = DrbdRole.SECONDARY, False
            if kernel.attached:
                kernel.image.crashed_primary = False
            self.refresh()

    def skip_first_sync(self, node: str) -> None:
        mine, peer = self.kernels[node], self.other(node)
        if not self.linked(node) or any(k.primary or not k.attached for k in (mine, peer)):
            return
        if any(
            k.image.generation is not None or any(k.image.blocks.values()) for k in (mine, peer)
        ):
            return
        generation = self.next()
        for kernel in (mine, peer):
            kernel.image.generation, kernel.image.state = generation, Disk.UP_TO_DATE
        self.refresh()

    def _promote_alone(self, kernel: Kernel) -> None:
        kernel.role = DrbdRole.PRIMARY
        kernel.image.state = Disk.UP_TO_DATE
        kernel.image.crashed_primary = True
        self._begin_alone(kernel)

    def _begin_alone(self, kernel: Kernel) -> None:
        """A new generation, once for each time that the peer is left behind."""
        if kernel.alone or kernel.disk not in USABLE or not kernel.primary:
            return
        image = kernel.image
        kernel.alone = True
        if image.generation is not None:
            image.ancestors.add(image.generation)
        image.generation = self.next()

    # -- the link --------------------------------------------------------------------------------

    def can_meet(self) -> bool:
        return bool(self.find_meetings())

    def find_meetings(self) -> list[tuple[Kernel, Kernel]]:
        """Pairs of which one looks for the other, who listens at the same port."""
        ready = [
            k
            for k in self.kernels.values()
            if k.up and k.wants_link and k.link is None and self.cable and self.active(k.node)
        ]
        return [
            (one, two)
            for one in ready
            for two in ready
            if one.node < two.node and one.port == two.port
            if one.peer == two.node or two.peer == one.node
        ]

    def meet(self, index: int = 0) -> None:
        """The handshake: refuse, or agree who copies what to whom."""
        one, two = self.find_meetings()[index]
        if one.primary and two.primary:
            one.wants_link = two.wants_link = False
            return
        source, full = self._choose_source(one, two)
        if self._is_older(one, two) or self._is_older(two, one):
            one.wants_link = two.wants_link = False
            return
        if isinstance(source, str):
            one.wants_link = two.wants_link = False
            one.diverged = two.diverged = True
            return
        target = None if source is None else two if source is one else one
        if target is not None and target.primary and target.disk in USABLE:
            target.wants_link = False
            return
        number = self.next()
        for kernel in (one, two):
            kernel.link, kernel.question, kernel.promoting = number, None, False
            kernel.frozen = kernel.diverged = False
        self._agree(one, two, source, target, full)
        self.refresh()
        self.complete()

    def _is_older(self, diskless: Kernel, peer: Kernel) -> bool:
        """A primary without a disk connects to no data older than what its pod has seen."""
        if not diskless.primary or diskless.attached or diskless.exposed is None:
            return False
        image = peer.image
        known = diskless.exposed == image.generation or diskless.exposed in image.ancestors
        return peer.attached and not known

    def _choose_source(self, one: Kernel, two: Kernel) -> tuple[Kernel | str | None, bool]:
        if not one.attached or not two.attached:
            return None, False
        first, second = one.image, two.image
        if first.generation is None or second.generation is None:
            if first.generation == second.generation:
                return None, False
            return (two if first.generation is None else one), True
        if first.generation == second.generation:
            if first.crashed_primary != second.crashed_primary:
                crashed = one if first.crashed_primary else two
                return (crashed if not crashed.primary else None), False
            return None, False
        if first.generation in second.ancestors:
            return two, False
        if second.generation in first.ancestors:
            return one, False
        return "diverged", False

    def _agree(
        self, one: Kernel, two: Kernel, source: Kernel | None, target: Kernel | None, full: bool
    ) -> None:
        one.alone = two.alone = False
        if source is None or target is None:
            images = [k.image for k in (one, two) if k.attached]
            fresh = all(i.generation is None for i in images)
            for image in images:
                if not fresh and image.state is not Disk.INCONSISTENT:
                    image.state = Disk.UP_TO_DATE
            return
        blocks = set(BLOCKS) if full else source.image.dirty | target.image.dirty
        source.image.state = Disk.UP_TO_DATE
        if source.image.generation == target.image.generation:
            generation = source.image.generation
            assert generation is not None
            source.image.ancestors.add(generation)
            source.image.generation = self.next()
        source.image.dirty |= blocks
        target.image.state = Disk.INCONSISTENT
        source.left = set(blocks)
        target.left = set(blocks)
        source.syncing, target.syncing = SyncState.SYNC_SOURCE, SyncState.SYNC_TARGET
        if not blocks:
            self._finish_sync(source, target)

    def copy(self) -> None:
        """One block of a resync, or its end; nothing while it is latched."""
        sources = (k for k in self.kernels.values() if k.syncing is SyncState.SYNC_SOURCE)
        source = next((k for k in sources if self.linked(k.node)), None)
        if source is None:
            return
        target = self.other(source.node)
        if source.held or target.held:
            return
        busy = {w.block for k in (source, target) for w in k.pending.values()}
        if source.left and not self.latched:
            block = next((b for b in sorted(source.left) if b not in busy), None)
            if block is not None:
                target.image.take(block, source.image)
                source.left.discard(block)
                target.left.discard(block)
        if not source.left:
            self._finish_sync(source, target)

    def verify(self, node: str) -> None:
        """Begin to compare; only what is equal, as far as DRBD knows."""
        mine, peer = self.kernels[node], self.other(node)
        whole = all(k.disk is Disk.UP_TO_DATE for k in (mine, peer))
        if self.linked(node) and whole and mine.syncing is SyncState.OFF:
            mine.syncing, peer.syncing = SyncState.VERIFY_SOURCE, SyncState.VERIFY_TARGET

    def end_verify(self) -> bool:
        """The pass is over; False when there was none, or the link cut it off. What differs is
        marked at both sides; that alone copies nothing.
        """
        for kernel in self.kernels.values():
            if kernel.syncing is not SyncState.VERIFY_SOURCE or not self.linked(kernel.node):
                continue
            peer = self.other(kernel.node)
            if peer.syncing is SyncState.VERIFY_TARGET:
                kernel.syncing = peer.syncing = SyncState.OFF
                self._mark_differing(kernel, peer)
                return True
        return False

    def _mark_differing(self, one: Kernel, two: Kernel) -> None:
        busy = {w.block for k in (one, two) for w in k.pending.values()}
        for block in set(BLOCKS) - busy:
            if one.image.blocks[block] != two.image.blocks[block]:
                one.image.dirty.add(block)
                two.image.dirty.add(block)

    def _finish_sync(self, source: Kernel, target: Kernel) -> None:
        target.image.generation = source.image.generation
        target.image.ancestors = set(source.image.ancestors)
        target.image.state = Disk.UP_TO_DATE
        for kernel in (source, target):
            kernel.image.dirty.clear()
            kernel.syncing, kernel.left = SyncState.OFF, set()
            kernel.image.crashed_primary = kernel.primary
        self.refresh()

    def _end_sync(self, node: str) -> None:
        mine = self.kernels[node]
        for kernel in (mine, self.other(node) if self.linked(node) else mine):
            kernel.syncing, kernel.left = SyncState.OFF, set()
        self.refresh()

    def notices_loss(self, node: str) -> bool:
        return self.kernels[node].link is not None and not self.linked(node)

    def lose(self, node: str) -> None:
        """This side finds that the peer does not answer."""
        kernel = self.kernels[node]
        self._unlink(kernel)

    def _unlink(self, kernel: Kernel) -> None:
        if kernel.link is None:
            return
        kernel.link, kernel.peer_role = None, DrbdRole.UNKNOWN
        kernel.peer_held = False
        kernel.syncing, kernel.left = SyncState.OFF, set()
        if kernel.peer_disk not in (Disk.INCONSISTENT, Disk.OUTDATED):
            kernel.peer_disk = Disk.UNKNOWN
        if not kernel.primary:
            return
        if kernel.peer_disk is Disk.UNKNOWN or kernel.disk not in USABLE:
            kernel.frozen, kernel.question, kernel.promoting = True, self.next(), False
            return
        self._begin_alone(kernel)
        self.complete()

    # -- writes ----------------------------------------------------------------------------------

    def write(self, node: str, block: int, local: bool, remote: bool) -> None:
        """A pod writes; what does not happen at once stays under way."""
        kernel = self.kernels[node]
        if not kernel.is_serving() or block in kernel.pending:
            return
        if kernel.disk not in USABLE and kernel.link is None:
            return  # an error for the pod, nothing written
        write = Write(self.next(), block)
        kernel.pending[block] = write
        self._do(kernel, write, local=local, remote=remote)
        self._acknowledge_done(kernel)

    def complete(self) -> None:
        """Everything under way that can be done is done and acknowledged."""
        for kernel in self.kernels.values():
            if kernel.frozen:
                continue
            for write in list(kernel.pending.values()):
                self._do(kernel, write, local=True, remote=True)
            self._acknowledge_done(kernel)

    def _do(self, kernel: Kernel, write: Write, *, local: bool, remote: bool) -> None:
        if local and kernel.attached and not write.local:
            write.local = True
            kernel.image.hold(write)
        peer = self.other(kernel.node)
        if remote and self.linked(kernel.node) and peer.attached and not write.remote:
            write.remote = True
            peer.image.hold(write)

    def _acknowledge_done(self, kernel: Kernel) -> None:
        peer = self.other(kernel.node)
        for write in list(kernel.pending.values()):
            if kernel.frozen or (kernel.attached and not write.local):
                continue
            if kernel.link is not None:
                if not self.linked(kernel.node):
                    continue
                if peer.attached and not write.remote:
                    continue
            if kernel.disk not in USABLE and not write.remote:
                continue
            del kernel.pending[write.block]
            alone = not (write.local and write.remote)
            if alone and kernel.attached:
                self._begin_alone(kernel)
                kernel.image.dirty.add(write.block)
            self.acknowledge(kernel.node, write, alone)
