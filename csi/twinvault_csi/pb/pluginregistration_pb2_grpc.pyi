from typing import Any
import grpc
import grpc.aio
from twinvault_csi.pb import pluginregistration_pb2

_Context = grpc.aio.ServicerContext[Any, Any]

class RegistrationStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    GetInfo: grpc.aio.UnaryUnaryMultiCallable[pluginregistration_pb2.InfoRequest, pluginregistration_pb2.PluginInfo]
    NotifyRegistrationStatus: grpc.aio.UnaryUnaryMultiCallable[pluginregistration_pb2.RegistrationStatus, pluginregistration_pb2.RegistrationStatusResponse]

class RegistrationServicer:
    async def GetInfo(self, request: pluginregistration_pb2.InfoRequest, context: _Context) -> pluginregistration_pb2.PluginInfo: ...
    async def NotifyRegistrationStatus(self, request: pluginregistration_pb2.RegistrationStatus, context: _Context) -> pluginregistration_pb2.RegistrationStatusResponse: ...

def add_RegistrationServicer_to_server(
    servicer: RegistrationServicer, server: grpc.aio.Server
) -> None: ...
