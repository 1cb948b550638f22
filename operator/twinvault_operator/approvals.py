"""Approvals of the Manual policy: each counts for one failover of a site, whoever leads."""

from __future__ import annotations

from twinvault_core.actions import REPLICATION_PAIR
from twinvault_core.failover import is_left_to_move
from twinvault_core.failover_phases import parse_moment
from twinvault_core.failover_view import Policy
from twinvault_core.model import Volume

from .evidence import choose_policy, find_approve, find_approved, observe_evidence
from .work_queue import Key, WorkQueue
from .world import World


class Approvals:
    """An approval is used up when a failover was begun with it and nothing is left that it lets
    move: every volume that was primary on a lost node of the site is elsewhere, or cannot move.

    What was used up stands in the pair's status and, until that is written, in ``World.pair_news``.
    """

    def __init__(self, world: World, queue: WorkQueue) -> None:
        self._world, self._queue = world, queue
        self._begun: dict[str, tuple[str, float]] = {}
        """By pair: the approval with which a failover was begun that may not be over, and when
        that was heard of last (monotonic seconds).
        """

    def take_over(self, since: float) -> None:
        """The lead begins. A leader that died after a swap did not use up what had allowed it.

        That is seen from the volumes: one was moved to the approved site after ``since`` (seconds
        since 1970), or from a node that is still lost. In doubt an approval counts as used: to set
        it once more costs a person a moment, a standing one could allow what nobody wants.
        """
        self._begun.clear()
        for pair in self._world.pairs.values():
            approved = find_approved(self._world, pair)
            if not approved or choose_policy(self._world, pair).policy is not Policy.MANUAL:
                continue
            volumes = self._world.volumes.find("pair", pair.meta.name)
            if any(self._was_moved(v, approved, since) for v in volumes):
                self._begun[pair.meta.name] = approved, self._world.liveness.monotonic()

    def _was_moved(self, volume: Volume, approved: str, since: float) -> bool:
        swap, record = volume.status.get("lastFailover") or {}, volume.record
        if not swap or record is None or record.primary != swap.get("to"):
            return False
        if self._world.observe_node(record.primary).storage_cluster != approved:
            return False
        lost = self._world.observe_node(str(swap.get("from") or ""))
        recent = parse_moment(str(swap.get("time") or "")) > since
        return recent or lost.marked or lost.expired

    def note(self, name: str) -> None:
        """A volume of this pair was moved just now, by a failover."""
        pair = self._world.pairs.get(name)
        if pair is None or choose_policy(self._world, pair).policy is not Policy.MANUAL:
            return
        approved = find_approved(self._world, pair)
        if approved:
            self._begun[name] = approved, self._world.liveness.monotonic()

    def forget_cleared(self) -> None:
        """Where nothing is approved nothing is used up: set again, the same site counts again.

        Noted at once, for the field may be set again before the status is written.
        """
        for pair in self._world.pairs.values():
            if find_approve(pair):
                continue
            name = pair.meta.name
            self._begun.pop(name, None)
            known = self._world.pair_news.get(name, {})
            if known.get("approvalUsed") or pair.status.get("approvalUsed"):
                self._world.pair_news.setdefault(name, {})["approvalUsed"] = None

    def settle(self) -> None:
        """Use up what has nothing left to allow."""
        for name, (approved, begun) in list(self._begun.items()):
            pair = self._world.pairs.get(name)
            if pair is None or find_approve(pair) != approved:
                self._begun.pop(name)
                continue
            volumes = self._world.volumes.find("pair", name)
            if any(self._is_left(v, approved, begun) for v in volumes):
                continue
            self._begun.pop(name)
            self._world.pair_news.setdefault(name, {})["approvalUsed"] = approved
            self._queue.add(Key(REPLICATION_PAIR, name))

    def _is_left(self, volume: Volume, approved: str, begun: float) -> bool:
        record = volume.record
        if record is None:
            return False
        evidence = observe_evidence(self._world, volume)
        nodes = {r.node: self._world.observe_node(r.node) for r in evidence.replicas}
        primary = nodes.get(record.primary)
        if primary is None or primary.storage_cluster == approved:
            return False
        return self._is_unknown(record.primary, begun) or is_left_to_move(evidence, nodes, approved)

    def _is_unknown(self, node: str, begun: float) -> bool:
        """Whether it may be lost like the others, and there is no proof yet: its Lease was not
        renewed since the failover began. A node is heard of, or proven lost, within its duration.
        """
        liveness = self._world.liveness
        evidence = self._world.observe_node(node)
        if evidence.expired or liveness.next_read(node, 0.0) is None:
            return False
        return evidence.silent_seconds >= liveness.monotonic() - begun
