"""Certificates, the control plane's command lines, and the proxy before it."""

from __future__ import annotations

import json
import ssl
import stat
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from e2e.lab import etcd, pki, services
from e2e.lab.apiserver import ApiServerPlan, EtcdClient, plan_api_server_argv
from e2e.lab.binaries import BinariesError, choose_linker_flags, parse_kubernetes_version
from e2e.lab.config import API_SERVICE_ADDRESS, EAST, LOCATIONS
from e2e.lab.pki import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    own = Authority(tmp_path / "pki")
    own.ensure()
    return own


def test_what_the_authority_signs_is_trusted_with_it(authority: Authority) -> None:
    pair = authority.ensure_pair("server", "server", hosts=["localhost", "127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority.certificate)
    assert len(context.get_ca_certs()) == 1


def test_a_second_run_keeps_keys_and_certificates(authority: Authority) -> None:
    before = authority.ensure_pair("node", "system:node:x", organization="system:nodes")
    held = before.certificate.read_bytes(), before.key.read_bytes()
    authority.ensure()
    after = authority.ensure_pair("node", "system:node:x", organization="system:nodes")
    assert held == (after.certificate.read_bytes(), after.key.read_bytes())


def test_a_kubeconfig_carries_all_it_needs_and_is_private(
    authority: Authority, tmp_path: Path
) -> None:
    path = authority.ensure_kubeconfig(tmp_path / "a.kubeconfig", "me", "https://x:1")
    config = json.loads(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://x:1"
    assert set(config["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_names_and_addresses_are_told_apart() -> None:
    told = pki.format_alternative_names(["kubernetes", IPv4Address("10.0.0.1"), "10.0.0.2"])
    assert told == "DNS:kubernetes,IP:10.0.0.1,IP:10.0.0.2"


def test_the_api_certificate_holds_for_every_way_to_the_api() -> None:
    hosts = pki.api_server_hosts()
    assert API_SERVICE_ADDRESS in hosts
    assert "kubernetes.default.svc.cluster.local" in hosts
    assert all(location.gateway in hosts for location in LOCATIONS)


def test_the_proxy_prefers_the_local_api_server_and_checks_it_whole() -> None:
    config = services.plan_api_proxy(EAST, "/ca.crt")
    servers = [line.strip() for line in config.splitlines() if line.startswith("  server ")]
    assert servers[0].startswith("server east ")
    assert [line.endswith(" backup") for line in servers] == [False, True, True]
    assert all("check-ssl verify required" in line for line in servers)
    assert "GET /readyz" in config
    assert "on-marked-down shutdown-sessions" in config


def plan(extra: tuple[str, ...] = ()) -> list[str]:
    pair = Pair(Path("/c"), Path("/k"))
    return plan_api_server_argv(
        ApiServerPlan(
            program=Path("/kube-apiserver"),
            address=IPv4Address("10.77.1.1"),
            port=6444,
            authority=Authority(Path("/pki")),
            serving=pair,
            client=pair,
            etcd=EtcdClient(("https://10.77.1.1:2379",), pair),
            extra=extra,
        )
    )


def test_the_api_server_authorizes_nodes_and_roles() -> None:
    argv = plan()
    assert "--authorization-mode=Node,RBAC" in argv
    assert "--enable-admission-plugins=NodeRestriction" in argv
    assert not any("AlwaysAllow" in word for word in argv)


def test_extra_flags_come_last_so_that_they_win() -> None:
    assert plan(("--v=4",))[-1] == "--v=4"


def test_every_etcd_client_and_member_shows_a_certificate() -> None:
    pair = Pair(Path("/c"), Path("/k"))
    argv = etcd.plan_etcd_argv(Path("/etcd"), EAST, Path("/data"), Path("/ca"), pair)
    assert {"--client-cert-auth", "--peer-client-cert-auth"} <= set(argv)
    assert not any("http://" in word for word in argv)


def test_etcd_of_the_lab_never_skips_its_flushes() -> None:
    pair = Pair(Path("/c"), Path("/k"))
    argv = etcd.plan_etcd_argv(Path("/etcd"), EAST, Path("/data"), Path("/ca"), pair)
    assert not any("fsync" in word for word in argv)


def test_services_served_on_the_spot_are_hidden_from_the_service_proxy() -> None:
    text = json.dumps(services.plan_cluster_objects())
    assert text.count("service.kubernetes.io/service-proxy-name") == 1


def test_the_version_is_the_one_that_the_module_builds() -> None:
    assert parse_kubernetes_version("require (\n\tk8s.io/kubernetes v1.36.3\n)") == "v1.36.3"
    with pytest.raises(BinariesError, match="no version"):
        parse_kubernetes_version("k8s.io/kubernetes => ./here")


def test_programs_tell_the_version_of_kubernetes() -> None:
    flags = choose_linker_flags("v1.36.3")
    assert "version.gitVersion=v1.36.3" in flags
    assert "version.gitMinor=36 " in flags
