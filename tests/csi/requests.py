"""Requests that tests start from, and the code that a call ends with."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio

from twinvault_csi.pb import csi_pb2

GIB = 1024**3
Mode = csi_pb2.VolumeCapability.AccessMode


def capability(
    mode: int = Mode.SINGLE_NODE_WRITER,
    *,
    block: bool = False,
    fs_type: str = "",
    mount_flags: tuple[str, ...] = (),
) -> csi_pb2.VolumeCapability:
    kind = csi_pb2.VolumeCapability
    access = Mode(mode=mode)  # type: ignore[arg-type]
    if block:
        return kind(access_mode=access, block=kind.BlockVolume())
    mount = kind.MountVolume(fs_type=fs_type, mount_flags=mount_flags)
    return kind(access_mode=access, mount=mount)


def create_request(
    name: str, required_bytes: int = GIB, **more: Any
) -> csi_pb2.CreateVolumeRequest:
    """A request that is good unless ``more`` makes it bad."""
    more.setdefault("volume_capabilities", [capability()])
    more.setdefault("parameters", {"pool": "fast"})
    limit = more.pop("limit_bytes", 0)
    size = csi_pb2.CapacityRange(required_bytes=required_bytes, limit_bytes=limit)
    return csi_pb2.CreateVolumeRequest(name=name, capacity_range=size, **more)


def from_snapshot(snapshot_id: str) -> csi_pb2.VolumeContentSource:
    kind = csi_pb2.VolumeContentSource
    return kind(snapshot=kind.SnapshotSource(snapshot_id=snapshot_id))


def from_volume(volume_id: str) -> csi_pb2.VolumeContentSource:
    kind = csi_pb2.VolumeContentSource
    return kind(volume=kind.VolumeSource(volume_id=volume_id))


def on_nodes(*nodes: str) -> csi_pb2.TopologyRequirement:
    key = "topology.csi.twinvault.io/node"
    terms = [csi_pb2.Topology(segments={key: node}) for node in nodes]
    return csi_pb2.TopologyRequirement(requisite=terms, preferred=terms)


async def code_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The code and the words that a call fails with; OK when it does not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""
