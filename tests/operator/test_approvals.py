"""The Manual policy: what a person approves counts for one failover of a site, whoever leads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.operator.test_failover import NODES, _Rig, new_leader
from twinvault_core.ids import node_lease_name
from twinvault_operator.work_queue import Key

PAIR = Key("ReplicationPair", "metro")


class ManualRig(_Rig):
    """As it comes, and the pair's own plan keeps its status."""

    def __init__(self) -> None:
        super().__init__()
        self.set_failover(policy="Manual")

    def set_failover(self, **failover: Any) -> None:
        self.api.patch("replicationpairs", "metro", {"spec": {"failover": failover}})
        self.operator.deliver()

    def approve(self, site: str | None) -> None:
        self.set_failover(approve=site)

    def tell(self) -> None:
        """The pair's plan runs."""
        self.operator.reconcile(PAIR)

    @property
    def used(self) -> str | None:
        status = self.api.get("replicationpairs", "metro").get("status") or {}
        return status.get("approvalUsed")

    def lose(self, *lost: str, alive: tuple[str, ...] = ("west-1",)) -> None:
        for name, east in (("v", "east-1"), ("w", "east-2")):
            if east in lost:
                self.cut(name)
        self.pass_time(6, *alive)

    async def move_home(self, name: str = "v") -> None:
        """east-1 is back and the volume was moved there, as by a drain."""
        self.pass_time(3, *NODES)
        self.cut(name, "Connected")
        await self.settle()
        record = {"epoch": 9, "serial": 90, "primary": "east-1", "inSync": list(NODES)}
        self.api.patch("volumes", name, {"status": {"replication": record}})
        self.operator.deliver()
        await self.settle()


@pytest.fixture
def rig() -> ManualRig:
    made = ManualRig()
    for node in NODES:
        made.hear(node)
    made.pass_time(2, *NODES)
    return made


@pytest.fixture
def both(rig: ManualRig) -> ManualRig:
    """Two nodes at east with a volume each."""
    rig.add_second()
    rig.pass_time(2, *NODES, "east-2")
    return rig


async def test_cleared_and_set_again_it_approves_the_next_failover(rig: ManualRig) -> None:
    rig.lose("east-1")
    await rig.settle()
    assert rig.primary() == "east-1"
    rig.approve("west")
    await rig.settle()
    assert rig.primary() == "west-1"
    rig.tell()
    assert rig.used == "west"
    await rig.move_home()
    rig.lose("east-1")
    await rig.settle()
    assert rig.primary() == "east-1", "it counts once"
    rig.approve(None)
    rig.tell()
    assert rig.used is None
    rig.approve("west")
    await rig.settle()
    assert rig.primary() == "west-1"
    rig.tell()
    assert rig.used == "west"


async def test_set_again_before_the_status_was_written_it_counts(rig: ManualRig) -> None:
    rig.lose("east-1")
    rig.approve("west")
    await rig.settle()
    rig.tell()
    await rig.move_home()
    rig.lose("east-1")
    rig.approve(None)
    rig.approve("west")
    await rig.settle()
    assert rig.primary() == "west-1"


async def test_a_new_leader_clears_it_too(rig: ManualRig) -> None:
    rig.lose("east-1")
    rig.approve("west")
    await rig.settle()
    rig.tell()
    assert rig.used == "west"
    rig.api.patch("replicationpairs", "metro", {"spec": {"failover": {"approve": None}}})
    await new_leader(rig)
    rig.tell()
    assert rig.used is None


async def test_an_approval_is_for_all_nodes_of_the_site_that_are_lost(both: ManualRig) -> None:
    """The second one's swap met another writer; the first one's must not use it up."""
    both.lose("east-1", "east-2")
    await both.settle()
    both.kube.stale.add("w")
    both.approve("west")
    await both.settle()
    assert (both.primary("v"), both.primary("w")) == ("west-1", "east-2")
    both.tell()
    assert both.used is None
    both.kube.stale.clear()
    both.pass_time(6, "west-1")
    both.failover.look_at({"east-2"})
    await both.settle()
    assert both.primary("w") == "west-1"
    both.tell()
    assert both.used == "west"


async def test_a_node_whose_loss_is_proven_later_is_part_of_the_same_failover(
    both: ManualRig,
) -> None:
    both.approve("west")
    both.cut("v")
    both.cut("w")
    both.pass_time(3, "west-1", "east-2")
    both.pass_time(2, "west-1")
    await both.settle()
    assert (both.primary("v"), both.primary("w")) == ("west-1", "east-2")
    both.tell()
    assert both.used is None
    both.pass_time(5, "west-1")
    await both.settle()
    assert both.primary("w") == "west-1"
    both.tell()
    assert both.used == "west"


async def test_a_node_that_is_heard_of_is_not_part_of_it(both: ManualRig) -> None:
    both.lose("east-1", alive=("west-1", "east-2"))
    both.approve("west")
    await both.settle()
    both.pass_time(1, "west-1", "east-2")
    await both.settle()
    both.tell()
    assert both.used == "west"
    both.lose("east-2")
    await both.settle()
    assert both.primary("w") == "east-2"


@pytest.mark.parametrize("back", [False, True])
async def test_a_leader_that_dies_after_the_swap_leaves_no_approval_behind(
    rig: ManualRig, back: bool
) -> None:
    rig.lose("east-1")
    rig.approve("west")
    await rig.settle()
    assert rig.primary() == "west-1"
    if back:
        name = node_lease_name("east-1")
        rig.api.patch("leases", name, {"spec": {"beat": "back"}})
        rig.api.patch("storagenodes", "east-1", {"metadata": {"annotations": None}})
    await new_leader(rig)
    rig.tell()
    assert rig.used == "west"
    await rig.move_home()
    rig.lose("east-1")
    await rig.settle()
    assert rig.primary() == "east-1"


async def test_a_new_leader_keeps_an_approval_for_those_that_were_not_moved_yet(
    both: ManualRig,
) -> None:
    both.lose("east-1", "east-2")
    both.kube.stale.add("w")
    both.approve("west")
    await both.settle()
    assert both.primary("v") == "west-1"
    await new_leader(both)
    both.tell()
    assert both.used is None
    both.pass_time(6, "west-1")
    await both.settle()
    assert both.primary("w") == "west-1"
    both.tell()
    assert both.used == "west"


async def test_an_approval_that_nothing_was_moved_by_stands(rig: ManualRig) -> None:
    rig.approve("west")
    await new_leader(rig)
    rig.pass_time(3, *NODES)
    await rig.settle()
    rig.tell()
    assert rig.used is None
    rig.lose("east-1")
    await rig.settle()
    assert rig.primary() == "west-1"


async def test_what_an_earlier_lead_of_ours_told_is_not_told_again(rig: ManualRig) -> None:
    rig.lose("east-1")
    rig.approve("west")
    await rig.settle()
    rig.tell()
    first = rig.api.get("replicationpairs", "metro")["status"]["lastFailover"]
    # Another one leads for a while and tells of a later failover.
    rig.leading = False
    later = {**first, "time": "2030-01-01T00:00:00Z", "to": "east"}
    rig.clock[0] += 600
    rig.api.patch("replicationpairs", "metro", {"status": {"lastFailover": later}})
    rig.operator.deliver()
    rig.failover.take_over()
    rig.leading = True
    rig.tell()
    assert rig.api.get("replicationpairs", "metro")["status"]["lastFailover"] == later
