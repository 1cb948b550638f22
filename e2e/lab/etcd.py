"""The etcd member of each location."""

from __future__ import annotations

from pathlib import Path

from e2e.lab import process
from e2e.lab.apiserver import EtcdClient
from e2e.lab.binaries import ensure_binaries
from e2e.lab.config import LOCATIONS, Location, Settings
from e2e.lab.pki import Pair, authority

NAME = "etcd"
CLIENT_PORT = 2379
PEER_PORT = 2380
# A leader's silence is noticed after one second: a failover waits for it.
_HEARTBEAT_MILLISECONDS = 100
_ELECTION_MILLISECONDS = 1000


def plan_etcd_argv(
    program: Path, location: Location, data: Path, ca: Path, serving: Pair
) -> list[str]:
    """The command of one member. Every client and every member shows a certificate."""
    client, peer = client_url(location), _peer_url(location)
    members = ",".join(f"{one.name}={_peer_url(one)}" for one in LOCATIONS)
    return [
        str(program),
        f"--name={location.name}",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={members}",
        "--initial-cluster-token=twinvault-lab",
        f"--heartbeat-interval={_HEARTBEAT_MILLISECONDS}",
        f"--election-timeout={_ELECTION_MILLISECONDS}",
        *("--client-cert-auth", "--peer-client-cert-auth"),
        *(f"--trusted-ca-file={ca}", f"--peer-trusted-ca-file={ca}"),
        *(f"--cert-file={serving.certificate}", f"--key-file={serving.key}"),
        *(f"--peer-cert-file={serving.certificate}", f"--peer-key-file={serving.key}"),
        "--log-level=warn",
    ]


def client_url(location: Location) -> str:
    return f"https://{location.gateway}:{CLIENT_PORT}"


def _peer_url(location: Location) -> str:
    return f"https://{location.gateway}:{PEER_PORT}"


def start_etcd(settings: Settings, location: Location) -> None:
    """Start the member when it does not run. It is of use once two members run."""
    own = authority(settings)
    serving = own.ensure_pair(f"etcd-{location.name}", NAME, hosts=[location.gateway])
    run_dir = settings.location_dir(location)
    run_dir.mkdir(parents=True, exist_ok=True)
    argv = plan_etcd_argv(
        ensure_binaries(settings) / NAME, location, run_dir / NAME, own.certificate, serving
    )
    process.start(NAME, argv, run_dir=run_dir, namespace=location.namespace, restart=True)


def etcd_client(settings: Settings, location: Location) -> EtcdClient:
    """How a location's API server reaches etcd: its own member only.

    With the others in the list too, requests would go to members behind a cut link
    and hang there until the connection's keepalive gives up, tens of seconds later.
    So an API server whose member has no majority is not ready, and the proxies leave
    it.
    """
    pair = authority(settings).ensure_pair("etcd-client", "kube-apiserver")
    return EtcdClient((client_url(location),), pair)
