"""A real API server with our CRDs, started once for all tests marked ``api``.

Needs the lab's programs (they are built at the first use); nothing of it is reachable from outside
the loopback interface.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from e2e.lab import process
from e2e.lab.config import ROOT, Settings
from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import FakeAgent, Rig, add_kube_node, remove_everything
from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import SNAPSHOTS, STORAGE_NODES, VOLUME_REPLICAS, VOLUMES

OUR_KINDS = (VOLUMES, SNAPSHOTS, VOLUME_REPLICAS, STORAGE_NODES)


def pytest_configure(config: pytest.Config) -> None:
    """A connection that is cancelled in its TLS handshake, as with a frozen server, is only closed
    by the garbage collector: the HTTP library's doing, and no failure of a test.
    """
    config.addinivalue_line("filterwarnings", "ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="session")
def api_server() -> Iterator[ApiServer]:
    """One etcd and one kube-apiserver for the whole session, CRDs established."""
    settings = Settings.from_environment()
    with (
        tempfile.TemporaryDirectory(prefix="twinvault-api-") as directory,
        ApiServer.started(settings, Path(directory) / "api") as server,
    ):
        server.kubectl("apply", "-f", str(ROOT / "crds"))
        server.kubectl("create", "namespace", "twinvault-system")
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        yield server


@pytest.fixture
async def kube(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeClient]:
    """A client of an administrator; all our objects are gone when the test ends."""
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    client = KubeClient.from_environment(user_agent="test")
    try:
        yield client
    finally:
        await remove_our_objects(client)
        await client.close()


async def remove_our_objects(client: KubeClient) -> None:
    """Delete everything of ours, finalizers first."""
    for kind in OUR_KINDS:
        for obj in (await client.list(kind))[0]:
            name = obj["metadata"]["name"]
            if obj["metadata"].get("finalizers"):
                await client.patch(kind, name, {"metadata": {"finalizers": []}})
            if not obj["metadata"].get("deletionTimestamp"):
                await client.delete(kind, name)
        async with asyncio.timeout(10):
            while (await client.list(kind))[0]:
                await asyncio.sleep(0.05)


class Freezer:
    """A frozen API server accepts connections and never answers: worse than one that is gone."""

    def __init__(self, server: ApiServer) -> None:
        self._directory = server.directory

    def freeze(self) -> None:
        process.signal("kube-apiserver", self._directory, signal.SIGSTOP)

    def thaw(self) -> None:
        process.signal("kube-apiserver", self._directory, signal.SIGCONT)


@pytest.fixture
def freeze_api(api_server: ApiServer) -> Iterator[Freezer]:
    """Stops the API server in its tracks and lets it go on; it always goes on at the end."""
    freezer = Freezer(api_server)
    try:
        yield freezer
    finally:
        freezer.thaw()


@pytest.fixture
async def rig(api_server: ApiServer, kube: KubeClient, tmp_path: Path) -> AsyncIterator[Rig]:
    """Nodes east-1 and west-1 with agents, StorageClusters east and west; no operator yet."""
    await remove_everything(kube)
    agents = {name: FakeAgent(kube, name) for name in ("east-1", "west-1")}
    made = Rig(kube, agents, api_server.kubeconfig, tmp_path)
    for name in agents:
        await add_kube_node(kube, name, site=name.partition("-")[0])
    tasks = [asyncio.create_task(agent.run()) for agent in agents.values()]
    await made.add_cluster("east")
    await made.add_cluster("west")
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await remove_everything(kube)
