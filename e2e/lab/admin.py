"""The administrator's way to the API: kubectl and helm at a location that has power."""

from __future__ import annotations

from collections.abc import Sequence

from e2e.lab import faults
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import run
from e2e.lab.config import EAST, WEST, WITNESS, Location, Settings
from e2e.lab.pki import proxy_url

_SERVER_FLAG = {"kubectl": "--server", "helm": "--kube-apiserver"}


def choose_location() -> Location:
    """The witness, or a site when the witness has no power."""
    for location in (WITNESS, EAST, WEST):
        if not faults.is_dark(location):
            return location
    return WITNESS


def admin_argv(settings: Settings, tool: str, at: Location) -> list[str]:
    """The beginning of a command line of kubectl or helm, to be run at ``at``."""
    return [
        str(ensure_binaries(settings) / tool),
        f"--kubeconfig={settings.admin_kubeconfig}",
        f"{_SERVER_FLAG[tool]}={proxy_url(at)}",
    ]


def run_tool(
    settings: Settings,
    tool: str,
    args: Sequence[str],
    *,
    stdin: str | None = None,
    timeout_seconds: float,
    at: Location | None = None,
) -> str:
    """Output of kubectl or helm; CommandError with what it printed when it fails."""
    where = at or choose_location()
    argv = [*admin_argv(settings, tool, where), *args]
    return run(argv, stdin=stdin, timeout_seconds=timeout_seconds, namespace=where.namespace)


def kubectl(
    settings: Settings,
    *args: str,
    stdin: str | None = None,
    timeout_seconds: float = 60,
    at: Location | None = None,
) -> str:
    """Output of kubectl as administrator."""
    return run_tool(settings, "kubectl", args, stdin=stdin, timeout_seconds=timeout_seconds, at=at)
