"""What surrounds the services in a process: sockets, registration, health, the agent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from tests.csi.conftest import Driver
from twinvault_core.agent_api import NodeInfo, format_error, format_result, parse_request
from twinvault_core.errors import (
    BusyError,
    DeadlineError,
    InvalidError,
    TwinvaultError,
    UnavailableError,
)
from twinvault_csi.agent_client import AgentSocketClient
from twinvault_csi.controller import CAPABILITIES
from twinvault_csi.metrics import CallMetrics
from twinvault_csi.pb import csi_pb2, csi_pb2_grpc, pluginregistration_pb2_grpc
from twinvault_csi.pb import pluginregistration_pb2 as registration_pb2
from twinvault_csi.registration import Registration
from twinvault_csi.server import observe_socket, parse_endpoint, parse_metrics_address, serve
from twinvault_kube.http_status import Health, StatusServer

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def agent_at(path: Path, handler: Handler) -> AsyncIterator[AgentSocketClient]:
    handled: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.append(asyncio.current_task())
        await handler(reader, writer)
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    server = await asyncio.start_unix_server(handle, path)
    try:
        yield AgentSocketClient(path)
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*(task for task in handled if task is not None))


async def test_an_answer_of_the_agent_is_a_result_or_its_own_error(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = parse_request(await reader.readline())
        assert request == NodeInfo()
        writer.write(answers.pop(0))
        writer.close()

    answers = [
        format_result({"node": "a"}),
        format_error(BusyError("busy")),
        b"",
        b'{"res',
        b"{}\n",
    ]
    async with agent_at(tmp_path / "agent.sock", handler) as agent:
        assert await agent.call(NodeInfo(), timeout_seconds=20) == {"node": "a"}
        with pytest.raises(TwinvaultError, match="busy") as caught:
            await agent.call(NodeInfo(), timeout_seconds=20)
        assert caught.value.code is BusyError.code
        for _ in range(2):
            with pytest.raises(UnavailableError, match="before it answered"):
                await agent.call(NodeInfo(), timeout_seconds=20)
        with pytest.raises(TwinvaultError, match="neither a result nor an error"):
            await agent.call(NodeInfo(), timeout_seconds=20)


async def test_an_agent_that_is_away_is_unavailable(tmp_path: Path) -> None:
    agent = AgentSocketClient(tmp_path / "agent.sock")
    with pytest.raises(UnavailableError, match="does not answer"):
        await agent.call(NodeInfo(), timeout_seconds=20)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "agent.sock"))
    with pytest.raises(UnavailableError, match="does not answer"):
        await agent.call(NodeInfo(), timeout_seconds=20)


async def test_an_agent_that_hangs_meets_the_deadline(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with agent_at(tmp_path / "agent.sock", handler) as agent:
        with pytest.raises(DeadlineError, match="node_info"):
            await agent.call(NodeInfo(), timeout_seconds=0.05)


async def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        writer.close()

    async with agent_at(tmp_path / "agent.sock", handler) as agent:
        with pytest.raises(UnavailableError):
            await agent.call(NodeInfo(), timeout_seconds=20)


async def test_kubelet_is_told_the_driver_and_its_socket(tmp_path: Path) -> None:
    registration = Registration("/var/lib/kubelet/plugins/csi.twinvault.io/csi.sock")

    def add_services(server: grpc.aio.Server) -> None:
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(registration, server)

    server = await serve(tmp_path / "registry" / "reg.sock", add_services)
    target = f"unix:{tmp_path / 'registry' / 'reg.sock'}"
    async with grpc.aio.insecure_channel(target) as channel:
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info = await stub.GetInfo(registration_pb2.InfoRequest(), timeout=20)
        assert (info.type, info.name) == ("CSIPlugin", "csi.twinvault.io")
        assert info.endpoint == "/var/lib/kubelet/plugins/csi.twinvault.io/csi.sock"
        assert list(info.supported_versions) == ["1.0.0"]
        assert registration.registered is None
        for done in (False, True):
            status = registration_pb2.RegistrationStatus(plugin_registered=done, error="why")
            await stub.NotifyRegistrationStatus(status, timeout=20)
            assert registration.registered is done
    await server.stop(None)


async def test_identity_says_who_we_are_and_when_we_are_ready(driver: Driver) -> None:
    info = await driver.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=20)
    assert info.name == "csi.twinvault.io"
    assert info.vendor_version
    probe = await driver.identity.Probe(csi_pb2.ProbeRequest(), timeout=20)
    assert probe.ready.value
    request = csi_pb2.GetPluginCapabilitiesRequest()
    answer = await driver.identity.GetPluginCapabilities(request, timeout=20)
    kinds = {one.service.type for one in answer.capabilities if one.HasField("service")}
    assert kinds == {
        csi_pb2.PluginCapability.Service.CONTROLLER_SERVICE,
        csi_pb2.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS,
    }


async def test_what_is_advertised_is_implemented(driver: Driver) -> None:
    request = csi_pb2.ControllerGetCapabilitiesRequest()
    answer = await driver.controller.ControllerGetCapabilities(request, timeout=20)
    assert tuple(one.rpc.type for one in answer.capabilities) == CAPABILITIES
    node = await driver.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest(), timeout=20)
    assert len(node.capabilities) == 4


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "csi.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(csi_pb2_grpc.IdentityServicer(), server)

    server = await serve(path, add_services)
    assert observe_socket(path).good
    path.unlink()
    assert "restart" in observe_socket(path).text
    await server.stop(None)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [("unix:///csi/csi.sock", "/csi/csi.sock"), ("unix:/csi/csi.sock", "/csi/csi.sock")],
)
def test_endpoints_of_both_spellings_are_read(endpoint: str, path: str) -> None:
    assert parse_endpoint(endpoint) == Path(path)


@pytest.mark.parametrize("endpoint", ["", "tcp://:1", "unix:csi.sock", "unix:///" + "x" * 120])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidError):
        parse_endpoint(endpoint)


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("0.0.0.0", 9802)),
        ({"TWINVAULT_METRICS_PORT": "1", "TWINVAULT_METRICS_ADDRESS": "::1"}, ("::1", 1)),
    ],
)
def test_the_address_of_the_metrics_is_read_from_the_environment(
    environment: dict[str, str], address: tuple[str, int]
) -> None:
    assert parse_metrics_address(environment, 9802) == address


@pytest.mark.parametrize("port", ["x", "-1", "65536"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    with pytest.raises(InvalidError):
        parse_metrics_address({"TWINVAULT_METRICS_PORT": port}, 9802)


def test_calls_are_counted_by_method_and_code() -> None:
    metrics = CallMetrics()
    metrics.observe("CreateVolume", "OK", 0.2)
    sample = b'twinvault_csi_call_seconds_count{code="OK",method="CreateVolume"} 1.0'
    assert sample in metrics.format()


async def test_a_probe_may_ask_another_process_before_it_answers() -> None:
    async def ready() -> Health:
        await asyncio.sleep(0)
        return Health(False, "the agent of this node does not answer")

    status = StatusServer(
        "127.0.0.1", 0, metrics=bytes, healthy=lambda: Health(True, "serving"), ready=ready
    )
    await status.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", status.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"agent" in answer
    finally:
        await status.close()
