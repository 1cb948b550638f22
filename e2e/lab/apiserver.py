"""Argument list and readiness of a kube-apiserver, in the lab and alone on loopback."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from e2e.lab.config import CLUSTER_DOMAIN, SERVICE_NETWORK
from e2e.lab.exec_channel import connect_in_namespace
from e2e.lab.pki import Authority, Pair

# Its heap is mostly caches that live long: collecting more often costs a little CPU
# and saves about a third of the memory.
ENVIRONMENT = {"GOGC": "60"}


@dataclass(frozen=True)
class EtcdClient:
    """How an API server reaches etcd; ``pair`` only where etcd asks for certificates."""

    urls: tuple[str, ...]
    pair: Pair | None = None


@dataclass(frozen=True)
class ApiServerPlan:
    """Everything that differs between one API server and another."""

    program: Path
    address: IPv4Address
    port: int
    authority: Authority
    serving: Pair
    client: Pair
    etcd: EtcdClient
    extra: Sequence[str] = field(default=())


def plan_api_server_argv(plan: ApiServerPlan) -> list[str]:
    """The command that serves the API as ``plan`` says, RBAC and node authorizer on."""
    ca = plan.authority.certificate
    service_account_key = plan.authority.service_account_key
    issuer = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"
    return [
        str(plan.program),
        f"--bind-address={plan.address}",
        f"--advertise-address={plan.address}",
        f"--secure-port={plan.port}",
        f"--client-ca-file={ca}",
        f"--tls-cert-file={plan.serving.certificate}",
        f"--tls-private-key-file={plan.serving.key}",
        f"--kubelet-client-certificate={plan.client.certificate}",
        f"--kubelet-client-key={plan.client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={ca}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--enable-aggregator-routing=true",
        f"--service-account-issuer={issuer}",
        f"--service-account-key-file={service_account_key}",
        f"--service-account-signing-key-file={service_account_key}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--etcd-servers={','.join(plan.etcd.urls)}",
        *_etcd_tls(plan),
        # A member without a majority must be noticed before a client gives up.
        "--etcd-readycheck-timeout=1s",
        "--profiling=false",
        *plan.extra,
    ]


def _etcd_tls(plan: ApiServerPlan) -> list[str]:
    pair = plan.etcd.pair
    if pair is None:
        return []
    return [
        f"--etcd-cafile={plan.authority.certificate}",
        f"--etcd-certfile={pair.certificate}",
        f"--etcd-keyfile={pair.key}",
    ]


def is_ready(
    address: IPv4Address,
    port: int,
    ca: Path,
    *,
    namespace: str | None = None,
    timeout_seconds: float = 2,
) -> bool:
    """Whether the API server answers /readyz with 200, asked from a namespace of the lab."""
    target = (str(address), port)
    try:
        if namespace is None:
            plain = socket.create_connection(target, timeout=timeout_seconds)
        else:
            plain = connect_in_namespace(namespace, target, timeout_seconds=timeout_seconds)
        with plain:
            plain.settimeout(timeout_seconds)
            context = ssl.create_default_context(cafile=str(ca))
            with context.wrap_socket(plain, server_hostname=str(address)) as secured:
                secured.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in secured.recv(64).split(b"\r\n", 1)[0]
    except OSError:
        return False
