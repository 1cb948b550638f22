"""Makes many claims at once and times each until it is Bound. Runs inside the lab's network.

Prints one JSON object: seconds from the creation request to the moment the watch shows Bound,
one number a claim.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import Kind

CLAIMS = Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True)
DEADLINE_SECONDS = 180


async def storm(namespace: str, storage_class: str, count: int, size: str) -> list[float]:
    """Seconds to Bound of each claim, unsorted. TimeoutError names nothing: the caller knows."""
    client = KubeClient.from_environment(user_agent="twinvault-bench", timeout_seconds=60)
    _, version = await client.list(CLAIMS, namespace=namespace)
    started: dict[str, float] = {}
    seconds: dict[str, float] = {}

    async def make(name: str) -> None:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        }
        started[name] = time.monotonic()
        await client.create(CLAIMS, {"metadata": {"name": name}, "spec": spec}, namespace)

    async def follow() -> None:
        async for _, claim in client.watch(CLAIMS, version, namespace=namespace):
            name = claim["metadata"]["name"]
            if claim.get("status", {}).get("phase") == "Bound" and name not in seconds:
                seconds[name] = time.monotonic() - started[name]
                if len(seconds) == count:
                    return

    async with asyncio.timeout(DEADLINE_SECONDS):
        watching = asyncio.create_task(follow())
        await asyncio.gather(*(make(f"storm-{number}") for number in range(count)))
        await watching
    await client.close()
    return list(seconds.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--storage-class", required=True)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--size", default="32Mi")
    options = parser.parse_args()
    seconds = asyncio.run(
        storm(options.namespace, options.storage_class, options.count, options.size)
    )
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
