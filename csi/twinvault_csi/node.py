"""The Node service: each call is checked and handed to the agent. Nothing is kept here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinvault_core.agent_api import (
    AgentClient,
    Expand,
    NodeInfo,
    Publish,
    Request,
    Stage,
    Stats,
    Unpublish,
    Unstage,
)
from twinvault_core.errors import (
    FailedPreconditionError,
    InvalidError,
    TwinvaultError,
    UnavailableError,
)
from twinvault_core.model import VolumeMode

from .calls import Context, wait_seconds
from .locks import InFlight
from .messages import CONTEXT_FS_TYPE, CONTEXT_READ_ONLY
from .pb import csi_pb2, csi_pb2_grpc
from .topology import to_topology
from .validation import (
    find_id,
    find_path,
    parse_fs_type,
    parse_path,
    require_capability,
    require_id,
)

NODE_INFO_SECONDS = 5.0

_Rpc = csi_pb2.NodeServiceCapability.RPC
CAPABILITIES = (
    _Rpc.STAGE_UNSTAGE_VOLUME,
    _Rpc.GET_VOLUME_STATS,
    _Rpc.EXPAND_VOLUME,
    _Rpc.SINGLE_NODE_MULTI_WRITER,
)


async def observe_node(agent: AgentClient, node_name: str) -> Mapping[str, Any]:
    """What the agent says of its node; UnavailableError until it is the right and a ready one."""
    info = await agent.call(NodeInfo(), timeout_seconds=NODE_INFO_SECONDS)
    if info.get("node") != node_name:
        raise TwinvaultError(
            f"the agent says it is on node {info.get('node')!r}, this process is on"
            f" {node_name!r}; check NODE_NAME of both containers"
        )
    if not info.get("ready"):
        raise UnavailableError(f"the agent of node {node_name} is still starting")
    return info


class Node(csi_pb2_grpc.NodeServicer):
    """``node_name`` is the name of the Kubernetes node, and our node id."""

    def __init__(self, agent: AgentClient, node_name: str) -> None:
        self._agent = agent
        self._node_name = node_name
        self._in_flight = InFlight()

    async def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        one = csi_pb2.NodeServiceCapability
        return csi_pb2.NodeGetCapabilitiesResponse(
            capabilities=[one(rpc=_Rpc(type=type_)) for type_ in CAPABILITIES]
        )

    async def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: Context
    ) -> csi_pb2.NodeGetInfoResponse:
        info = await observe_node(self._agent, self._node_name)
        return csi_pb2.NodeGetInfoResponse(
            node_id=self._node_name,
            max_volumes_per_node=int(info.get("maxVolumes") or 0),
            accessible_topology=to_topology(self._node_name),
        )

    async def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: Context
    ) -> csi_pb2.NodeStageVolumeResponse:
        require_id(request.volume_id, "volume_id")
        staging_path = parse_path(request.staging_target_path, "staging_target_path")
        capability = require_capability(request)
        fs_type = ""
        if capability.volume_mode is VolumeMode.FILESYSTEM:
            known = parse_fs_type(request.volume_context.get(CONTEXT_FS_TYPE, ""))
            fs_type = capability.fs_type or known
            if known and fs_type != known:
                raise InvalidError(f"the volume holds {known}, not {fs_type}")
        published_read_only = request.publish_context.get(CONTEXT_READ_ONLY) == "true"
        stage = Stage(
            volume_id=find_id(request.volume_id, "volume"),
            staging_path=staging_path,
            volume_mode=capability.volume_mode.value,
            fs_type=fs_type,
            mount_options=capability.mount_flags,
            read_only=capability.read_only or published_read_only,
        )
        await self._change(stage, context)
        return csi_pb2.NodeStageVolumeResponse()

    async def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: Context
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        require_id(request.volume_id, "volume_id")
        staging_path = parse_path(request.staging_target_path, "staging_target_path")
        volume_id = find_id(request.volume_id, "volume")
        await self._change(Unstage(volume_id, staging_path), context)
        return csi_pb2.NodeUnstageVolumeResponse()

    async def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: Context
    ) -> csi_pb2.NodePublishVolumeResponse:
        require_id(request.volume_id, "volume_id")
        target_path = parse_path(request.target_path, "target_path")
        capability = require_capability(request)
        if not request.staging_target_path:
            raise FailedPreconditionError("staging_target_path is missing: stage the volume first")
        published_read_only = request.publish_context.get(CONTEXT_READ_ONLY) == "true"
        publish = Publish(
            volume_id=find_id(request.volume_id, "volume"),
            staging_path=parse_path(request.staging_target_path, "staging_target_path"),
            target_path=target_path,
            volume_mode=capability.volume_mode.value,
            mount_options=capability.mount_flags,
            read_only=request.readonly or capability.read_only or published_read_only,
            single_writer=capability.single_writer,
        )
        await self._change(publish, context)
        return csi_pb2.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        require_id(request.volume_id, "volume_id")
        target_path = parse_path(request.target_path, "target_path")
        volume_id = find_id(request.volume_id, "volume")
        await self._change(Unpublish(volume_id, target_path), context)
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: Context
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        volume_id = find_id(request.volume_id, "volume_id")
        path = find_path(request.volume_path, "volume_path")
        found = await self._agent.call(
            Stats(volume_id, path), timeout_seconds=wait_seconds(context)
        )
        return csi_pb2.NodeGetVolumeStatsResponse(usage=_to_usage(found))

    async def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, context: Context
    ) -> csi_pb2.NodeExpandVolumeResponse:
        volume_id = find_id(request.volume_id, "volume_id")
        path = find_path(request.volume_path, "volume_path")
        wanted = request.capacity_range
        if wanted.required_bytes < 0 or wanted.limit_bytes < 0:
            raise InvalidError("the capacity range is negative")
        if 0 < wanted.limit_bytes < wanted.required_bytes:
            raise InvalidError("more bytes are required than the limit allows")
        expand = Expand(volume_id, path, wanted.required_bytes)
        found = await self._change(expand, context)
        return csi_pb2.NodeExpandVolumeResponse(capacity_bytes=int(found["sizeBytes"]))

    async def _change(
        self, request: Stage | Unstage | Publish | Unpublish | Expand, context: Context
    ) -> Mapping[str, Any]:
        with self._in_flight.hold(request.volume_id, request.operation):
            return await self._ask(request, wait_seconds(context))

    async def _ask(self, request: Request, seconds: float) -> Mapping[str, Any]:
        return await self._agent.call(request, timeout_seconds=seconds)


def _to_usage(stats: Mapping[str, Any]) -> list[csi_pb2.VolumeUsage]:
    """Bytes always, inodes where the volume is a filesystem."""
    unit = csi_pb2.VolumeUsage
    usage = [
        unit(
            unit=unit.BYTES,
            total=int(stats.get("totalBytes") or 0),
            used=int(stats.get("usedBytes") or 0),
            available=int(stats.get("availableBytes") or 0),
        )
    ]
    if stats.get("volumeMode") == VolumeMode.FILESYSTEM:
        usage.append(
            unit(
                unit=unit.INODES,
                total=int(stats.get("totalInodes") or 0),
                used=int(stats.get("usedInodes") or 0),
                available=int(stats.get("availableInodes") or 0),
            )
        )
    return usage
