"""CreateVolume and CreateSnapshot as values: what is asked for, checked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twinvault_core import sizing
from twinvault_core.errors import AlreadyExistsError, InvalidError, OutOfRangeError
from twinvault_core.ids import snapshot_id_from_name, volume_id_from_name
from twinvault_core.model import Snapshot, Source, Volume, VolumeMode
from twinvault_core.names import (
    ANNOTATION_CSI_NAME,
    ANNOTATION_PVC,
    FINALIZER_SNAPSHOT,
    FINALIZER_VOLUME,
    PARAMETER_FS_TYPE,
    PARAMETER_POOL,
    PARAMETER_REPLICATION_PAIR,
    PARAMETER_RESYNC_PRIORITY,
    STORAGE_CLASS_PARAMETERS,
)

from .pb import csi_pb2
from .topology import Clusters, parse_requirement
from .validation import (
    parse_capabilities,
    parse_fs_type,
    parse_name,
    parse_priority,
    refuse_unknown,
    require_id,
)

DEFAULT_FS_TYPE = "ext4"
_PVC_NAME = "csi.storage.k8s.io/pvc/name"
_PVC_NAMESPACE = "csi.storage.k8s.io/pvc/namespace"
# Kubernetes' own key for fsType. The provisioner takes it out before CreateVolume, but asks
# GetCapacity with all that stands in the StorageClass.
_KUBERNETES_FS_TYPE = "csi.storage.k8s.io/fstype"
_VOLUME_METADATA = frozenset(
    {_PVC_NAME, _PVC_NAMESPACE, _KUBERNETES_FS_TYPE, "csi.storage.k8s.io/pv/name"}
)
_SNAPSHOT_METADATA = frozenset(
    {
        "csi.storage.k8s.io/volumesnapshot/name",
        "csi.storage.k8s.io/volumesnapshot/namespace",
        "csi.storage.k8s.io/volumesnapshotcontent/name",
    }
)


@dataclass(frozen=True)
class Parameters:
    """Parameters of a StorageClass; empty where not given."""

    pool: str = ""
    fs_type: str = ""
    replication_pair: str = ""
    resync_priority: int = 0
    claim: str = ""

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Parameters:
        refuse_unknown(
            {key: "" for key in given if key not in _VOLUME_METADATA},
            STORAGE_CLASS_PARAMETERS,
            "StorageClass parameter",
        )
        namespace, name = given.get(_PVC_NAMESPACE, ""), given.get(_PVC_NAME, "")
        return cls(
            pool=given.get(PARAMETER_POOL, ""),
            fs_type=parse_fs_type(
                given.get(PARAMETER_FS_TYPE) or given.get(_KUBERNETES_FS_TYPE, "")
            ),
            replication_pair=given.get(PARAMETER_REPLICATION_PAIR, ""),
            resync_priority=parse_priority(given.get(PARAMETER_RESYNC_PRIORITY, "")),
            claim=f"{namespace}/{name}" if namespace and name else "",
        )


@dataclass(frozen=True)
class VolumeRequest:
    """What CreateVolume asks for. Sizes in bytes, 0 where not given; empty text likewise."""

    name: str
    required_bytes: int
    limit_bytes: int
    volume_mode: VolumeMode
    fs_type: str
    pool: str
    replication_pair: str
    resync_priority: int
    source: Source
    requisite: tuple[str, ...]
    preferred: tuple[str, ...]
    claim: str

    @property
    def volume_id(self) -> str:
        return volume_id_from_name(self.name)

    @classmethod
    def parse(cls, request: csi_pb2.CreateVolumeRequest, clusters: Clusters) -> VolumeRequest:
        """InvalidError, OutOfRangeError or NoSpaceError if it can never be served as it is."""
        name = parse_name(request.name, "name")
        capabilities = parse_capabilities(request.volume_capabilities)
        parameters = Parameters.parse(request.parameters)
        refuse_unknown(request.mutable_parameters, (), "mutable parameter")
        mode = capabilities[0].volume_mode
        fs_type = next((one.fs_type for one in capabilities if one.fs_type), "")
        if mode is VolumeMode.FILESYSTEM:
            if fs_type and parameters.fs_type and fs_type != parameters.fs_type:
                raise InvalidError(
                    f"the capability asks for {fs_type}, the parameter fsType says"
                    f" {parameters.fs_type}; give one of them"
                )
            fs_type = fs_type or parameters.fs_type
        capacity = request.capacity_range
        sizing.choose_volume_size(capacity.required_bytes, capacity.limit_bytes, fs_type or None)
        requisite, preferred = parse_requirement(
            request.accessibility_requirements,
            clusters,
            has_source=request.HasField("volume_content_source"),
        )
        return cls(
            name=name,
            required_bytes=capacity.required_bytes,
            limit_bytes=capacity.limit_bytes,
            volume_mode=mode,
            fs_type=fs_type,
            pool=parameters.pool,
            replication_pair=parameters.replication_pair,
            resync_priority=parameters.resync_priority,
            source=_parse_source(request.volume_content_source),
            requisite=requisite,
            preferred=preferred,
            claim=parameters.claim,
        )


def _parse_source(source: csi_pb2.VolumeContentSource) -> Source:
    kind = source.WhichOneof("type")
    if kind == "snapshot":
        return Source(snapshot=require_id(source.snapshot.snapshot_id, "snapshot_id"))
    if kind == "volume":
        return Source(volume=require_id(source.volume.volume_id, "source volume_id"))
    return Source()


@dataclass(frozen=True)
class Origin:
    """What a source, or the lack of one, gives to a new volume."""

    pool: str = ""
    size_bytes: int = 0
    volume_mode: VolumeMode | None = None
    fs_type: str = ""


def plan_volume(request: VolumeRequest, origin: Origin) -> dict[str, Any]:
    """The Volume object to create. ``origin.pool`` is the pool when the request names none.

    OutOfRangeError for a size below the source's, InvalidError where the source does not fit.
    """
    if origin.volume_mode is not None:
        _check_origin(request, origin)
    fs_type = request.fs_type or origin.fs_type or DEFAULT_FS_TYPE
    filesystem = request.volume_mode is VolumeMode.FILESYSTEM
    required = request.required_bytes or origin.size_bytes
    size = sizing.choose_volume_size(required, request.limit_bytes, fs_type if filesystem else None)
    spec: dict[str, Any] = {
        "sizeBytes": size,
        "pool": request.pool or origin.pool,
        "volumeMode": request.volume_mode.value,
    }
    if filesystem:
        spec["fsType"] = fs_type
    if request.replication_pair:
        spec["replicationPair"] = request.replication_pair
    if request.resync_priority:
        spec["resyncPriority"] = request.resync_priority
    if request.source:
        spec["source"] = request.source.to_dict()
    where = {"requisite": list(request.requisite), "preferred": list(request.preferred)}
    if any(where.values()):
        spec["accessibility"] = {key: nodes for key, nodes in where.items() if nodes}
    annotations = {ANNOTATION_CSI_NAME: request.name}
    if request.claim:
        annotations[ANNOTATION_PVC] = request.claim
    return {
        "metadata": {
            "name": request.volume_id,
            "annotations": annotations,
            # On it from the first moment: there is no time in which it could vanish unseen.
            "finalizers": [FINALIZER_VOLUME],
        },
        "spec": spec,
    }


def _check_origin(request: VolumeRequest, origin: Origin) -> None:
    if request.required_bytes and request.required_bytes < origin.size_bytes:
        raise OutOfRangeError(
            f"the source has {origin.size_bytes} bytes, {request.required_bytes} were asked for;"
            " ask for at least as many"
        )
    if request.limit_bytes and request.limit_bytes < origin.size_bytes:
        raise OutOfRangeError(
            f"the source has {origin.size_bytes} bytes, the limit is {request.limit_bytes}"
        )
    if request.volume_mode is not origin.volume_mode:
        raise InvalidError(f"the source is a {origin.volume_mode} volume; ask for the same mode")
    if request.fs_type and origin.fs_type and request.fs_type != origin.fs_type:
        raise InvalidError(f"the source holds {origin.fs_type}; a copy cannot be {request.fs_type}")
    if request.pool and request.pool != origin.pool:
        raise InvalidError(
            f"the source is in pool {origin.pool!r}; a copy shares its blocks and lives there too"
        )


def check_same_volume(request: VolumeRequest, volume: Volume) -> None:
    """AlreadyExistsError, with the first difference, unless ``volume`` answers ``request``."""
    name = volume.meta.annotations.get(ANNOTATION_CSI_NAME)
    size, limit = volume.size_bytes, request.limit_bytes
    homes = {str(one["node"]) for one in volume.status.get("replicas") or ()}
    differences = {
        "was not made by a CreateVolume of that name": name != request.name,
        f"has {size} bytes": size < request.required_bytes or bool(limit and size > limit),
        f"is a {volume.volume_mode} volume": volume.volume_mode is not request.volume_mode,
        f"holds {volume.fs_type}": request.fs_type not in ("", volume.fs_type),
        f"is in pool {volume.pool!r}": request.pool not in ("", volume.pool),
        f"has replicationPair {volume.replication_pair!r}": (
            request.replication_pair != volume.replication_pair
        ),
        "has another source": request.source != volume.source,
        f"lives on {', '.join(sorted(homes))}": bool(
            request.requisite and homes and not homes & set(request.requisite)
        ),
    }
    for difference, differs in differences.items():
        if differs:
            raise AlreadyExistsError(
                f"Volume {volume.meta.name} exists and {difference}; use another name"
            )


@dataclass(frozen=True)
class SnapshotRequest:
    name: str
    volume_id: str

    @property
    def snapshot_id(self) -> str:
        return snapshot_id_from_name(self.name)

    @classmethod
    def parse(cls, request: csi_pb2.CreateSnapshotRequest) -> SnapshotRequest:
        name = parse_name(request.name, "name")
        volume_id = require_id(request.source_volume_id, "source_volume_id")
        refuse_unknown(
            {key: "" for key in request.parameters if key not in _SNAPSHOT_METADATA},
            (),
            "VolumeSnapshotClass parameter",
        )
        return cls(name, volume_id)

    def plan(self) -> dict[str, Any]:
        """The Snapshot object to create."""
        return {
            "metadata": {
                "name": self.snapshot_id,
                "annotations": {ANNOTATION_CSI_NAME: self.name},
                "finalizers": [FINALIZER_SNAPSHOT],
            },
            "spec": {"volume": self.volume_id},
        }


def check_same_snapshot(request: SnapshotRequest, snapshot: Snapshot) -> None:
    """AlreadyExistsError unless ``snapshot`` is the one that ``request`` asks for."""
    if snapshot.volume != request.volume_id:
        raise AlreadyExistsError(
            f"Snapshot {snapshot.meta.name} exists and is of volume {snapshot.volume};"
            " use another name"
        )
    if snapshot.meta.annotations.get(ANNOTATION_CSI_NAME) != request.name:
        raise AlreadyExistsError(
            f"Snapshot {snapshot.meta.name} exists and was not made by a CreateSnapshot of that"
            " name; use another name"
        )
