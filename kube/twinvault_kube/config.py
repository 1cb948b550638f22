"""Where the API server is, whom to trust and who we are: service account, else kubeconfig."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from twinvault_core.errors import InvalidError, UnavailableError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_KUBECONFIG = Path("~/.kube/config")

_WAYS = "a client certificate, a token or a token file"


@dataclass(frozen=True)
class Config:
    """``token_file`` wins over ``token``; it is read again as kubelet rotates it."""

    server: str
    tls: ssl.SSLContext
    token: str = ""
    token_file: Path | None = None


def observe_config(
    environment: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT
) -> Config:
    """In a pod from its service account, elsewhere from $KUBECONFIG or ~/.kube/config.

    UnavailableError when there is neither, InvalidError for one that cannot be used.
    """
    if (service_account / "token").is_file():
        return _from_service_account(environment, service_account)
    path = Path(environment.get("KUBECONFIG") or DEFAULT_KUBECONFIG).expanduser()
    if not path.is_file():
        raise UnavailableError(
            f"no service account and no kubeconfig {path}: set KUBECONFIG to a file with a user"
        )
    return _from_kubeconfig(path)


def _from_service_account(environment: Mapping[str, str], directory: Path) -> Config:
    try:
        host = environment["KUBERNETES_SERVICE_HOST"]
        port = environment["KUBERNETES_SERVICE_PORT"]
    except KeyError as error:
        raise UnavailableError(f"{directory} is there but ${error.args[0]} is not set") from None
    address = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    return Config(f"https://{address}:{port}", tls, token_file=directory / "token")


def _from_kubeconfig(path: Path) -> Config:
    try:
        document = yaml.safe_load(path.read_text())
        chosen = document["current-context"]
        context = _named(document["contexts"], chosen)["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        server = str(cluster["server"]).rstrip("/")
        tls = _trust(cluster, path.parent)
        certificate = _present_certificate(tls, user, path.parent)
    except (KeyError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else f"{error}"
        raise InvalidError(f"kubeconfig {path} cannot be used: {words}") from error
    token_file = path.parent / user["tokenFile"] if user.get("tokenFile") else None
    token = str(user.get("token") or "")
    if not (certificate or token or token_file):
        raise InvalidError(f"the user of kubeconfig {path} has none of {_WAYS}")
    return Config(server, tls, token, token_file)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(f"entry {name!r}")


def _trust(cluster: Mapping[str, Any], directory: Path) -> ssl.SSLContext:
    data = _decode(cluster.get("certificate-authority-data"))
    if data:
        return ssl.create_default_context(cadata=data.decode())
    if cluster.get("certificate-authority"):
        return ssl.create_default_context(cafile=str(directory / cluster["certificate-authority"]))
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _present_certificate(tls: ssl.SSLContext, user: Mapping[str, Any], directory: Path) -> bool:
    """Whether the user has a certificate; OpenSSL takes it from files alone."""
    certificate = _decode(user.get("client-certificate-data"))
    key = _decode(user.get("client-key-data"))
    if certificate and key:
        with tempfile.NamedTemporaryFile() as file:  # readable by us alone, gone in a moment
            file.write(certificate + b"\n" + key)
            file.flush()
            tls.load_cert_chain(file.name)
    elif user.get("client-certificate"):
        tls.load_cert_chain(directory / user["client-certificate"], directory / user["client-key"])
    else:
        return False
    return True


def _decode(text: str | None) -> bytes:
    try:
        return base64.b64decode(text or "", validate=False)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
