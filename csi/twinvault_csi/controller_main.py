"""The CSI controller process: Identity and Controller beside the sidecars."""

from __future__ import annotations

import asyncio
import logging
import os

import grpc.aio

from twinvault_kube.client import KubeClient
from twinvault_kube.informer import run_informers
from twinvault_kube.logs import configure_logging

from .controller import Controller
from .health import CallMetrics, HealthServer
from .identity import Identity
from .objects import Objects
from .pb import csi_pb2_grpc
from .server import GRACE_SECONDS, parse_endpoint, require_socket, run_until_stop, serve

logger = logging.getLogger(__name__)

DEFAULT_METRICS_PORT = "9802"


async def run() -> None:
    """Until SIGTERM."""
    path = parse_endpoint(os.environ.get("TWINVAULT_CSI_ENDPOINT", "unix:///csi/csi.sock"))
    client = KubeClient.from_environment(user_agent="twinvault-csi-controller")
    objects = Objects.watching(client)
    watching = asyncio.create_task(run_informers(objects.informers))
    metrics = CallMetrics()

    async def is_synced() -> bool:
        return objects.synced

    async def require_ready() -> None:
        objects.require_synced()

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(is_synced), server)
        csi_pb2_grpc.add_ControllerServicer_to_server(Controller(objects), server)

    health = HealthServer(metrics, lambda: require_socket(path), require_ready)
    await health.start(int(os.environ.get("TWINVAULT_METRICS_PORT", DEFAULT_METRICS_PORT)))
    server = await serve(path, add_services, metrics.observe)
    logger.info("CSI controller serves at %s", path)
    try:
        await run_until_stop(watching)
    finally:
        await server.stop(GRACE_SECONDS)
        await health.close()
        await client.close()


def main() -> None:
    configure_logging()
    asyncio.run(run())


if __name__ == "__main__":
    main()
