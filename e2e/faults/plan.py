"""Which fault a run suffers, and when: everything that chance decides, from the seed alone. Pure.

Consecutive seeds go through the whole table before a fault comes again: the seeds of one round
share a shuffled order, and the seed's place in its round picks from it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WARM_SECONDS = (1.0, 4.0)
HOLD_SECONDS = (6.0, 14.0)
DELAY_SECONDS = (0.0, 2.0)


@dataclass(frozen=True)
class RunPlan:
    """``seed`` alone gives all the rest.

    ``warm_seconds``: how long the writers run before. ``hold_seconds``: how long a fault stays
    that does not end by itself. ``delay_seconds``: between the two parts of a fault that has two.
    """

    seed: int
    fault: str
    warm_seconds: float
    hold_seconds: float
    delay_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.fault}: after {self.warm_seconds:.2f} s, for {self.hold_seconds:.1f} s,"
            f" second part after {self.delay_seconds:.2f} s"
        )


def plan_run(seed: int, faults: Sequence[str]) -> RunPlan:
    """The plan of one seed over the named faults; ValueError when there are none."""
    if not faults:
        raise ValueError("no fault of the table applies")
    round_number, place = divmod(seed, len(faults))
    order = list(faults)
    random.Random(f"order {round_number}").shuffle(order)
    chance = random.Random(f"run {seed}")
    return RunPlan(
        seed=seed,
        fault=order[place],
        warm_seconds=round(chance.uniform(*WARM_SECONDS), 3),
        hold_seconds=round(chance.uniform(*HOLD_SECONDS), 3),
        delay_seconds=round(chance.uniform(*DELAY_SECONDS), 3),
    )


def plan_runs(seed: int, runs: int, faults: Sequence[str]) -> list[RunPlan]:
    """``runs`` plans, of the seeds from ``seed`` on; run k alone is seed + k with one run."""
    return [plan_run(seed + number, faults) for number in range(runs)]
