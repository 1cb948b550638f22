"""What a location's nodes need beside the control plane: API proxy, services, DNS.

Each site has its own, so that none depends on another. The nodes' kernel cannot
translate addresses, so kube-proxy runs in the location's namespace, and the nodes
route the service network to their gateway.
"""

from __future__ import annotations

import json

from e2e.lab import process
from e2e.lab.admin import kubectl
from e2e.lab.binaries import ensure_binaries
from e2e.lab.config import (
    API_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    DNS_SERVICE_ADDRESS,
    LOCATIONS,
    POD_NETWORK,
    Location,
    Settings,
)
from e2e.lab.controlplane import API_SERVER_PORT
from e2e.lab.pki import PROXY_PORT, authority, component_kubeconfig

API_PROXY = "api-proxy"
SERVICE_PROXY = "kube-proxy"
DNS = "coredns"

# Services with this label are left alone by kube-proxy: the API's and DNS's addresses
# are served on the spot, on the namespace's own loopback.
_SERVED_HERE = {"service.kubernetes.io/service-proxy-name": "twinvault-lab"}


def plan_api_proxy(location: Location, ca: str) -> str:
    """HAProxy's configuration: the local API server, and the others when it is not ready.

    A dead one is left within a second (three checks refused, 100 ms apart), a silent
    one after three checks of a second each; its connections are closed then, so that
    watches move too.
    """
    others = [one for one in LOCATIONS if one != location]
    servers = [_server_line(location, ca, ""), *(_server_line(o, ca, " backup") for o in others)]
    binds = (f"{location.gateway}:{PROXY_PORT}", f"{API_SERVICE_ADDRESS}:443")
    lines = [
        "global",
        "  maxconn 4000",
        "  nbthread 1",
        "  hard-stop-after 1s",
        "defaults",
        "  mode tcp",
        "  timeout connect 300ms",
        "  timeout client 1h",
        "  timeout server 1h",
        "  timeout check 1s",
        "  retries 3",
        "  option redispatch 1",
        "  option clitcpka",
        "  option srvtcpka",
        "listen api",
        *(f"  bind {bind}" for bind in binds),
        "  option httpchk GET /readyz",
        "  http-check expect status 200",
        "  default-server inter 500ms fastinter 100ms downinter 500ms fall 3 rise 1",
        "  default-server on-marked-down shutdown-sessions",
        *servers,
    ]
    return "\n".join(lines) + "\n"


def _server_line(location: Location, ca: str, role: str) -> str:
    where = f"{location.gateway}:{API_SERVER_PORT}"
    tls = f"check check-ssl verify required ca-file {ca}"
    return f"  server {location.name} {where} {tls}{role}"


def start_api_proxy(settings: Settings, location: Location) -> None:
    run_dir = settings.location_dir(location)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = run_dir / "haproxy.cfg"
    config.write_text(plan_api_proxy(location, str(authority(settings).certificate)))
    argv = ["haproxy", "-db", "-f", str(config)]
    process.start(API_PROXY, argv, run_dir=run_dir, namespace=location.namespace, restart=True)


def start_service_proxy(settings: Settings, location: Location) -> None:
    """kube-proxy for the services that a site's pods use."""
    kubeconfig = component_kubeconfig(settings, location, SERVICE_PROXY)
    argv = [
        str(ensure_binaries(settings) / SERVICE_PROXY),
        f"--kubeconfig={kubeconfig}",
        "--proxy-mode=nftables",
        # The answer to a pod on the same bridge must come back through here.
        "--masquerade-all",
        f"--hostname-override={next(n for n in settings.nodes if n.location == location).name}",
        f"--bind-address={location.gateway}",
        f"--cluster-cidr={POD_NETWORK}",
        f"--healthz-bind-address={location.gateway}:10256",
        "--metrics-bind-address=127.0.0.1:10249",
        # These are limits of the whole machine, not of a namespace.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]
    run_dir = settings.location_dir(location)
    process.start(SERVICE_PROXY, argv, run_dir=run_dir, namespace=location.namespace, restart=True)


def start_dns(settings: Settings, location: Location) -> None:
    run_dir = settings.location_dir(location)
    run_dir.mkdir(parents=True, exist_ok=True)
    config = run_dir / "Corefile"
    kubeconfig = component_kubeconfig(settings, location, DNS)
    config.write_text(
        ".:53 {\n  errors\n  ready\n  cache 5\n"
        f"  kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{\n"
        f"    kubeconfig {kubeconfig}\n    pods insecure\n    ttl 5\n  }}\n}}\n"
    )
    argv = [str(ensure_binaries(settings) / DNS), "-conf", str(config)]
    process.start(DNS, argv, run_dir=run_dir, namespace=location.namespace, restart=True)


def plan_cluster_objects() -> dict[str, object]:
    """Objects that the lab's own parts need: RBAC, and the two services served here."""
    dns_rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    rbac = "rbac.authorization.k8s.io/v1"
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": rbac,
                "kind": "ClusterRole",
                "metadata": {"name": "system:coredns"},
                "rules": dns_rules,
            },
            _binding("system:coredns", "system:coredns", "system:coredns"),
            _binding(
                "apiserver-kubelet-client",
                "system:kubelet-api-admin",
                "kube-apiserver-kubelet-client",
            ),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": "kube-dns",
                    "namespace": "kube-system",
                    "labels": {**_SERVED_HERE, "k8s-app": "kube-dns"},
                },
                "spec": {
                    "clusterIP": str(DNS_SERVICE_ADDRESS),
                    "ports": [
                        {"name": "dns", "port": 53, "protocol": "UDP"},
                        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                    ],
                },
            },
        ],
    }


def _binding(name: str, role: str, user: str) -> dict[str, object]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


def apply_cluster_objects(settings: Settings) -> None:
    """Make the objects, and keep kube-proxy away from the API's service."""
    text = json.dumps(plan_cluster_objects())
    kubectl(settings, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    labels = [f"{key}={value}" for key, value in _SERVED_HERE.items()]
    kubectl(settings, "label", "--overwrite", "service", "kubernetes", *labels)
