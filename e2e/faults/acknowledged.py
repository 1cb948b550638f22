"""What the writers were told is safe, when, and how long they were told nothing. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ROWS = "rows"
BLOCKS = "blocks"
SERVICES = (ROWS, BLOCKS)


@dataclass(frozen=True)
class Acknowledgement:
    """One write that a writer was told is safe. ``at``: seconds of the observer's own clock.

    ``stream`` is who counts, ``run`` which start of that program: the same number of another run
    is another write.
    """

    stream: str
    run: int
    number: int
    at: float

    @property
    def service(self) -> str:
        return self.stream.partition("-")[0]


@dataclass(frozen=True)
class Pause:
    """A time without any acknowledgement of a service, both ends in the observer's seconds.

    ``end`` is infinite when none came any more.
    """

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def parse_acknowledgement(datagram: bytes, at: float) -> Acknowledgement | None:
    """None for anything but ``STREAM RUN NUMBER``."""
    words = datagram.split()
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Acknowledgement(words[0].decode("ascii", "replace"), int(words[1]), int(words[2]), at)


def find_longest_pause(times: Sequence[float], since: float, until: float) -> Pause:
    """The longest one that ends after ``since`` and begins before ``until``.

    ``times`` rise. One that began before ``since`` counts whole; after the last acknowledgement
    comes one that ends at ``until``, or never if nothing came after ``since`` at all.
    """
    first = bisect_left(times, since)
    begin = times[first - 1] if first else since
    longest = Pause(begin, begin)
    for at in times[first:]:
        if begin >= until:
            break
        if at - begin > longest.seconds:
            longest = Pause(begin, at)
        begin = at
    if first == len(times):
        return Pause(begin, float("inf"))
    if until - begin > longest.seconds:
        longest = Pause(begin, until)
    return longest


def choose_promised(
    acknowledged: Iterable[Acknowledgement],
) -> dict[str, dict[int, int]]:
    """Stream -> number -> the run that must be found with it.

    The latest acknowledgement of a number counts: an earlier run's write of it may be overwritten
    only by a run that could not see it, which ``find_rewritten`` tells.
    """
    promised: dict[str, dict[int, int]] = {}
    for one in sorted(acknowledged, key=lambda a: a.at):
        promised.setdefault(one.stream, {})[one.number] = one.run
    return promised


def find_rewritten(acknowledged: Iterable[Acknowledgement]) -> list[str]:
    """Numbers that two runs were told are safe: the later run did not find the earlier's write."""
    runs: dict[tuple[str, int], set[int]] = {}
    for one in acknowledged:
        runs.setdefault((one.stream, one.number), set()).add(one.run)
    return [
        f"{stream} {number} was acknowledged to {len(who)} runs of the writer: the first was lost"
        for (stream, number), who in sorted(runs.items())
        if len(who) > 1
    ]


def find_missing_rows(
    promised: Mapping[str, Mapping[int, int]], found: Mapping[str, Mapping[int, int]]
) -> list[str]:
    """What was acknowledged and is not there as it was; streams of rows only."""
    problems = []
    for stream, numbers in sorted(promised.items()):
        there = found.get(stream, {})
        for number, run in sorted(numbers.items()):
            if number not in there:
                problems.append(f"{stream} {number} was acknowledged and is missing")
            elif there[number] != run:
                problems.append(f"{stream} {number} was acknowledged to another run: lost before")
    return problems


def find_missing_blocks(
    promised: Mapping[int, int], found: Mapping[int, int], blocks: int
) -> list[str]:
    """``found``: number -> run of what each block holds now. A block may hold a later number."""
    holds = {number % blocks: number for number in found}
    newest: dict[int, int] = {}
    for number in promised:
        newest[number % blocks] = max(number, newest.get(number % blocks, 0))
    problems = []
    for index, number in sorted(newest.items()):
        there = holds.get(index, 0)
        if there < number:
            problems.append(f"block {index}: {number} was acknowledged, {there} is there")
        elif there == number and found[there] != promised[number]:
            problems.append(f"block {index}: {number} was acknowledged to another run: lost before")
    return problems
