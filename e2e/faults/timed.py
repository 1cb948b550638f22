"""Faults that strike in the middle of something: each waits for it, and tells what it met."""

from __future__ import annotations

import time
from collections.abc import Callable

from e2e.faults.acknowledged import ROWS
from e2e.faults.course import COMING, GROWING, LEAVING, TAKING
from e2e.faults.ground import HELPER, Ground
from e2e.faults.leaders import find_leaders
from e2e.faults.scene import CLAIMS

MOMENT_SECONDS = 60.0
HUNT_SECONDS = 8.0
FULL_SECONDS = 20.0
_RESYNC_STRUCK = 0.6
"""Of a resync at most so much is left to pass before the strike: it may end between two looks."""

Inject = Callable[[Ground], None]


def cut_site(*, of_primary: bool) -> Inject:
    """Power cut of a whole site; who led there is kept."""

    def inject(ground: Ground) -> None:
        ground.leaders = find_leaders(ground.lab)
        node = ground.primary if of_primary else ground.secondary
        ground.strike()
        ground.lab.site(ground.site_of(node)).kill()

    return inject


def kill_helper(ground: Ground) -> None:
    ground.hunt(ground.primary, HELPER, seconds=HUNT_SECONDS)
    ground.strike()
    ground.cut_link()


def catch_up_then(*, cut_primary: bool) -> Inject:
    """One node loses its power while the secondary copies what it missed."""

    def inject(ground: Ground) -> None:
        _begin_resync(ground)
        victim = ground.primary if cut_primary else ground.secondary
        copied = _wait_copying(ground)
        ground.strike()
        ground.node(victim).kill()
        if copied is None:
            ground.missed("the resync was over between two looks")
        else:
            ground.saw(f"resync at {copied:.0%}")

    return inject


def _begin_resync(ground: Ground) -> None:
    """The link is cut until the record counts on the primary alone, and much is written."""
    sight = ground.sight
    ground.cut_link()
    alone = [ground.primary]
    sight.wait("the primary alone in sync by the record",
               lambda: sight.record().get("inSync") == alone, MOMENT_SECONDS)  # fmt: skip
    ground.pause()
    ground.write_much()
    ground.lab.link(ground.site_of(ground.primary), ground.site_of(ground.secondary)).heal()


def _wait_copying(ground: Ground) -> float | None:
    """Share copied when it is as far as the seed wants; None when it was over before."""
    wanted, copied = _RESYNC_STRUCK * ground.share, -1.0
    over = False

    def far_enough() -> bool:
        nonlocal copied, over
        share = ground.sight.resync_share(ground.secondary)
        over = share is None and copied >= 0
        copied = copied if share is None else share
        return over or copied >= wanted

    ground.sight.wait("the secondary copies what it missed", far_enough, MOMENT_SECONDS)
    return None if over else copied


def move_and_cut(*, target: bool) -> Inject:
    """Power cut while a volume moves: of the node that it leaves, or of the one it comes to."""

    def inject(ground: Ground) -> None:
        sight = ground.sight
        ground.send_away()
        if target:
            step = sight.wait_step(COMING, lambda: sight.coming_step(ground.secondary),
                                   ground.share, MOMENT_SECONDS)  # fmt: skip
        else:
            step = sight.wait_step(LEAVING, lambda: sight.leaving_step(ground.primary),
                                   ground.share, MOMENT_SECONDS)  # fmt: skip
        ground.strike()
        ground.node(ground.secondary if target else ground.primary).kill()
        ground.saw(step)

    return inject


def cut_while_growing(ground: Ground) -> None:
    sight = ground.sight
    ground.grow_volumes()
    size_bytes = ground.asked_bytes[CLAIMS[ROWS]]
    step = sight.wait_step(GROWING, lambda: sight.growing_step(size_bytes), ground.share,
                           MOMENT_SECONDS, over=lambda: sight.grown(size_bytes))  # fmt: skip
    _cut_primary(ground, step, "the volume had grown before it was seen to")


def cut_while_taking(ground: Ground) -> None:
    sight = ground.sight
    ground.take_snapshots()
    step = sight.wait_step(TAKING, sight.taking_step, ground.share, MOMENT_SECONDS,
                           over=sight.snapshot_taken)  # fmt: skip
    _cut_primary(ground, step, "the snapshot was taken before it was seen to")


def _cut_primary(ground: Ground, step: str, missed: str) -> None:
    ground.strike()
    ground.node(ground.primary).kill()
    if step:
        ground.saw(step)
    else:
        ground.missed(missed)


def fill_pool(ground: Ground) -> None:
    """Writes that need new room at the secondary meet a full pool there."""
    ground.strike()
    ground.fill_pool(ground.secondary)
    ground.write_much()
    deadline = time.monotonic() + FULL_SECONDS
    while True:
        side = ground.sight.side(ground.secondary)
        disk = side.disk if side is not None else "unconfigured"
        if disk != "UpToDate":
            ground.saw(f"its disk was {disk}")
            return
        if time.monotonic() > deadline:
            ground.missed("every write still found room")
            return
        time.sleep(0.2)


def press_memory(ground: Ground) -> None:
    ground.strike()
    ground.press_memory(ground.primary, ground.plan.hold_seconds)


def drain(ground: Ground) -> None:
    ground.mark_kernel_logs()
    ground.strike()
    ground.send_away()
