"""How a Volume is, in one word and three conditions; what its status is made of."""

from __future__ import annotations

from dataclasses import dataclass

from . import reasons
from .conditions import DEGRADED, PROGRESSING, READY, Condition
from .model import Phase


@dataclass(frozen=True)
class Growth:
    """An expansion that is wanted; ``refused`` is a reason and ``message`` the next step."""

    wanted: bool
    refused: str = ""
    message: str = ""


@dataclass(frozen=True)
class VolumeState:
    """How the volume is, in one word and one sentence."""

    phase: Phase
    ready: Condition
    progressing: Condition
    degraded: Condition


WHOLE = Condition(DEGRADED, False, reasons.HEALTHY, "nothing is wrong")
IDLE = Condition(PROGRESSING, False, reasons.IDLE, "nothing to do")


def broken(phase: Phase, reason: str, message: str, *, progressing: bool = False) -> VolumeState:
    """It cannot be used now."""
    degraded = phase is not Phase.PENDING
    return VolumeState(
        phase,
        Condition(READY, False, reason, message),
        Condition(PROGRESSING, progressing, reason, message),
        Condition(
            DEGRADED,
            degraded,
            reason if degraded else reasons.HEALTHY,
            message if degraded else "not placed yet",
        ),
    )


def being_made(reason: str, message: str) -> VolumeState:
    """It was never ready so far, and nothing is wrong with that."""
    return VolumeState(
        Phase.CREATING,
        Condition(READY, False, reason, message),
        Condition(PROGRESSING, True, reason, message),
        WHOLE,
    )
