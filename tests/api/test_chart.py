"""The chart on a real API server: install, upgrade, remove, rights, and the agents' bounds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.lab.command import CommandError, run
from e2e.lab.config import ROOT, Settings
from e2e.lab.standalone import ApiServer

NAMESPACE = "twinvault-system"
CHART = ROOT / "charts" / "twinvault"


class Cluster:
    """An API server of its own, because Helm and the other tests' CRDs would quarrel."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server

    def helm(self, *args: str) -> str:
        argv = [str(self.server.binaries / "helm"), f"--kubeconfig={self.server.kubeconfig}"]
        return run([*argv, *args, f"--namespace={NAMESPACE}"], timeout_seconds=120)

    def install(self, *args: str) -> str:
        return self.helm(
            "upgrade", "--install", "twinvault", str(CHART), "--create-namespace", *args
        )

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        return self.server.kubectl(*args, stdin=stdin)

    def may(self, account: str, verb: str, resource: str, namespace: str = NAMESPACE) -> bool:
        """Whether the ServiceAccount has that right."""
        kind, _, sub = resource.partition("/")
        user = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
        words = [verb, kind, user, f"--namespace={namespace}", f"--subresource={sub}"]
        try:
            self.kubectl("auth", "can-i", *words)
        except CommandError:
            return False
        return True

    def as_agent(self, node: str, *args: str) -> str:
        """kubectl as the agent of ``node``; its words when it is refused, empty when it works."""
        who = (
            f"--as=system:serviceaccount:{NAMESPACE}:twinvault-node",
            f"--as-user-extra=authentication.kubernetes.io/node-name={node}",
        )
        try:
            self.kubectl(*args, *who)
        except CommandError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    settings = Settings.from_environment()
    with (
        tempfile.TemporaryDirectory(prefix="twinvault-chart-") as directory,
        ApiServer.started(settings, Path(directory) / "api") as server,
    ):
        mine = Cluster(server)
        mine.install()
        yield mine


def apply(cluster: Cluster, kind: str, name: str, spec: dict[str, Any]) -> None:
    obj = {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(obj))


@pytest.fixture(scope="module")
def two_nodes(cluster: Cluster) -> Cluster:
    """A StorageNode, a VolumeReplica on each of two nodes, and a Snapshot that both hold."""
    pools = [{"name": "fast", "devices": {"paths": ["/dev/sdb"]}}]
    for node in ("east-1", "west-1"):
        spec = {"storageCluster": "x", "pools": pools, "eraseOrphans": ["left-over"]}
        apply(cluster, "StorageNode", node, spec)
        replica = {
            "volume": "v", "volumeUID": "u", "nodeName": node, "storageCluster": "x",
            "pool": "fast", "sizeBytes": 1048576,
        }  # fmt: skip
        apply(cluster, "VolumeReplica", f"v.{node}", replica)
    apply(cluster, "Snapshot", "s", {"volume": "v"})
    holders = [{"node": n, "pool": "fast", "state": "Pending"} for n in ("east-1", "west-1")]
    patch = json.dumps({"status": {"holders": holders}})
    cluster.kubectl(
        "patch", "snapshots.twinvault.io", "s", "--subresource=status", "--type=merge", "-p", patch
    )
    return cluster


def test_a_second_install_is_an_upgrade_that_changes_nothing(cluster: Cluster) -> None:
    before = cluster.helm("get", "manifest", "twinvault")
    cluster.install()
    assert cluster.helm("get", "manifest", "twinvault") == before


def test_the_notes_say_what_to_do_next(cluster: Cluster) -> None:
    notes = cluster.helm("get", "notes", "twinvault")
    for words in ("rollout status", "examples/two-sites.yaml", "twinvault-local", "placeholder"):
        assert words in notes


def test_a_changed_crd_is_upgraded_with_the_chart(cluster: Cluster, tmp_path: Path) -> None:
    """Helm never touches what lies in a chart's own crds directory again; ours are templates."""
    other = tmp_path / "twinvault"
    shutil.copytree(CHART, other)
    crd = other / "files" / "crds" / "volumes.yaml"
    crd.write_text(crd.read_text().replace("shortNames: [tvv]", "shortNames: [old]"))
    show = ("get", "crd", "volumes.twinvault.io", "-o", "jsonpath={.spec.names.shortNames[0]}")
    cluster.helm("upgrade", "twinvault", str(other))
    assert cluster.kubectl(*show) == "old"
    cluster.install()
    assert cluster.kubectl(*show) == "tvv"


@pytest.mark.parametrize(
    "name", ["two-sites", "drill", "his-postgresql", "snapshot", "restore", "block"]
)
def test_every_example_is_taken_by_the_api_server(cluster: Cluster, name: str) -> None:
    for namespace in ("his", "block-example"):
        text = cluster.kubectl("create", "namespace", namespace, "--dry-run=client", "-o", "yaml")
        cluster.kubectl("apply", "-f", "-", stdin=text)
    path = str(ROOT / "examples" / f"{name}.yaml")
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", path)


