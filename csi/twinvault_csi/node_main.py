"""The CSI node process: Identity and Node, kubelet's registration, and health, on every node."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import grpc.aio

from twinvault_core.errors import InvalidError, TwinvaultError
from twinvault_core.names import AGENT_SOCKET, DRIVER_NAME
from twinvault_kube.http_status import Health, StatusServer
from twinvault_kube.logs import configure_logging

from .agent_client import AgentSocketClient
from .identity import Identity
from .metrics import CallMetrics
from .node import Node, observe_node
from .pb import csi_pb2_grpc, pluginregistration_pb2_grpc
from .registration import SOCKET_NAME, Registration
from .server import (
    GRACE_SECONDS,
    observe_socket,
    parse_endpoint,
    parse_metrics_address,
    run_until_stop,
    serve,
)

logger = logging.getLogger(__name__)

DEFAULT_METRICS_PORT = 9809
RETRY_SECONDS = 1.0
"""Between two looks for an agent that is not there yet."""


async def run() -> None:
    """Until SIGTERM."""
    node_name = os.environ.get("NODE_NAME", "")
    if not node_name:
        raise InvalidError("NODE_NAME is not set; the pod takes it from spec.nodeName")
    path = parse_endpoint(os.environ.get("TWINVAULT_CSI_ENDPOINT", "unix:///csi/csi.sock"))
    kubelet = Path(os.environ.get("TWINVAULT_KUBELET_DIR", "/var/lib/kubelet"))
    agent = AgentSocketClient(Path(os.environ.get("TWINVAULT_AGENT_SOCKET", AGENT_SOCKET)))
    metrics = CallMetrics()

    async def observe_ready() -> Health:
        try:
            await observe_node(agent, node_name)
        except TwinvaultError as error:
            return Health(False, error.message)
        return Health(True, "the agent answers")

    async def is_ready() -> bool:
        return (await observe_ready()).good

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(is_ready), server)
        csi_pb2_grpc.add_NodeServicer_to_server(Node(agent, node_name), server)

    status = StatusServer(
        *parse_metrics_address(os.environ, DEFAULT_METRICS_PORT),
        metrics=metrics.format,
        healthy=lambda: observe_socket(path),
        ready=observe_ready,
    )
    await status.start()
    server = await serve(path, add_services, metrics.observe)
    logger.info("CSI node service of %s serves at %s", node_name, path)
    registering = asyncio.create_task(_register(agent, node_name, kubelet))
    try:
        await run_until_stop(registering)
    finally:
        await server.stop(GRACE_SECONDS)
        await status.close()


async def _register(agent: AgentSocketClient, node_name: str, kubelet: Path) -> None:
    """Offer ourselves to kubelet as soon as the agent answers, and until cancelled.

    Not before: kubelet asks NodeGetInfo at once, and after a failure it waits ever longer.
    """
    await _wait_for_agent(agent, node_name)
    host_socket = os.environ.get(
        "TWINVAULT_KUBELET_CSI_SOCKET", str(kubelet / "plugins" / DRIVER_NAME / "csi.sock")
    )
    registration = Registration(host_socket)

    def add_services(server: grpc.aio.Server) -> None:
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(registration, server)

    socket = kubelet / "plugins_registry" / SOCKET_NAME
    server = await serve(socket, add_services)
    logger.info("waiting for kubelet to register us at %s", socket)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop(None)
        socket.unlink(missing_ok=True)


async def _wait_for_agent(agent: AgentSocketClient, node_name: str) -> None:
    """Without end: a node whose agent is broken must not look like one that can store."""
    said = ""
    while True:
        try:
            await observe_node(agent, node_name)
        except TwinvaultError as error:
            if error.message != said:
                said = error.message
                logger.warning("not registered with kubelet yet: %s", said)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


def main() -> None:
    configure_logging()
    asyncio.run(run())


if __name__ == "__main__":
    main()
