"""kubelet's plugin registration, served by the node process itself: no registrar beside it."""

from __future__ import annotations

import logging

from twinvault_core.names import DRIVER_NAME

from .calls import Context
from .pb import pluginregistration_pb2 as pb
from .pb import pluginregistration_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

SOCKET_NAME = f"{DRIVER_NAME}-reg.sock"
"""In kubelet's ``plugins_registry`` directory, which it watches."""
_TYPE = "CSIPlugin"
_VERSIONS = ("1.0.0",)


class Registration(pb_grpc.RegistrationServicer):
    """``csi_socket`` is the path of our CSI socket as kubelet sees it."""

    def __init__(self, csi_socket: str) -> None:
        self._csi_socket = csi_socket
        self.registered: bool | None = None
        """None until kubelet has told."""

    async def GetInfo(self, request: pb.InfoRequest, context: Context) -> pb.PluginInfo:
        return pb.PluginInfo(
            type=_TYPE,
            name=DRIVER_NAME,
            endpoint=self._csi_socket,
            supported_versions=_VERSIONS,
        )

    async def NotifyRegistrationStatus(
        self, request: pb.RegistrationStatus, context: Context
    ) -> pb.RegistrationStatusResponse:
        self.registered = request.plugin_registered
        if request.plugin_registered:
            logger.info("kubelet has registered %s", DRIVER_NAME)
        else:
            # kubelet tries again by itself, less and less often.
            logger.error("kubelet did not register %s: %s", DRIVER_NAME, request.error)
        return pb.RegistrationStatusResponse()
