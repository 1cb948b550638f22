"""A bare DRBD resource between the nodes of a volume, as the lab sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from bench.bare_config import MINOR
from bench.in_node import run_module, sources_in
from e2e.deploy import wait_seen
from e2e.faults.roles import Side, parse_sides
from e2e.lab.api import Lab, LabNode
from e2e.lab.progress import step, together

_NODE_SECONDS = 150.0
_PEER_SECONDS = 60.0
_MODULE = "bench.bare_inside"


@dataclass(frozen=True)
class Bare:
    """Primary at ``primary``; its device there is ``device``."""

    primary: LabNode
    secondary: LabNode

    @property
    def device(self) -> str:
        return f"/dev/drbd{MINOR}"

    def wait_in_sync(self, timeout_seconds: float = 120) -> None:
        self._wait("to be in sync", is_in_sync, timeout_seconds)

    def _wait(self, what: str, holds: Callable[[Side], bool], timeout_seconds: float) -> None:
        def probe() -> tuple[bool, str]:
            seen = [observe_side(node, MINOR) for node in (self.primary, self.secondary)]
            return all(s is not None and holds(s) for s in seen), "; ".join(map(str, seen))

        wait_seen(f"the bare resource {what}", probe, timeout_seconds=timeout_seconds)

    def declare_equal(self) -> None:
        """Both images are blank and both metadata just made: nothing needs to be copied."""
        self._wait("to meet its peer", lambda side: side.connection == "Connected", _PEER_SECONDS)
        run = self.primary.exec
        run("drbdsetup", "new-current-uuid", str(MINOR), "--clear-bitmap").check()
        self.wait_in_sync()
        run("drbdsetup", "primary", str(MINOR)).check()


def observe_side(node: LabNode, minor: int) -> Side | None:
    """The minor as its node has it, None while it is not configured there."""
    return parse_sides(node.exec("cat", "/proc/drbd").check().text).get(minor)


def is_in_sync(side: Side) -> bool:
    return (side.connection, side.disk, side.peer_disk) == ("Connected", "UpToDate", "UpToDate")


@contextmanager
def bare_resource(lab: Lab, volume: str, primary: str, *, fencing: str = "") -> Iterator[Bare]:
    """A bare resource with the settings, sizes and kinds of files of ``volume``, in sync, primary
    at ``primary``. Removed from both nodes at the end.
    """
    own = lab.node(primary)
    other = next(node for node in lab.nodes if node.name != primary)
    nodes = (own, other)
    try:
        with step("bare DRBD resource"):
            words = ("up", volume, *filter(None, [fencing]))
            together([partial(_run, node, *words) for node in nodes])
            bare = Bare(own, other)
            bare.declare_equal()
        yield bare
    finally:
        with step("removing the bare DRBD resource"):
            _remove(nodes)


def _remove(nodes: tuple[LabNode, LabNode]) -> None:
    """From both, also when the first one fails; the primary leaves first, so that it loses no peer
    while it is one.
    """
    try:
        _run(nodes[0], "down")
    finally:
        _run(nodes[1], "down")


def _run(node: LabNode, *words: str) -> None:
    with sources_in(node):
        run_module(node, _MODULE, *words, timeout_seconds=_NODE_SECONDS)
