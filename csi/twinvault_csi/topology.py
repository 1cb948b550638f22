"""Between CSI topology segments and the names of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twinvault_core.errors import InvalidError, NoSpaceError
from twinvault_core.names import (
    LABEL_REPLICA_PREFIX,
    LABEL_REPLICA_VALUE,
    TOPOLOGY_CLUSTER,
    TOPOLOGY_NODE,
)

from .pb import csi_pb2

MAX_NODES = 500
"""As many as the schema of Volume takes."""

Clusters = Mapping[str, str]
"""StorageCluster by node name, of every node that stores data."""


def to_topology(node: str) -> csi_pb2.Topology:
    """Where a replica on ``node`` can be used."""
    return csi_pb2.Topology(segments={TOPOLOGY_NODE: node})


def to_later_homes(volume: str) -> csi_pb2.Topology:
    """Nodes that get a replica after the PersistentVolume, which never changes, was written."""
    return csi_pb2.Topology(segments={LABEL_REPLICA_PREFIX + volume: LABEL_REPLICA_VALUE})


def find_nodes(topology: csi_pb2.Topology, clusters: Clusters) -> list[str]:
    """The storage nodes in a segment, sorted; InvalidError for a key that is not ours."""
    unknown = sorted(set(topology.segments) - {TOPOLOGY_NODE, TOPOLOGY_CLUSTER})
    if unknown:
        raise InvalidError(
            f"unknown topology key {unknown[0]!r}; known are {TOPOLOGY_NODE}, {TOPOLOGY_CLUSTER}"
        )
    node = topology.segments.get(TOPOLOGY_NODE)
    cluster = topology.segments.get(TOPOLOGY_CLUSTER)
    return [
        name
        for name in sorted(clusters)
        if node in (None, name) and cluster in (None, clusters[name])
    ]


def _collect(terms: Iterable[csi_pb2.Topology], clusters: Clusters) -> tuple[str, ...]:
    found = [node for term in terms for node in find_nodes(term, clusters)]
    return tuple(dict.fromkeys(found))


def parse_requirement(
    requirement: csi_pb2.TopologyRequirement, clusters: Clusters, *, has_source: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Nodes that are allowed (empty: all) and nodes to try first, in order.

    The first preferred segment is where the scheduler wants the pod, and a blank volume is made
    only there: were its pool full in this very moment, a volume elsewhere would bind a pod to a
    site that it may not run at; an error instead lets the scheduler choose again. A copy has to
    be where its source is, whatever the scheduler wants.

    NoSpaceError when none of the requisite segments has a node that stores data.
    """
    requisite = _collect(requirement.requisite, clusters)
    preferred = _collect(requirement.preferred, clusters)
    if requirement.requisite and not requisite:
        wanted = "; ".join(
            ", ".join(f"{k}={v}" for k, v in sorted(term.segments.items()))
            for term in requirement.requisite[:5]
        )
        raise NoSpaceError(
            f"no node that stores data is in the required topology ({wanted});"
            " check the nodeSelector of the StorageClusters"
        )
    if requirement.preferred and not has_source:
        requisite = _collect(requirement.preferred[:1], clusters) or requisite
    if set(requisite) == set(clusters):
        requisite = ()
    if len(requisite) > MAX_NODES:
        raise InvalidError(f"the required topology has more than {MAX_NODES} nodes; narrow it")
    return requisite, preferred[:MAX_NODES]
