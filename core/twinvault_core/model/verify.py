"""What is told of the comparison of a volume's two replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

SHOWN_RANGES = 16
"""How many differing places are told; the kernel's log has all of them."""


class VerifyResult(StrEnum):
    RUNNING = "Running"
    EQUAL = "Equal"
    DIFFERENT = "Different"

    @property
    def final(self) -> bool:
        return self is not VerifyResult.RUNNING


@dataclass(frozen=True)
class VerifyReport:
    """``VolumeReplica.status.replication.verify``: the last comparison that was asked for.

    ``request`` is the token that asked. ``different_bytes`` were found to differ; ``ranges`` are
    (offset, length) in bytes of the first of them, as far as the kernel's log still has them.
    Times are RFC 3339. A pass that the loss of the link cut off leaves no report: it begins anew.
    """

    request: str
    result: VerifyResult = VerifyResult.RUNNING
    started_at: str = ""
    ended_at: str = ""
    percent: int = 0
    different_bytes: int = 0
    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> VerifyReport | None:
        if not raw:
            return None
        return cls(
            request=raw["request"],
            result=VerifyResult(raw.get("result") or "Running"),
            started_at=raw.get("startedAt") or "",
            ended_at=raw.get("endedAt") or "",
            percent=int(raw.get("percent") or 0),
            different_bytes=int(raw.get("differentBytes") or 0),
            ranges=tuple(
                (int(r["offsetBytes"]), int(r["lengthBytes"])) for r in raw.get("ranges") or ()
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """For a merge patch: what is not known is None, so that it goes."""
        return {
            "request": self.request,
            "result": self.result.value,
            "startedAt": self.started_at or None,
            "endedAt": self.ended_at or None,
            "percent": self.percent,
            "differentBytes": self.different_bytes,
            "ranges": [{"offsetBytes": o, "lengthBytes": n} for o, n in self.ranges] or None,
        }
