"""Why a plan was not carried out to its end."""

from __future__ import annotations

from twinvault_core.errors import FailedPreconditionError
from twinvault_kube.errors import ConflictError


class NotLeadingError(FailedPreconditionError):
    """The lead was lost: whoever has it now goes on."""


class StaleError(ConflictError):
    """What the plan was made from is not what the API server has; it is known by now."""
