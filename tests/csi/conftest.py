"""The real services over real unix sockets; only the API server and the agent stand in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from tests.csi.fake_api import FakeApi
from tests.csi.fake_operator import FakeOperator
from twinvault_core.agent_api import NodeInfo, Request
from twinvault_core.errors import TwinvaultError
from twinvault_csi.controller import Controller
from twinvault_csi.identity import Identity
from twinvault_csi.node import Node
from twinvault_csi.objects import Objects
from twinvault_csi.pb import csi_pb2_grpc
from twinvault_csi.server import serve
from twinvault_kube.informer import run_informers

DEADLINE_SECONDS = 20.0


class FakeAgent:
    """Records what it is asked; ``answers`` by operation, an error is raised."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.blocked: asyncio.Event | None = None
        self.answers: dict[str, Mapping[str, Any] | TwinvaultError] = {
            "node_info": {"node": "node-a", "maxVolumes": 16, "ready": True},
            "expand": {"sizeBytes": 4096},
        }

    async def call(self, request: Request, *, timeout_seconds: float) -> Mapping[str, Any]:
        if not isinstance(request, NodeInfo):
            self.requests.append(request)
        if self.blocked is not None:
            await self.blocked.wait()
        answer = self.answers.get(request.operation, {})
        if isinstance(answer, TwinvaultError):
            raise answer
        return answer


@dataclass
class Driver:
    """Stubs of the served services, and what stands behind them."""

    identity: csi_pb2_grpc.IdentityStub
    controller: csi_pb2_grpc.ControllerStub
    node: csi_pb2_grpc.NodeStub
    api: FakeApi
    operator: FakeOperator
    agent: FakeAgent
    objects: Objects


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    api = FakeApi()
    operator = FakeOperator(api)
    operator.add_node("node-a", "east")
    operator.add_node("node-b", "west")
    agent = FakeAgent()
    objects = Objects.watching(api)  # type: ignore[arg-type]
    watching = asyncio.create_task(run_informers((*objects.informers, *operator.informers)))

    async def is_ready() -> bool:
        return objects.synced

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(is_ready), server)
        csi_pb2_grpc.add_ControllerServicer_to_server(Controller(objects), server)
        csi_pb2_grpc.add_NodeServicer_to_server(Node(agent, "node-a"), server)

    for informer in (*objects.informers, *operator.informers):
        await informer.wait_synced(DEADLINE_SECONDS)
    server = await serve(tmp_path / "csi.sock", add_services)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'csi.sock'}") as channel:
        yield Driver(
            identity=csi_pb2_grpc.IdentityStub(channel),
            controller=csi_pb2_grpc.ControllerStub(channel),
            node=csi_pb2_grpc.NodeStub(channel),
            api=api,
            operator=operator,
            agent=agent,
            objects=objects,
        )
    await server.stop(None)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
