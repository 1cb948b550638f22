"""What a run found, as one line of JSON and as a row of the summary. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from e2e.faults.acknowledged import SERVICES
from e2e.faults.timeline import Moment
from e2e.faults.verdict import choose_percentile


@dataclass
class RunResult:
    """``pauses`` and ``recoveries``: service -> seconds. ``checked``: acknowledged writes that
    were looked for, those of earlier runs too. ``role_looks``: how often both sides' roles were
    compared. ``hit``: whether the fault met the state that it is about (None: it needs none),
    ``seen``: which that was. ``leaders``: who led where when a site was cut. Times are seconds of
    time.time().
    """

    seed: int
    fault: str
    replicated: bool
    primary_before: str = ""
    node_during: str = ""
    primary_after: str = ""
    hit: bool | None = None
    seen: str = ""
    leaders: dict[str, str] = field(default_factory=dict)
    struck_at: float = 0.0
    healed_at: float = 0.0
    pauses: dict[str, float] = field(default_factory=dict)
    recoveries: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    settle_seconds: float = 0.0
    checked: int = 0
    role_looks: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_json(self) -> str:
        """One line; roles and moments are evidence and go to files."""
        hidden = ("roles", "moments", "struck_at", "healed_at")
        values = {key: value for key, value in vars(self).items() if key not in hidden}
        return json.dumps(_finite({"passed": self.passed, **values}))


def parse_results(lines: Iterable[str]) -> list[RunResult]:
    """What ``to_json`` wrote, of one series or of several; the last run of a seed and fault
    counts. ValueError for another line.
    """
    found: dict[tuple[int, str, bool], RunResult] = {}
    known = {field.name for field in fields(RunResult)}
    for line in lines:
        values = {k: v for k, v in json.loads(line).items() if k in known}
        for name in ("pauses", "recoveries", "phases"):
            values[name] = {k: math.inf if v is None else v for k, v in values[name].items()}
        result = RunResult(**values)
        found[(result.seed, result.fault, result.replicated)] = result
    return list(found.values())


def _finite(value: object) -> object:
    """JSON knows no infinity: what never came is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def render_summary(results: Sequence[RunResult]) -> str:
    """A row for each fault: runs, failed ones, those that met the state that the fault is about
    (of those that looked for one), and p50, p95 and max of pause and recovery.
    """
    header = ["fault", "runs", "failed", "hit"]
    for service in SERVICES:
        header += [f"{service} pause p50/p95/max", f"{service} RTO p50/p95/max"]
    rows = [header, *(_row(name, results) for name in sorted({r.fault for r in results}))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    failed = sum(not r.passed for r in results)
    looks = sum(r.role_looks for r in results)
    missed = sum(r.hit is False for r in results)
    checked = max((r.checked for r in results), default=0)
    lines.append(
        f"{len(results)} runs, {failed} failed; {checked} acknowledged writes looked for,"
        f" roles compared {looks} times; {missed} missed the state that their fault is about"
    )
    return "\n".join(lines)


def _row(name: str, results: Sequence[RunResult]) -> list[str]:
    mine = [r for r in results if r.fault == name]
    row = [name, str(len(mine)), str(sum(not r.passed for r in mine)), _told_hits(mine)]
    for service in SERVICES:
        for values in (
            [r.pauses[service] for r in mine if service in r.pauses],
            [r.recoveries[service] for r in mine if service in r.recoveries],
        ):
            row.append("/".join(_told(choose_percentile(values, s)) for s in (0.5, 0.95, 1.0)))
    return row


def _told_hits(results: Sequence[RunResult]) -> str:
    looked = [r.hit for r in results if r.hit is not None]
    return f"{sum(looked)}/{len(looked)}" if looked else "-"


def _told(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    return "never" if math.isinf(seconds) else f"{seconds:.2f}"
