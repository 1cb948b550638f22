"""The Controller service: each call is checked, locked by id and handed on; nothing is kept."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.wrappers_pb2 import Int64Value

from twinvault_core import sizing
from twinvault_core.errors import InvalidError, NotFoundError
from twinvault_core.ids import is_valid_id
from twinvault_core.model import Snapshot, Volume

from .calls import Context, wait_seconds
from .capacity import Room, observe_pair_room, observe_room
from .locks import InFlight
from .messages import (
    CONTEXT_READ_ONLY,
    is_listed,
    is_snapshot_listed,
    to_snapshot,
    to_volume,
)
from .objects import Objects
from .pages import choose_page
from .pb import csi_pb2, csi_pb2_grpc
from .publishing import Publishing
from .requests import Parameters, SnapshotRequest, VolumeRequest
from .snapshots import Snapshots
from .topology import find_nodes
from .validation import (
    find_id,
    parse_capabilities,
    refuse_unknown,
    require_capability,
    require_id,
)
from .volumes import Volumes

_Rpc = csi_pb2.ControllerServiceCapability.RPC
CAPABILITIES = (
    _Rpc.CREATE_DELETE_VOLUME,
    _Rpc.PUBLISH_UNPUBLISH_VOLUME,
    _Rpc.LIST_VOLUMES,
    _Rpc.LIST_VOLUMES_PUBLISHED_NODES,
    _Rpc.GET_CAPACITY,
    _Rpc.CREATE_DELETE_SNAPSHOT,
    _Rpc.LIST_SNAPSHOTS,
    _Rpc.GET_SNAPSHOT,
    _Rpc.CLONE_VOLUME,
    _Rpc.PUBLISH_READONLY,
    _Rpc.EXPAND_VOLUME,
    _Rpc.GET_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)
"""What is advertised is what is implemented below, no more and no less."""


class Controller(csi_pb2_grpc.ControllerServicer):
    """One instance serves every call; ``objects`` must be watching."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._in_flight = InFlight()
        self._volumes = Volumes(objects)
        self._snapshots = Snapshots(objects)
        self._publishing = Publishing(objects)

    async def ControllerGetCapabilities(
        self, request: csi_pb2.ControllerGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        one = csi_pb2.ControllerServiceCapability
        return csi_pb2.ControllerGetCapabilitiesResponse(
            capabilities=[one(rpc=_Rpc(type=type_)) for type_ in CAPABILITIES]
        )

    async def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: Context
    ) -> csi_pb2.CreateVolumeResponse:
        self._objects.require_synced()
        wanted = VolumeRequest.parse(request, self._objects.node_clusters())
        with self._in_flight.hold(wanted.volume_id, "CreateVolume"):
            volume = await self._volumes.ensure_created(wanted, wait_seconds(context))
        return csi_pb2.CreateVolumeResponse(volume=to_volume(volume))

    async def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: Context
    ) -> csi_pb2.DeleteVolumeResponse:
        self._objects.require_synced()
        volume_id = require_id(request.volume_id, "volume_id")
        # No object of ours can have any other name, so there is nothing to delete.
        if is_valid_id(volume_id):
            with self._in_flight.hold(volume_id, "DeleteVolume"):
                await self._volumes.ensure_deleted(volume_id, wait_seconds(context))
        return csi_pb2.DeleteVolumeResponse()

    async def ControllerPublishVolume(
        self, request: csi_pb2.ControllerPublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerPublishVolumeResponse:
        self._objects.require_synced()
        require_id(request.volume_id, "volume_id")
        node_id = require_id(request.node_id, "node_id")
        capability = require_capability(request)
        volume_id = find_id(request.volume_id, "volume")
        read_only = request.readonly or capability.read_only
        with self._in_flight.hold(volume_id, "ControllerPublishVolume"):
            volume = await self._publishing.ensure_published(
                volume_id, node_id, capability, read_only
            )
        await self._publishing.wait_primary(volume, node_id, wait_seconds(context))
        publish_context = {CONTEXT_READ_ONLY: "true"} if read_only else {}
        return csi_pb2.ControllerPublishVolumeResponse(publish_context=publish_context)

    async def ControllerUnpublishVolume(
        self, request: csi_pb2.ControllerUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerUnpublishVolumeResponse:
        self._objects.require_synced()
        volume_id = require_id(request.volume_id, "volume_id")
        if is_valid_id(volume_id):
            with self._in_flight.hold(volume_id, "ControllerUnpublishVolume"):
                await self._publishing.ensure_unpublished(volume_id, request.node_id)
        return csi_pb2.ControllerUnpublishVolumeResponse()

    async def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: Context
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        self._objects.require_synced()
        require_id(request.volume_id, "volume_id")
        if not request.volume_capabilities:
            raise InvalidError("volume capabilities are missing")
        volume = await self._objects.require_volume(request.volume_id)
        answer = csi_pb2.ValidateVolumeCapabilitiesResponse
        message = _find_mismatch(request, volume)
        if message:
            return answer(message=message)
        return answer(
            confirmed=answer.Confirmed(
                volume_context=request.volume_context,
                volume_capabilities=request.volume_capabilities,
                parameters=request.parameters,
            )
        )

    async def ListVolumes(
        self, request: csi_pb2.ListVolumesRequest, context: Context
    ) -> csi_pb2.ListVolumesResponse:
        self._objects.require_synced()
        listed = {
            name: volume
            for name, obj in self._objects.volumes.store.items()
            if is_listed(volume := Volume.parse(obj))
        }
        page = choose_page(list(listed), request.starting_token, request.max_entries)
        answer = csi_pb2.ListVolumesResponse
        return answer(
            entries=[
                answer.Entry(
                    volume=to_volume(listed[name]),
                    status=answer.VolumeStatus(published_node_ids=listed[name].published_to),
                )
                for name in page.ids
            ],
            next_token=page.next_token,
        )

    async def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest, context: Context
    ) -> csi_pb2.ControllerGetVolumeResponse:
        self._objects.require_synced()
        volume_id = find_id(request.volume_id, "volume_id")
        volume = await self._objects.require_volume(volume_id)
        answer = csi_pb2.ControllerGetVolumeResponse
        return answer(
            volume=to_volume(volume),
            status=answer.VolumeStatus(published_node_ids=volume.published_to),
        )

    async def GetCapacity(
        self, request: csi_pb2.GetCapacityRequest, context: Context
    ) -> csi_pb2.GetCapacityResponse:
        self._objects.require_synced()
        parameters = Parameters.parse(request.parameters)
        if request.volume_capabilities:
            parse_capabilities(request.volume_capabilities)
        nodes = None
        if request.accessible_topology.segments:
            nodes = find_nodes(request.accessible_topology, self._objects.node_clusters())
        room = self._observe_room(parameters, nodes)
        smallest = sizing.MIN_VOLUME_BYTES
        if parameters.fs_type == "xfs":
            smallest = sizing.MIN_XFS_VOLUME_BYTES
        return csi_pb2.GetCapacityResponse(
            available_capacity=room.available_bytes,
            maximum_volume_size=Int64Value(value=min(room.largest_bytes, sizing.MAX_VOLUME_BYTES)),
            minimum_volume_size=Int64Value(value=smallest),
        )

    def _observe_room(self, parameters: Parameters, nodes: Collection[str] | None) -> Room:
        """For a class whose pair does not exist as if it named none: the volume is asked for then,
        and refused in words; without room the scheduler would only say that there is none.
        """
        clusters = self._objects.all_clusters()
        pair = self._objects.find_pair(parameters.replication_pair)
        if pair is None:
            return observe_room(clusters, parameters.pool, nodes)
        return observe_pair_room(clusters, pair.clusters, parameters.pool, nodes)

    async def CreateSnapshot(
        self, request: csi_pb2.CreateSnapshotRequest, context: Context
    ) -> csi_pb2.CreateSnapshotResponse:
        self._objects.require_synced()
        wanted = SnapshotRequest.parse(request)
        find_id(wanted.volume_id, "source_volume_id")
        with self._in_flight.hold(f"snapshot {wanted.snapshot_id}", "CreateSnapshot"):
            snapshot = await self._snapshots.ensure_taken(wanted, wait_seconds(context))
        return csi_pb2.CreateSnapshotResponse(snapshot=to_snapshot(snapshot))

    async def DeleteSnapshot(
        self, request: csi_pb2.DeleteSnapshotRequest, context: Context
    ) -> csi_pb2.DeleteSnapshotResponse:
        self._objects.require_synced()
        snapshot_id = require_id(request.snapshot_id, "snapshot_id")
        if is_valid_id(snapshot_id):
            with self._in_flight.hold(f"snapshot {snapshot_id}", "DeleteSnapshot"):
                await self._snapshots.ensure_deleted(snapshot_id, wait_seconds(context))
        return csi_pb2.DeleteSnapshotResponse()

    async def ListSnapshots(
        self, request: csi_pb2.ListSnapshotsRequest, context: Context
    ) -> csi_pb2.ListSnapshotsResponse:
        self._objects.require_synced()
        store = self._objects.snapshots.store
        if request.source_volume_id:
            objects = self._objects.snapshots.find("volume", request.source_volume_id)
        else:
            objects = list(store.values())
        snapshots = (Snapshot.parse(obj) for obj in objects)
        listed = {
            one.meta.name: one
            for one in snapshots
            if is_snapshot_listed(one) and request.snapshot_id in ("", one.meta.name)
        }
        page = choose_page(list(listed), request.starting_token, request.max_entries)
        answer = csi_pb2.ListSnapshotsResponse
        return answer(
            entries=[answer.Entry(snapshot=to_snapshot(listed[name])) for name in page.ids],
            next_token=page.next_token,
        )

    async def GetSnapshot(
        self, request: csi_pb2.GetSnapshotRequest, context: Context
    ) -> csi_pb2.GetSnapshotResponse:
        self._objects.require_synced()
        snapshot_id = find_id(request.snapshot_id, "snapshot_id")
        snapshot = await self._objects.find_snapshot(snapshot_id)
        if snapshot is None or not is_snapshot_listed(snapshot):
            raise NotFoundError(f"snapshot {snapshot_id!r} does not exist")
        return csi_pb2.GetSnapshotResponse(snapshot=to_snapshot(snapshot))

    async def ControllerExpandVolume(
        self, request: csi_pb2.ControllerExpandVolumeRequest, context: Context
    ) -> csi_pb2.ControllerExpandVolumeResponse:
        self._objects.require_synced()
        require_id(request.volume_id, "volume_id")
        capacity = request.capacity_range
        if not (capacity.required_bytes or capacity.limit_bytes):
            raise InvalidError("capacity_range is missing")
        volume_id = find_id(request.volume_id, "volume")
        with self._in_flight.hold(volume_id, "ControllerExpandVolume"):
            volume = await self._volumes.ensure_expanded(
                volume_id, capacity.required_bytes, capacity.limit_bytes, wait_seconds(context)
            )
        return csi_pb2.ControllerExpandVolumeResponse(
            capacity_bytes=volume.status_size_bytes,
            # Block volumes too: the node's answer is the proof that the device has grown.
            node_expansion_required=True,
        )


def _find_mismatch(request: csi_pb2.ValidateVolumeCapabilitiesRequest, volume: Volume) -> str:
    """Why the volume is not as the request says; empty if it is."""
    try:
        capabilities = parse_capabilities(request.volume_capabilities)
        parameters = Parameters.parse(request.parameters)
        refuse_unknown(request.mutable_parameters, (), "mutable parameter")
    except InvalidError as error:
        return error.message
    fs_types = {one.fs_type for one in capabilities if one.fs_type}
    if parameters.fs_type and volume.fs_type:
        fs_types.add(parameters.fs_type)
    if capabilities[0].volume_mode is not volume.volume_mode:
        return f"the volume is a {volume.volume_mode} volume"
    if fs_types - {volume.fs_type}:
        return f"the volume holds {volume.fs_type}"
    if parameters.pool not in ("", volume.pool):
        return f"the volume is in pool {volume.pool}"
    if parameters.replication_pair not in ("", volume.replication_pair):
        return f"the volume has replicationPair {volume.replication_pair!r}"
    return ""
