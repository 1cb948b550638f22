"""Whether the two replicas of a volume reach one another, from what both agents report anyway.

Both kernels call one another all the time while they are not connected. When both do so for a
while, and both agents are alive, what lies between them lets nothing through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from .model import Volume, VolumeReplica
from .numbers import FIRST_PORT, MOST_NUMBERS
from .replication_state import Connection
from .volume_view import placed_nodes

UNREACHABLE_SECONDS = 30
"""So long without a connection although both call: a restart or a lost packet is over by then."""

_NOT_CALLING = (Connection.STANDALONE, Connection.DISCONNECTING)


@dataclass(frozen=True)
class LinkView:
    """The link of a volume whose replicas should be connected. ``trouble``: that nothing gets
    through, and what a person can do; empty while it is up, or down for a short time only.
    """

    nodes: frozenset[str]
    trouble: str = ""


def judge_link(
    volume: Volume, replicas: Iterable[VolumeReplica], lost: Mapping[str, str], *, now: str
) -> LinkView | None:
    """None while there is a reason of another kind for them not to be connected: a node that is
    silent, a disk that is gone, a replica that comes, leaves or was told not to call.

    ``now`` is RFC 3339. The agents' clocks say since when; only words depend on them.
    """
    nodes = placed_nodes(volume)
    ends = sorted((r for r in replicas if r.node in nodes), key=lambda r: r.node)
    if len(ends) != 2 or volume.meta.deleting:
        return None
    if any(end.node in lost or not _should_be_connected(end) for end in ends):
        return None
    found = frozenset(end.node for end in ends)
    since = [_disconnected_since(end) for end in ends]
    if not all(since) or not _is_past(max(since), now):
        return LinkView(found)
    return LinkView(found, _describe(ends[0], ends[1], max(since)))


def find_unreachable(
    volume: Volume, replicas: Iterable[VolumeReplica], lost: Mapping[str, str], *, now: str
) -> str:
    """That the volume's replicas do not reach one another; empty when that cannot be said."""
    link = judge_link(volume, replicas, lost, now=now)
    return link.trouble if link is not None else ""


def _should_be_connected(replica: VolumeReplica) -> bool:
    spec, report = replica.replication, replica.replication_status
    if spec is None or report is None or replica.meta.deleting or spec.peer_leaves:
        return False
    return report.connection not in _NOT_CALLING and not report.disk.gone


def _disconnected_since(replica: VolumeReplica) -> str:
    report = replica.replication_status
    return report.disconnected_since if report is not None and report.link_down else ""


def _is_past(since: str, now: str) -> bool:
    try:
        age = datetime.fromisoformat(now) - datetime.fromisoformat(since)
    except (ValueError, TypeError):
        return False
    return age >= timedelta(seconds=UNREACHABLE_SECONDS)


def _describe(one: VolumeReplica, other: VolumeReplica, since: str) -> str:
    told = " and ".join(
        f"{end.node} ({end.replication.address})" for end in (one, other) if end.replication
    )
    port = one.replication.port if one.replication is not None else FIRST_PORT
    return (
        f"{told} call one another at TCP port {port} since {since} and nothing gets through: a"
        " firewall or a route may be the reason. Replication needs TCP ports"
        f" {FIRST_PORT} to {FIRST_PORT + MOST_NUMBERS - 1} open both ways between these addresses"
    )
