"""Which device numbers are taken: claims as the API server has them, and those under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twinvault_core.actions import ClaimNumber
from twinvault_core.numbers import Claim, choose_number, claim_name, parse_claim_name

VOLUME_ANNOTATION = "twinvault.io/volume"


def make_claim(action: ClaimNumber) -> dict[str, Any]:
    """The Lease that claims the number: no one ever renews it, it is held for good."""
    metadata = {
        "name": claim_name(action.number),
        "annotations": {VOLUME_ANNOTATION: action.meta.name},
    }
    return {"metadata": metadata, "spec": {"holderIdentity": action.meta.uid}}


def parse_claim(obj: Mapping[str, Any]) -> Claim | None:
    """None when the Lease is no claim."""
    meta, spec = obj["metadata"], obj.get("spec") or {}
    number = parse_claim_name(meta["name"])
    if number is None:
        return None
    volume = (meta.get("annotations") or {}).get(VOLUME_ANNOTATION) or ""
    return Claim(number, volume, spec.get("holderIdentity") or "", meta.get("uid") or "")


class Numbers:
    """Fed by the watch of Leases and by our own writes.

    A number that is being claimed is promised before its request is sent, so that two volumes that
    are placed side by side do not choose the same one. ``on_change`` is told the volume's name.
    """

    def __init__(self) -> None:
        self._claims: dict[int, Claim] = {}
        self._promised: dict[int, str] = {}
        self.on_change: Callable[[str], None] = lambda _: None

    def observe(self, name: str, lease: Mapping[str, Any] | None) -> bool:
        """Whether a Lease of that name is a claim; it is taken in, or forgotten when None."""
        number = parse_claim_name(name)
        if number is None:
            return False
        before = self._claims.pop(number, None)
        claim = parse_claim(lease) if lease is not None else None
        if claim is not None:
            self._claims[number] = claim
        for known in {before, claim} - {None} if before != claim else ():
            if known is not None and known.volume:
                self.on_change(known.volume)
        return True

    def forget(self, claim: Claim) -> None:
        if self._claims.get(claim.number) == claim:
            del self._claims[claim.number]

    def promise(self, action: ClaimNumber) -> None:
        self._promised.setdefault(action.number, action.meta.uid)

    def settle(self, action: ClaimNumber) -> None:
        """The request is over, whatever became of it."""
        if self._promised.get(action.number) == action.meta.uid:
            del self._promised[action.number]

    def find(self, volume: str) -> tuple[Claim, ...]:
        """Claims that name the volume, by number."""
        found = (c for c in self._claims.values() if c.volume == volume)
        return tuple(sorted(found, key=lambda c: c.number))

    def volumes(self) -> set[str]:
        return {c.volume for c in self._claims.values() if c.volume}

    def choose_free(self, also_taken: set[int]) -> int | None:
        return choose_number(self._claims.keys() | self._promised.keys() | also_taken)
