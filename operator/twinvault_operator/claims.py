"""Claims of DRBD numbers: Leases whose names are the numbers. core's numbers.py tells the order."""

from __future__ import annotations

import logging

from twinvault_core.actions import CheckUnused, ClaimNumber, ReleaseNumber
from twinvault_core.errors import AlreadyExistsError, NotFoundError
from twinvault_core.numbers import claim_name
from twinvault_kube.client import KubeClient
from twinvault_kube.errors import ConflictError
from twinvault_kube.kinds import LEASES

from .errors import StaleError
from .numbers import make_claim, parse_claim
from .world import World

logger = logging.getLogger(__name__)


class Claims:
    """Each method is one step of a plan, repeatable."""

    def __init__(self, client: KubeClient, world: World, namespace: str) -> None:
        self._client, self._world, self._namespace = client, world, namespace

    async def claim(self, action: ClaimNumber) -> None:
        """StaleError when another volume has the number: that is known by then."""
        name = claim_name(action.number)
        try:
            made = await self._client.create(LEASES, make_claim(action), self._namespace)
            logger.info("Volume %s: device number %d claimed", action.meta.name, action.number)
        except AlreadyExistsError:
            made = await self._read(name)
        self._world.numbers.observe(name, made)
        claim = parse_claim(made)
        if claim is None or claim.volume_uid != action.meta.uid:
            raise StaleError(f"device number {action.number} is another volume's")

    async def _read(self, name: str) -> dict[str, object]:
        try:
            return await self._client.get(LEASES, name, self._namespace)
        except NotFoundError:
            self._world.numbers.observe(name, None)
            raise StaleError(f"Lease {name} was just released") from None

    async def release(self, action: ReleaseNumber) -> None:
        """By the claim's own uid: a later claim of the same number is another object."""
        claim = action.claim
        try:
            await self._client.delete(
                LEASES, claim_name(claim.number), namespace=self._namespace, uid=claim.uid
            )
        except (NotFoundError, ConflictError):
            logger.debug("claim of %d was released already", claim.number)
        self._world.numbers.forget(claim)

    async def check_unused(self, action: CheckUnused) -> None:
        """StaleError unless the API server itself says so."""
        claim, store = action.claim, self._world.volumes
        try:
            found = await self._client.get(store.kind, claim.volume)
        except NotFoundError:
            return
        store.put(found)
        if found["metadata"]["uid"] != claim.volume_uid:
            return
        raise StaleError(f"Volume {claim.volume} may use device number {claim.number}")
