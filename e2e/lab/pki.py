"""Certificates and kubeconfigs of a cluster, made with openssl.

One authority signs everything. Files that exist are kept, so that `up` may be
repeated and a node keeps its identity.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from e2e.lab.command import run
from e2e.lab.config import (
    API_SERVICE_ADDRESS,
    CLUSTER_DOMAIN,
    LOCATIONS,
    WITNESS,
    Location,
    Node,
    Settings,
)
from e2e.lab.rootfs import locked

PROXY_PORT = 6443
"""Where a location's proxy serves the API: `https://<gateway>:6443`."""
_TIMEOUT_SECONDS = 60
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A directory with ``ca.crt``, ``ca.key`` and everything that it signed."""

    directory: Path

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def service_account_key(self) -> Path:
        return self.directory / "service-account.key"

    def ensure(self) -> None:
        """Make the authority and the service account key when they are missing."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(self.directory / "lock"):
            if not self.certificate.exists():
                extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
                self._request("ca", "/CN=twinvault-lab", extensions, signed=False)
            if not self.service_account_key.exists():
                unfinished = self.directory / "service-account.new"
                # The API server reads SEC 1 ("EC PRIVATE KEY"), which genpkey does not write.
                curve = ("-name", "prime256v1", "-genkey", "-noout")
                argv = ["openssl", "ecparam", *curve, "-out", str(unfinished)]
                run(argv, timeout_seconds=_TIMEOUT_SECONDS)
                unfinished.rename(self.service_account_key)

    def ensure_pair(
        self,
        name: str,
        common_name: str,
        *,
        organization: str = "",
        hosts: Iterable[str | IPv4Address] = (),
    ) -> Pair:
        """A certificate for both ends of TLS; ``hosts`` are its names and addresses."""
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        with locked(self.directory / "lock"):
            if not pair.certificate.exists():
                subject = f"/O={organization}/CN={common_name}" * bool(organization)
                extensions = [
                    "basicConstraints=critical,CA:FALSE",
                    "keyUsage=critical,digitalSignature",
                    "extendedKeyUsage=serverAuth,clientAuth",
                ]
                alternative = format_alternative_names(hosts)
                if alternative:
                    extensions.append(f"subjectAltName={alternative}")
                self._request(name, subject or f"/CN={common_name}", extensions, signed=True)
        return pair

    def ensure_kubeconfig(self, path: Path, user: str, server: str, group: str = "") -> Path:
        """Write a kubeconfig that carries everything it needs inside."""
        pair = self.ensure_pair(path.stem, user, organization=group)
        config = format_kubeconfig(
            server=server,
            authority=self.certificate.read_bytes(),
            certificate=pair.certificate.read_bytes(),
            key=pair.key.read_bytes(),
            user=user,
        )
        if not path.exists() or path.read_text() != config:
            write_private(path, config)
        return path

    def _request(self, name: str, subject: str, extensions: Sequence[str], *, signed: bool) -> None:
        """Make NAME.key and NAME.crt; the certificate appears last, whole."""
        certificate = self.directory / f"{name}.crt"
        unfinished = self.directory / f"{name}.new"
        argv = ["openssl", "req", "-x509", *_KEY, "-days", "3650", "-subj", subject]
        argv += ["-keyout", str(self.directory / f"{name}.key"), "-out", str(unfinished)]
        argv += [part for extension in extensions for part in ("-addext", extension)]
        if signed:
            argv += ["-CA", str(self.certificate), "-CAkey", str(self.key)]
        # Without a configuration file openssl adds no extension of its own.
        run(argv, timeout_seconds=_TIMEOUT_SECONDS, env={"OPENSSL_CONF": str(self._config())})
        unfinished.rename(certificate)

    def _config(self) -> Path:
        path = self.directory / "openssl.cnf"
        if not path.exists():
            path.write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        return path


def format_alternative_names(hosts: Iterable[str | IPv4Address]) -> str:
    """Value of subjectAltName: addresses as IP, everything else as DNS."""
    parts: list[str] = []
    for host in hosts:
        try:
            parts.append(f"IP:{IPv4Address(host)}")
        except ValueError:
            parts.append(f"DNS:{host}")
    return ",".join(parts)


def format_kubeconfig(
    *, server: str, authority: bytes, certificate: bytes, key: bytes, user: str
) -> str:
    """A kubeconfig as JSON, which is YAML too."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "lab",
                "cluster": {"server": server, "certificate-authority-data": _base64(authority)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(certificate),
                    "client-key-data": _base64(key),
                },
            }
        ],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    }
    return json.dumps(document, indent=1) + "\n"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(text)
    unfinished.rename(path)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- the lab's own cluster


def api_server_hosts() -> list[str | IPv4Address]:
    """Every name and address under which a client of the lab asks an API server."""
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    return [
        *service,
        f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "localhost",
        IPv4Address("127.0.0.1"),
        API_SERVICE_ADDRESS,
        *(location.gateway for location in LOCATIONS),
    ]


def authority(settings: Settings) -> Authority:
    return Authority(settings.pki)


def proxy_url(location: Location) -> str:
    return f"https://{location.gateway}:{PROXY_PORT}"


def ensure_pki(settings: Settings) -> None:
    """The authority and the administrator's kubeconfig."""
    own = authority(settings)
    own.ensure()
    own.ensure_kubeconfig(
        settings.admin_kubeconfig, "lab-admin", proxy_url(WITNESS), "system:masters"
    )


def component_kubeconfig(settings: Settings, location: Location, component: str) -> Path:
    """Kubeconfig of ``system:COMPONENT`` at a location, through that location's proxy."""
    path = settings.pki / f"{component}-{location.name}.kubeconfig"
    return authority(settings).ensure_kubeconfig(path, f"system:{component}", proxy_url(location))


def kubelet_kubeconfig(settings: Settings, node: Node) -> Path:
    """Kubeconfig of a node's kubelet (``system:node:NAME``), through its site's proxy."""
    own = authority(settings)
    own.ensure()
    path = settings.pki / f"kubelet-{node.name}.kubeconfig"
    user = f"system:node:{node.name}"
    return own.ensure_kubeconfig(path, user, proxy_url(node.location), "system:nodes")
