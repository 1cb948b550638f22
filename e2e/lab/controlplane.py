"""kube-apiserver at every location; controller-manager and scheduler at the sites."""

from __future__ import annotations

from collections.abc import Sequence

from e2e.lab import process
from e2e.lab.apiserver import ENVIRONMENT, ApiServerPlan, is_ready, plan_api_server_argv
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import tail
from e2e.lab.config import LOCATIONS, Location, Settings
from e2e.lab.etcd import NAME as ETCD
from e2e.lab.etcd import etcd_client, start_etcd
from e2e.lab.pki import api_server_hosts, authority, component_kubeconfig
from e2e.lab.progress import WaitError, wait_until

API_SERVER = "kube-apiserver"
CONTROLLER_MANAGER = "kube-controller-manager"
SCHEDULER = "kube-scheduler"
API_SERVER_PORT = 6444
"""Where an API server itself listens, behind its location's proxy."""
READY_TIMEOUT_SECONDS = 90
_HOPELESS_ENDS = 3

# A leader that is gone is replaced within three seconds instead of fifteen: until then nobody
# makes the pod that a lost site leaves behind anew.
_ELECTION = (
    "--leader-elect=true",
    "--leader-elect-lease-duration=3s",
    "--leader-elect-renew-deadline=2s",
    "--leader-elect-retry-period=500ms",
)
_CLIENT = ("--kube-api-qps=100", "--kube-api-burst=200")


def ensure_control_plane(settings: Settings) -> None:
    """etcd and API servers run at every location, and every API server is ready."""
    for location in LOCATIONS:
        start_etcd(settings, location)
    for location in LOCATIONS:
        start_api_server(settings, location)
    for location in LOCATIONS:
        wait_for_api_server(settings, location)


def start_api_server(settings: Settings, location: Location) -> None:
    own = authority(settings)
    plan = ApiServerPlan(
        program=ensure_binaries(settings) / API_SERVER,
        address=location.gateway,
        port=API_SERVER_PORT,
        authority=own,
        serving=own.ensure_pair(API_SERVER, API_SERVER, hosts=api_server_hosts()),
        client=own.ensure_pair("apiserver-kubelet-client", "kube-apiserver-kubelet-client"),
        etcd=etcd_client(settings, location),
    )
    _start(settings, location, API_SERVER, plan_api_server_argv(plan))


def wait_for_api_server(settings: Settings, location: Location) -> None:
    """Return once the location's own API server is ready; WaitError with its log if not."""
    run_dir = settings.location_dir(location)
    names = (API_SERVER, ETCD)
    before = {name: process.count_ends(name, run_dir) for name in names}

    def ready_or_hopeless() -> bool:
        if is_api_server_ready(settings, location):
            return True
        for name in names:
            ends = process.count_ends(name, run_dir) - before[name]
            if ends >= _HOPELESS_ENDS:
                why = explain(settings, location, [name], lines=30)
                raise WaitError(f"{name} at {location.name} ends again and again\n{why}")
        return False

    wait_until(
        f"the API server at {location.name} to be ready",
        ready_or_hopeless,
        timeout_seconds=READY_TIMEOUT_SECONDS,
        explain=lambda: explain(settings, location, names),
    )


def is_api_server_ready(settings: Settings, location: Location) -> bool:
    """Whether /readyz of this location's API server says yes, asked from beside it."""
    return is_ready(
        location.gateway,
        API_SERVER_PORT,
        authority(settings).certificate,
        namespace=location.namespace,
    )


def start_controllers(settings: Settings, location: Location) -> None:
    """Controller-manager and scheduler of a site; the other site's may lead."""
    _start(settings, location, CONTROLLER_MANAGER, _controller_manager_argv(settings, location))
    kubeconfig = component_kubeconfig(settings, location, SCHEDULER)
    argv = [
        str(ensure_binaries(settings) / SCHEDULER),
        f"--kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        *_ELECTION,
        *_CLIENT,
    ]
    _start(settings, location, SCHEDULER, argv)


def _controller_manager_argv(settings: Settings, location: Location) -> list[str]:
    own = authority(settings)
    kubeconfig = component_kubeconfig(settings, location, CONTROLLER_MANAGER)
    return [
        str(ensure_binaries(settings) / CONTROLLER_MANAGER),
        f"--kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={own.service_account_key}",
        f"--root-ca-file={own.certificate}",
        f"--cluster-signing-cert-file={own.certificate}",
        f"--cluster-signing-key-file={own.key}",
        "--allocate-node-cidrs=false",
        # A lost node is noticed in half the default time; every hospital tunes this.
        "--node-monitor-grace-period=20s",
        "--node-monitor-period=2s",
        *_ELECTION,
        *_CLIENT,
    ]


def explain(settings: Settings, location: Location, names: Sequence[str], lines: int = 12) -> str:
    """The last log lines of the named processes of a location, for an error message."""
    run_dir = settings.location_dir(location)
    parts = []
    for name in names:
        path = process.log_file(name, run_dir)
        state = "runs" if process.is_running(name, run_dir) else "does not run"
        parts.append(f"{name} at {location.name} {state}; {path} ends with:\n{tail(path, lines)}")
    return "\n".join(parts)


def _start(settings: Settings, location: Location, name: str, argv: list[str]) -> None:
    run_dir = settings.location_dir(location)
    process.start(
        name,
        argv,
        run_dir=run_dir,
        namespace=location.namespace,
        env=ENVIRONMENT,
        restart=True,
    )


__all__ = [
    "API_SERVER_PORT",
    "ensure_control_plane",
    "explain",
    "is_api_server_ready",
    "start_api_server",
    "start_controllers",
    "wait_for_api_server",
]
