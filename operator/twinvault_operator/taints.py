"""Changes of a node's taints: the list is written whole, so by compare-and-swap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twinvault_core.errors import NotFoundError
from twinvault_kube.client import Json, KubeClient
from twinvault_kube.kinds import NODES

from .store import Store


async def change_taints(
    client: KubeClient, store: Store[Any], node: str, change: Callable[[list[Json]], list[Json]]
) -> None:
    """Write what ``change`` makes of the taints, if it differs; done already when the node is gone.

    ConflictError: somebody else wrote the node in between.
    """
    try:
        obj = await client.get(NODES, node)
    except NotFoundError:
        return
    taints = list((obj.get("spec") or {}).get("taints") or ())
    new = change(taints)
    if new == taints:
        store.put(obj)
        return
    version = obj["metadata"]["resourceVersion"]
    patch = {"spec": {"taints": new or None}}
    store.put(await client.patch(NODES, node, patch, resource_version=version))
