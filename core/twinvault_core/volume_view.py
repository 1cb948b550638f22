"""Everything that a decision about one Volume looks at, as it was at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .failover_view import NodeEvidence
from .model import ReplicationPair, StorageCluster, Volume, VolumeReplica
from .numbers import Claim, number_of_port
from .placement import Candidate
from .source_check import SourceView


@dataclass(frozen=True)
class VolumeView:
    """``volume`` None: no such Volume, but replicas name it.

    ``lost`` maps nodes whose agent is silent to a text that says since when.
    ``readers`` names what still reads the volume's data: clones and snapshots in the making.
    For a replicated volume: ``addresses`` of its nodes in the replication network as far as they
    are known, ``claims`` of device numbers that name it (or an earlier volume of its name),
    ``free_number`` the next one that nobody has, ``failover`` why the loss of its primary was not
    answered yet, ``stuck`` which step of a failover fails again and again, ``nodes`` what was
    watched of its nodes, ``rescue`` the name of a Snapshot that
    was taken for a forced promotion and is ready.

    ``leaving``: of the nodes that hold it, those that a person wants to be empty (evacuate, or lost
    for good); ``gone``: those that a person said will never come back. ``labelled``: Kubernetes
    nodes that say that they got a replica of this volume later.
    """

    name: str
    volume: Volume | None
    replicas: tuple[VolumeReplica, ...] = ()
    clusters: Mapping[str, StorageCluster] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    source: SourceView = field(default_factory=SourceView)
    pair: ReplicationPair | None = None
    lost: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()
    addresses: Mapping[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    free_number: int | None = None
    failover: str = ""
    stuck: str = ""
    nodes: Mapping[str, NodeEvidence] = field(default_factory=dict)
    rescue: str = ""
    leaving: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    labelled: frozenset[str] = frozenset()

    def own_replicas(self) -> tuple[VolumeReplica, ...]:
        """Replicas of this very Volume, not of an earlier one of the same name."""
        if self.volume is None:
            return ()
        uid = self.volume.meta.uid
        return tuple(r for r in self.replicas if r.volume_uid == uid)

    def member_replicas(self) -> tuple[VolumeReplica, ...]:
        """Own replicas that count: not those whose place another node has taken."""
        own = self.own_replicas()
        nodes = placed_nodes(self.volume) if self.volume is not None else ()
        return tuple(r for r in own if r.node in nodes) if nodes else own

    def former_numbers(self) -> frozenset[int]:
        """Numbers of ports at which replicas that are no members any more may still look."""
        members = {r.meta.name for r in self.member_replicas()}
        specs = (r.replication for r in self.own_replicas() if r.meta.name not in members)
        return frozenset(number_of_port(spec.port) for spec in specs if spec is not None)

    def foreign_replicas(self) -> tuple[VolumeReplica, ...]:
        """Replicas whose Volume is gone."""
        own = {r.meta.name for r in self.own_replicas()}
        return tuple(r for r in self.replicas if r.meta.name not in own)

    def own_claims(self) -> tuple[Claim, ...]:
        """Claims by this very Volume."""
        if self.volume is None:
            return ()
        uid = self.volume.meta.uid
        return tuple(c for c in self.claims if c.volume_uid == uid)

    def candidate(self, node: str) -> Candidate | None:
        return next((c for c in self.candidates if c.name == node), None)


def placed_nodes(volume: Volume) -> tuple[str, ...]:
    """Nodes that placement chose; empty until it has."""
    return tuple((volume.status.get("placement") or {}).get("nodes") or ())
