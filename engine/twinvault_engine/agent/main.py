"""The agent's process: starts in the order that safety asks for, and stops cleanly on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from twinvault_core.errors import TwinvaultError
from twinvault_kube.client import KubeClient
from twinvault_kube.logs import configure_logging

from ..engine import Engine
from .app import Agent
from .config import AgentConfig

logger = logging.getLogger(__name__)


async def serve(config: AgentConfig) -> None:
    """Run the agent until SIGTERM or SIGINT; raises when a part of it fails for good."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(config.data_dir, config.node_name, config.kubelet_dir)
    client = KubeClient.from_environment(user_agent="twinvault-agent")
    # Replication records and the Lease have connections of their own, to whichever API server
    # answers: a fence question stands in no line.
    urgent = KubeClient.urgent(user_agent="twinvault-agent-urgent")
    try:
        agent = Agent(config, client, engine, urgent_client=urgent)
        await _until(stop, agent.run())
    finally:
        await client.close()
        await urgent.close()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """``work`` until ``stop`` is set; its own failure ends the wait and is raised."""
    running = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        else:
            logger.info("told to stop")
    finally:
        for task in (running, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def main() -> None:
    """Entry point ``twinvault-agent``."""
    configure_logging()
    try:
        asyncio.run(serve(AgentConfig.from_environment(os.environ)))
    except TwinvaultError as error:
        logger.critical("the agent cannot run: %s", error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
