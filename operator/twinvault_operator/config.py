"""What the operator reads from its environment."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from twinvault_core.names import LEASE_NAMESPACE_DEFAULT

LEADER_LEASE = "twinvault-operator"


@dataclass(frozen=True)
class Config:
    """``identity`` names this process among its standbys; it must be unique."""

    namespace: str
    identity: str
    metrics_port: int = 9801
    workers: int = 8
    lease_duration_seconds: float = 4.0
    """As long as that of a node: when both are lost at once, neither waits for the other."""
    lease_renew_seconds: float = 1.0
    sweep_seconds: float = 300.0
    """How often everything is listed anew, in case a deletion was missed."""

    @classmethod
    def from_environment(cls) -> Config:
        env = os.environ
        return cls(
            namespace=env.get("POD_NAMESPACE") or LEASE_NAMESPACE_DEFAULT,
            identity=env.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
            metrics_port=int(env.get("TWINVAULT_METRICS_PORT", "9801")),
        )
