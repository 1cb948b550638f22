"""The agent's environment: what is missing or wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinvault_core.errors import InvalidError
from twinvault_engine.agent.config import AgentConfig


def test_only_the_node_name_has_no_default() -> None:
    config = AgentConfig.from_environment({"NODE_NAME": "east-1"})
    assert config.data_dir == Path("/var/lib/twinvault")
    assert config.metrics_port == 9803
    assert config.lease_duration_seconds >= 2 * config.lease_renew_seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NODE_NAME", ""),
        ("NODE_NAME", "../x"),
        ("TWINVAULT_DATA_DIR", "relative"),
        ("TWINVAULT_METRICS_PORT", "many"),
        ("TWINVAULT_LEASE_RENEW_SECONDS", "0"),
        ("TWINVAULT_OBSERVE_SECONDS", "inf"),
        ("TWINVAULT_OBSERVE_SECONDS", "nan"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidError, match=name if name != "NODE_NAME" else "(?i)node.name"):
        AgentConfig.from_environment({"NODE_NAME": "east-1", name: value})
