"""What a burst of Volumes costs the operator: python -m tests.api.operator_storm [VOLUMES].

Starts its own API server. Prints one JSON object: how long until each Volume is Ready, CPU of the
operator for each, requests, memory, and CPU while idle.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from e2e.lab.config import ROOT, Settings
from e2e.lab.standalone import ApiServer
from tests.api.operator_rig import GIB, FakeAgent, OperatorProcess, Rig, add_kube_node, is_ready
from twinvault_core.names import FINALIZER_VOLUME
from twinvault_kube import kinds
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.informer import Informer

IDLE_SECONDS = 20


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def _storm(rig: Rig, operator: OperatorProcess, count: int) -> dict[str, float]:
    created: dict[str, float] = {}
    took: dict[str, float] = {}
    finished = asyncio.Event()

    def changed(name: str, obj: Json | None) -> None:
        if obj is not None and name in created and name not in took and is_ready(obj):
            took[name] = time.monotonic() - created[name]
            if len(took) == count:
                finished.set()

    watch = Informer(rig.client, kinds.VOLUMES, on_change=changed)
    task = asyncio.create_task(watch.run())
    await watch.wait_synced(10)
    before = _cpu_seconds(operator.pid)
    gate = asyncio.Semaphore(10)

    async def create(number: int) -> None:
        name = f"storm-{number}"
        body = {
            "metadata": {"name": name, "finalizers": [FINALIZER_VOLUME]},
            "spec": {"sizeBytes": GIB // 4, "pool": "fast"},
        }
        async with gate:
            created[name] = time.monotonic()
            await rig.client.create(kinds.VOLUMES, body)

    started = time.monotonic()
    await asyncio.gather(*(create(n) for n in range(count)))
    async with asyncio.timeout(120):
        await finished.wait()
    elapsed = time.monotonic() - started
    cpu = _cpu_seconds(operator.pid) - before
    task.cancel()
    times = sorted(took.values())
    return {
        "volumes": count,
        "elapsed_seconds": round(elapsed, 2),
        "p50_ms": round(1000 * times[count // 2], 1),
        "p99_ms": round(1000 * times[min(count - 1, count * 99 // 100)], 1),
        "cpu_ms_per_volume": round(1000 * cpu / count, 2),
    }


async def _run(server: ApiServer, directory: Path, count: int) -> dict[str, float]:
    os.environ["KUBECONFIG"] = str(server.kubeconfig)
    client = KubeClient.from_environment(user_agent="storm")
    agents = {n: FakeAgent(client, n, pool_bytes=1024 * GIB) for n in ("east-1", "west-1")}
    rig = Rig(client, agents, server.kubeconfig, directory)
    for node in agents:
        await add_kube_node(client, node, site=node.partition("-")[0])
    tasks = [asyncio.create_task(agent.run()) for agent in agents.values()]
    await rig.add_cluster("east")
    await rig.add_cluster("west")
    operator = rig.operator()
    operator.start()
    try:
        await rig.add_volume("first")
        await rig.wait_ready("first")
        await asyncio.sleep(3)
        figures = await _storm(rig, operator, count)
        await asyncio.sleep(8)
        metrics = await operator.get("/metrics")
        writes = [
            line for line in metrics.splitlines() if line.startswith("twinvault_operator_wri")
        ]
        before = _cpu_seconds(operator.pid)
        await asyncio.sleep(IDLE_SECONDS)
        idle = (_cpu_seconds(operator.pid) - before) / IDLE_SECONDS
        figures["idle_cpu_percent"] = round(100 * idle, 2)
        figures["rss_mib"] = round(_rss_mib(operator.pid), 1)
        print("\n".join(writes), file=sys.stderr)
    finally:
        operator.stop()
        for task in tasks:
            task.cancel()
        await client.close()
    return figures


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with (
        tempfile.TemporaryDirectory(prefix="twinvault-storm-") as directory,
        ApiServer.started(Settings.from_environment(), Path(directory) / "api") as server,
    ):
        server.kubectl("apply", "-f", str(ROOT / "crds"))
        server.kubectl("create", "namespace", "twinvault-system")
        server.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        print(json.dumps(asyncio.run(_run(server, Path(directory), count))))


if __name__ == "__main__":
    main()
