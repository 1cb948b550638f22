"""kopf's part: it watches the kinds that are handled, and hands every event to the stores.

Only low-level ``on.event`` handlers are used, so kopf writes nothing: no annotations, no
finalizers, no peering, no Events. What it does not tell is a deletion that happened while its
watch was down; the sweep (sweep.py) finds those.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import kopf

from .store import Store

logger = logging.getLogger(__name__)


class Retries(Iterable[float]):
    """Delays in seconds between attempts, without an end: only a refusal ends a watch.

    With a finite list kopf gives up, and stops the operator, when the API server answers 5xx for
    longer than the list lasts.
    """

    def __iter__(self) -> Iterator[float]:
        yield from (0.1, 0.2, 0.5)
        while True:
            yield 1.0


class NoDiffs(kopf.DiffBaseStorage):
    """kopf copies each object to compare it with what it handled last; we compare ourselves."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        raise NotImplementedError("kopf is to write nothing")


def make_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoDiffs()
    settings.networking.error_backoffs = Retries()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 3
    settings.watching.reconnect_backoff = 0.1
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    return settings


def make_registry(
    stores: Mapping[str, Store[Any]], listed: Callable[[str], None]
) -> kopf.OperatorRegistry:
    """Handlers that feed ``stores``; ``listed`` hears of a kind that kopf lists (anew)."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for kind, store in stores.items():
        _watch(registry, kind, store, listed)
    return registry


def _watch(
    registry: kopf.OperatorRegistry,
    kind: str,
    store: Store[Any],
    listed: Callable[[str], None],
) -> None:
    async def feed(event: kopf.RawEvent, **_: Any) -> None:
        if event["type"] == "DELETED":
            store.removed(event["object"])
            return
        store.put(event["object"])
        if event["type"] is None:
            listed(kind)

    def is_news(event: kopf.RawEvent, **_: Any) -> bool:
        """Most events only tell what our own writes answered already."""
        return event["type"] in (None, "DELETED") or not store.knows(event["object"])

    resource = store.kind
    kopf.on.event(
        resource.group,
        resource.version,
        resource.plural,
        id=kind.lower(),
        registry=registry,
        when=is_news,
    )(feed)


def _login(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    """From the service account, at the address that kubelet gives, so that DNS may be down."""
    info = kopf.login_with_service_account(settings=settings)
    if info is None:
        info = kopf.login_with_kubeconfig(settings=settings)
        if info is None:
            raise kopf.LoginError("no service account and no kubeconfig: set KUBECONFIG")
        return info
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return info
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    address = f"[{host}]" if ":" in host else host
    return dataclasses.replace(info, server=f"https://{address}:{port}")


def quiet_logs() -> None:
    """kopf tells of each handler call; our own log tells what was done."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
