"""The replication records as the API server itself has them: read, and compare-and-swap.

Nothing here comes from a watch. A record decides whether writes go on alone; one that is a moment
old may name a primary that is none any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.fence import CasOutcome
from twinvault_core.model import ReplicationRecord, Volume
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import VOLUMES

from ..steps import step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A Volume's record at one ``version``. ``record`` None: it has none (yet, or any more).

    ``gone``: there is no such Volume. ``forced_to`` and ``forced_epoch``: the last time that a
    person made a replica primary which missed writes; epoch 0 for never.
    """

    volume: str
    uid: str = ""
    version: str = ""
    record: ReplicationRecord | None = None
    gone: bool = False
    forced_to: str = ""
    forced_epoch: int = 0


@dataclass(frozen=True)
class Known:
    """Epoch and serial of the record as it was read or written last; ``unanswered`` writes."""

    epoch: int = 0
    serial: int = 0
    unanswered: int = 0


class RecordStore:
    """``client`` should have connections of its own: a fence question must not stand in a line."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._known: dict[str, Known] = {}

    def last_epoch(self, volume: str) -> int:
        """Epoch of the record that was read last, 0 for never; for people to see."""
        return self.known(volume).epoch

    def known(self, volume: str) -> Known:
        """What this process knows of the record; never a ground to write or to promote."""
        return self._known.get(volume, Known())

    async def read(self, volume: str, uid: str, *, timeout_seconds: float) -> Reading | None:
        """The record now; None when the API server does not answer in time.

        ``uid``: of the Volume that is meant; another one of that name counts as gone. Empty while
        it is not known.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                obj = await self._client.get(VOLUMES, volume)
        except NotFoundError:
            return Reading(volume, gone=True)
        except (TwinvaultError, TimeoutError) as error:
            logger.info("record of %s not read: %s", volume, error or "no answer in time")
            return None
        reading = _parse(obj)
        if uid and reading.uid != uid:
            return Reading(volume, gone=True)
        if reading.record is not None:
            self._learn(volume, reading.record)
        return reading

    async def swap(
        self, read: Reading, record: ReplicationRecord, *, timeout_seconds: float
    ) -> CasOutcome:
        """Write ``record`` in place of what was read. Never repeated by itself: after UNANSWERED
        the write may still arrive, so whoever goes on reads first.
        """
        step("write the record")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._client.patch_status(
                    VOLUMES,
                    read.volume,
                    {"replication": record.to_dict()},
                    resource_version=read.version,
                    uid=read.uid,
                )
        except (ConflictError, NotFoundError):
            return CasOutcome.CONFLICT
        except (TwinvaultError, TimeoutError) as error:
            logger.warning("record of %s: %s", read.volume, error or "no answer in time")
            known = self.known(read.volume)
            self._known[read.volume] = replace(known, unanswered=known.unanswered + 1)
            return CasOutcome.UNANSWERED
        step("record written")
        self._learn(read.volume, record)
        logger.info(
            "record of %s: epoch %d serial %d, primary %s, in sync %s",
            *(read.volume, record.epoch, record.serial, record.primary),
            ", ".join(sorted(record.in_sync)),
        )
        return CasOutcome.WON

    def forget(self, volume: str) -> None:
        self._known.pop(volume, None)

    def _learn(self, volume: str, record: ReplicationRecord) -> None:
        known = self.known(volume)
        self._known[volume] = replace(known, epoch=record.epoch, serial=record.serial)


def _parse(obj: Mapping[str, Any]) -> Reading:
    volume = Volume.parse(obj)
    forced: list[Mapping[str, Any]] = list(volume.status.get("forcedPromotions") or ())
    last = forced[-1] if forced else {}
    return Reading(
        volume.meta.name,
        volume.meta.uid,
        volume.meta.resource_version,
        volume.record,
        forced_to=str(last.get("node") or ""),
        forced_epoch=int(last.get("epoch") or 0),
    )
