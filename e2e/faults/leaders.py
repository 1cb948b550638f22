"""Where those lead whom a power cut may take along: etcd's members and the operators."""

from __future__ import annotations

from e2e.deploy import NAMESPACE, get_json
from e2e.lab.api import Lab
from e2e.lab.command import CommandError
from e2e.lab.config import LOCATIONS
from e2e.lab.etcd import etcd_client
from e2e.lab.pki import authority

OPERATOR_LEASE = "twinvault-operator"
_LEADS = "etcd_server_is_leader 1"


def find_leaders(lab: Lab) -> dict[str, str]:
    """``etcd``: location of the leader; ``operator``: node of the leader's pod; '' for unknown."""
    return {"etcd": _find_etcd(lab), "operator": _find_operator(lab)}


def _find_etcd(lab: Lab) -> str:
    ca = authority(lab.settings).certificate
    for location in LOCATIONS:
        client = etcd_client(lab.settings, location)
        argv = ["curl", "--silent", "--max-time", "3", "--cacert", str(ca)]
        if client.pair is not None:
            argv += ["--cert", str(client.pair.certificate), "--key", str(client.pair.key)]
        try:
            text = lab.run_at(location.name, [*argv, f"{client.urls[0]}/metrics"])
        except CommandError:
            continue
        if _LEADS in text.splitlines():
            return location.name
    return ""


def _find_operator(lab: Lab) -> str:
    lease = get_json(lab, "-n", NAMESPACE, f"lease/{OPERATOR_LEASE}")
    holder = lease["spec"].get("holderIdentity") or ""
    pods = get_json(lab, "-n", NAMESPACE, "pods")["items"]
    nodes = {pod["metadata"]["name"]: pod["spec"].get("nodeName") or "" for pod in pods}
    return str(nodes.get(holder, ""))