def test_a_snapshot_controller_of_the_cluster_is_left_to_its_work(cluster: Cluster) -> None:
    deployment = ("deployment", "-n", "kube-system")
    cluster.kubectl("create", *deployment, "foreign", "--image=x/snapshot-controller:v8")
    try:
        cluster.install()
        names = cluster.kubectl("-n", NAMESPACE, "get", "deployments", "-o", "name")
        assert "snapshot-controller" not in names
    finally:
        cluster.kubectl("delete", *deployment, "foreign")
        cluster.install()
    assert "snapshot-controller" in cluster.kubectl(
        "-n", NAMESPACE, "get", "deployments", "-o", "name"
    )


@pytest.mark.parametrize(
    ("account", "verb", "resource"),
    [
        ("twinvault-operator", "create", "volumereplicas.twinvault.io"),
        ("twinvault-operator", "patch", "volumes.twinvault.io/status"),
        ("twinvault-operator", "list", "nodes"),
        ("twinvault-operator", "update", "leases.coordination.k8s.io"),
        ("twinvault-operator", "patch", "nodes"),
        ("twinvault-operator", "delete", "pods"),
        ("twinvault-operator", "create", "events"),
        ("twinvault-operator", "create", "pods/eviction"),
        ("twinvault-operator", "delete", "volumeattachments.storage.k8s.io"),
        ("twinvault-operator", "patch", "volumeattachments.storage.k8s.io"),
        ("twinvault-operator", "list", "persistentvolumes"),
        ("twinvault-operator", "create", "snapshots.twinvault.io"),
        ("twinvault-csi-controller", "create", "volumes.twinvault.io"),
        ("twinvault-csi-controller", "delete", "snapshots.twinvault.io"),
        ("twinvault-csi-controller", "create", "persistentvolumes"),
        ("twinvault-csi-controller", "patch", "volumeattachments.storage.k8s.io/status"),
        ("twinvault-csi-controller", "create", "csistoragecapacities.storage.k8s.io"),
        ("twinvault-node", "patch", "volumereplicas.twinvault.io/status"),
        ("twinvault-node", "patch", "volumes.twinvault.io/status"),
        ("twinvault-node", "create", "leases.coordination.k8s.io"),
    ],
)
def test_each_process_may_do_its_work(
    cluster: Cluster, account: str, verb: str, resource: str
) -> None:
    assert cluster.may(account, verb, resource)


@pytest.mark.parametrize(
    ("account", "verb", "resource"),
    [
        (account, verb, resource)
        for account in ("twinvault-operator", "twinvault-csi-controller", "twinvault-node")
        for verb, resource in (
            ("get", "secrets"),
            ("create", "pods"),
            ("delete", "nodes"),
            ("patch", "customresourcedefinitions.apiextensions.k8s.io"),
            ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        )
    ]
    + [
        ("twinvault-operator", "delete", "volumes.twinvault.io"),
        ("twinvault-operator", "delete", "snapshots.twinvault.io"),
        ("twinvault-operator", "delete", "persistentvolumes"),
        ("twinvault-csi-controller", "patch", "volumes.twinvault.io/status"),
        ("twinvault-csi-controller", "create", "volumereplicas.twinvault.io"),
        ("twinvault-node", "delete", "volumereplicas.twinvault.io"),
        ("twinvault-node", "patch", "volumes.twinvault.io"),
        ("twinvault-node", "list", "persistentvolumes"),
    ],
)
def test_no_process_may_do_more(cluster: Cluster, account: str, verb: str, resource: str) -> None:
    assert not cluster.may(account, verb, resource)


