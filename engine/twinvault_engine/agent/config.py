"""What the agent is told by its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinvault_core.errors import InvalidError
from twinvault_core.ids import parse_node_name
from twinvault_core.names import AGENT_SOCKET, HOST_DATA_DIR, LEASE_NAMESPACE_DEFAULT

DEFAULT_METRICS_PORT = 9803


@dataclass(frozen=True)
class AgentConfig:
    """All times in seconds."""

    node_name: str
    pod_name: str
    namespace: str = LEASE_NAMESPACE_DEFAULT
    data_dir: Path = Path(HOST_DATA_DIR)
    kubelet_dir: Path = Path("/var/lib/kubelet")
    socket_path: Path = Path(AGENT_SOCKET)
    metrics_address: str = "0.0.0.0"
    metrics_port: int = DEFAULT_METRICS_PORT
    lease_duration_seconds: float = 10.0
    lease_renew_seconds: float = 1.5
    observe_seconds: float = 20.0
    engine_threads: int = 6
    socket_threads: int = 8
    replication_threads: int = 4
    node_address: str = ""
    """Where other nodes reach this one; empty while Kubernetes does not tell."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AgentConfig:
        """InvalidError names the variable that is missing or wrong."""
        node_name = environment.get("NODE_NAME", "")
        if not node_name:
            raise InvalidError("NODE_NAME is not set: give it spec.nodeName by the downward API")
        return cls(
            node_name=parse_node_name(node_name),
            pod_name=environment.get("POD_NAME") or node_name,
            namespace=environment.get("POD_NAMESPACE") or LEASE_NAMESPACE_DEFAULT,
            data_dir=_directory(environment, "TWINVAULT_DATA_DIR", HOST_DATA_DIR),
            kubelet_dir=_directory(environment, "TWINVAULT_KUBELET_DIR", "/var/lib/kubelet"),
            socket_path=_directory(environment, "TWINVAULT_AGENT_SOCKET", AGENT_SOCKET),
            metrics_address=environment.get("TWINVAULT_METRICS_ADDRESS") or "0.0.0.0",
            metrics_port=int(
                _number(environment, "TWINVAULT_METRICS_PORT", DEFAULT_METRICS_PORT, least=0)
            ),
            lease_duration_seconds=_number(environment, "TWINVAULT_LEASE_DURATION_SECONDS", 10.0),
            lease_renew_seconds=_number(environment, "TWINVAULT_LEASE_RENEW_SECONDS", 1.5),
            observe_seconds=_number(environment, "TWINVAULT_OBSERVE_SECONDS", 20.0),
            node_address=environment.get("NODE_ADDRESS") or "",
        )


def _directory(environment: Mapping[str, str], name: str, default: str) -> Path:
    path = Path(environment.get(name) or default)
    if not path.is_absolute():
        raise InvalidError(f"{name}={path} is not an absolute path")
    return path


def _number(
    environment: Mapping[str, str], name: str, default: float, *, least: float = 0.1
) -> float:
    text = environment.get(name) or str(default)
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidError(f"{name}={text!r} is not a number") from error
    if not least <= value < 86400 * 365:
        raise InvalidError(f"{name}={text} is out of range (at least {least:g})")
    return value
