"""Who we are and what the plugin can do; the same in the controller and the node process."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from importlib import metadata

from google.protobuf.wrappers_pb2 import BoolValue

from twinvault_core.names import DRIVER_NAME

from .calls import Context
from .pb import csi_pb2, csi_pb2_grpc

_Service = csi_pb2.PluginCapability.Service
_Expansion = csi_pb2.PluginCapability.VolumeExpansion
_SERVICES = (_Service.CONTROLLER_SERVICE, _Service.VOLUME_ACCESSIBILITY_CONSTRAINTS)


def observe_version() -> str:
    """Version of the installed wheel; from a source tree a word that no release has."""
    try:
        return metadata.version("twinvault")
    except metadata.PackageNotFoundError:
        return "0.0.0+source"


class Identity(csi_pb2_grpc.IdentityServicer):
    """``is_ready`` says whether calls can be served now; it answers soon."""

    def __init__(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        self._is_ready = is_ready
        commit = os.environ.get("TWINVAULT_COMMIT", "")
        self._info = csi_pb2.GetPluginInfoResponse(
            name=DRIVER_NAME,
            vendor_version=observe_version(),
            manifest={"commit": commit} if commit else {},
        )

    async def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: Context
    ) -> csi_pb2.GetPluginInfoResponse:
        return self._info

    async def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: Context
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        one = csi_pb2.PluginCapability
        return csi_pb2.GetPluginCapabilitiesResponse(
            capabilities=[
                *(one(service=_Service(type=service)) for service in _SERVICES),
                one(volume_expansion=_Expansion(type=_Expansion.ONLINE)),
            ]
        )

    async def Probe(self, request: csi_pb2.ProbeRequest, context: Context) -> csi_pb2.ProbeResponse:
        return csi_pb2.ProbeResponse(ready=BoolValue(value=await self._is_ready()))