def status_patch(kind: str, name: str, status: str) -> tuple[str, ...]:
    path = f"{kind}.twinvault.io"
    patch = f'{{"status":{status}}}'
    return ("patch", path, name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize(
    ("kind", "name", "status"),
    [
        ("volumereplicas", "v.east-1", '{"state":"Ready"}'),
        ("storagenodes", "east-1", '{"kernel":"6.1"}'),
    ],
)
def test_an_agent_speaks_only_for_its_own_node(
    two_nodes: Cluster, kind: str, name: str, status: str
) -> None:
    change = status_patch(kind, name, status)
    assert two_nodes.as_agent("east-1", *change) == ""
    assert "its own node" in two_nodes.as_agent("west-1", *change)
    assert "does not say its node" in two_nodes.as_agent("", *change)


def test_an_agent_reports_only_its_own_copy_of_a_snapshot(two_nodes: Cluster) -> None:
    def change(east: str) -> tuple[str, ...]:
        entries = [("east-1", east), ("west-1", "Pending")]
        holders = [{"node": n, "pool": "fast", "state": s} for n, s in entries]
        return status_patch("snapshots", "s", json.dumps({"holders": holders}))

    assert "its own node holds" in two_nodes.as_agent("west-1", *change("Ready"))
    assert two_nodes.as_agent("east-1", *change("Ready")) == ""


def test_an_agent_never_changes_what_it_is_told_to_do(two_nodes: Cluster) -> None:
    def change(kind: str, name: str, spec: str) -> str:
        patch = f'{{"spec":{spec}}}'
        kind = f"{kind}.twinvault.io"
        return two_nodes.as_agent("east-1", "patch", kind, name, "--type=merge", "-p", patch)

    assert "never their spec" in change("volumereplicas", "v.east-1", '{"sizeBytes":2097152}')
    assert "takes ids off" in change("storagenodes", "east-1", '{"eraseOrphans":["other"]}')
    assert "takes ids off" in change("storagenodes", "east-1", '{"storageCluster":"y"}')
    assert change("storagenodes", "east-1", '{"eraseOrphans":[]}') == ""


def test_only_the_primarys_agent_writes_the_record_and_never_who_is_primary(
    two_nodes: Cluster,
) -> None:
    apply(two_nodes, "Volume", "r", {"sizeBytes": 1 << 30, "pool": "fast"})

    def write(node: str, serial: int, *, epoch: int = 1, primary: str = "east-1") -> str:
        record = {
            "epoch": epoch,
            "serial": serial,
            "primary": primary,
            "inSync": [primary],
        }
        change = status_patch("volumes", "r", json.dumps({"replication": record}))
        if node:
            return two_nodes.as_agent(node, *change)
        two_nodes.kubectl(*change)
        return ""

    write("", 1)
    assert write("east-1", 2) == ""
    assert "only the agent of the primary" in write("west-1", 3)
    assert "only the agent of the primary" in write("west-1", 3, epoch=2, primary="west-1")
    assert "never moves the primary" in write("east-1", 3, primary="west-1")
    assert "never moves the primary" in write("east-1", 3, epoch=2)
    assert "counts that" in write("east-1", 2)
    assert "counts that" in write("east-1", 4)
    other = status_patch("volumes", "r", '{"phase":"Ready","replication":{"serial":3}}')
    assert "nothing of a Volume's status but the record" in two_nodes.as_agent("east-1", *other)
    assert write("east-1", 3) == ""


def test_an_agent_renews_only_the_lease_of_its_own_node(two_nodes: Cluster) -> None:
    def create(node: str) -> str:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": f"agent-{node}", "namespace": NAMESPACE},
        }
        path = two_nodes.server.directory / f"lease-{node}.json"
        path.write_text(json.dumps(body))
        return two_nodes.as_agent("east-1", "create", "-f", str(path))

    assert create("east-1") == ""
    assert "lease of its own node" in create("west-1")


def test_a_pair_that_volumes_use_is_not_deleted_and_the_refusal_says_what_to_do(
    cluster: Cluster,
) -> None:
    spec = {"clusters": ["east", "west"], "mode": "Sync"}
    apply(cluster, "ReplicationPair", "metro", spec)

    def delete(*args: str) -> str:
        try:
            cluster.kubectl("delete", *args)
        except CommandError as error:
            return str(error)
        return ""

    def count(total: int) -> None:
        change = status_patch("replicationpairs", "metro", f'{{"volumes":{{"total":{total}}}}}')
        cluster.kubectl(*change)

    count(2)
    path = "/apis/twinvault.io/v1alpha1/replicationpairs"
    for words in (("replicationpair", "metro"), ("--raw", f"{path}/metro"), ("--raw", path)):
        refused = delete(*words)
        assert "volumes that use ReplicationPair metro: 2." in refused, words
        assert "Take replicationPair away from them, or delete them" in refused
    pair = json.loads(cluster.kubectl("get", "replicationpair", "metro", "-o", "json"))
    assert "deletionTimestamp" not in pair["metadata"]
    count(0)
    assert delete("replicationpair", "metro") == ""
    apply(cluster, "ReplicationPair", "metro", spec)  # nobody has counted yet
    assert delete("replicationpair", "metro") == ""


def test_removing_the_chart_keeps_every_object_and_installing_again_takes_them_over(
    two_nodes: Cluster,
) -> None:
    two_nodes.helm("uninstall", "twinvault")
    assert "v.east-1" in two_nodes.kubectl("get", "volumereplicas.twinvault.io", "-o", "name")
    assert "csi.twinvault.io" not in two_nodes.kubectl("get", "csidrivers", "-o", "name")
    two_nodes.install()
    assert "v.west-1" in two_nodes.kubectl("get", "volumereplicas.twinvault.io", "-o", "name")
