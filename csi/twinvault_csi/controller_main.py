"""The CSI controller process: Identity and Controller beside the sidecars."""

from __future__ import annotations

import asyncio
import logging
import os

import grpc.aio

from twinvault_kube.client import KubeClient
from twinvault_kube.http_status import Health, StatusServer
from twinvault_kube.informer import run_informers
from twinvault_kube.logs import configure_logging

from .controller import Controller
from .identity import Identity
from .metrics import CallMetrics
from .objects import Objects
from .pb import csi_pb2_grpc
from .server import (
    GRACE_SECONDS,
    observe_socket,
    parse_endpoint,
    parse_metrics_address,
    run_until_stop,
    serve,
)

logger = logging.getLogger(__name__)

DEFAULT_METRICS_PORT = 9802


async def run() -> None:
    """Until SIGTERM."""
    path = parse_endpoint(os.environ.get("TWINVAULT_CSI_ENDPOINT", "unix:///csi/csi.sock"))
    client = KubeClient.from_environment(user_agent="twinvault-csi-controller")
    objects = Objects.watching(client)
    watching = asyncio.create_task(run_informers(objects.informers))
    metrics = CallMetrics()

    async def is_synced() -> bool:
        return objects.synced

    def observe_ready() -> Health:
        words = "every kind is listed" if objects.synced else "the first lists are not complete"
        return Health(objects.synced, words)

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_IdentityServicer_to_server(Identity(is_synced), server)
        csi_pb2_grpc.add_ControllerServicer_to_server(Controller(objects), server)

    status = StatusServer(
        *parse_metrics_address(os.environ, DEFAULT_METRICS_PORT),
        metrics=metrics.format,
        healthy=lambda: observe_socket(path),
        ready=observe_ready,
    )
    await status.start()
    server = await serve(path, add_services, metrics.observe)
    logger.info("CSI controller serves at %s", path)
    try:
        await run_until_stop(watching)
    finally:
        await server.stop(GRACE_SECONDS)
        await status.close()
        await client.close()


def main() -> None:
    configure_logging()
    asyncio.run(run())


if __name__ == "__main__":
    main()
