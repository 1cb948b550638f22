"""What the CRDs refuse and accept, asked of a real API server: every CEL rule and every bound."""

from __future__ import annotations

import copy
import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.lab.standalone import ApiServer

Json = dict[str, Any]

GIB = 1024**3
POOL: Json = {"name": "fast", "devices": {"paths": ["/dev/disk/by-id/nvme-1"]}}
SPECS: dict[str, Json] = {
    "StorageCluster": {
        "nodeSelector": {"matchLabels": {"topology.kubernetes.io/zone": "east"}},
        "pools": [POOL],
    },
    "StorageNode": {"storageCluster": "east", "pools": [POOL]},
    "Volume": {"sizeBytes": GIB, "pool": "fast", "fsType": "ext4"},
    "VolumeReplica": {
        "volume": "v",
        "volumeUID": "u",
        "nodeName": "east-1",
        "storageCluster": "east",
        "pool": "fast",
        "sizeBytes": GIB,
    },
    "Snapshot": {"volume": "v"},
    "ReplicationPair": {"clusters": ["east", "west"], "mode": "Sync"},
}


def apply_changes(spec: Json, changes: Json) -> Json:
    """A copy of ``spec`` with each dotted path set; None removes it."""
    result = copy.deepcopy(spec)
    for path, value in changes.items():
        *parents, last = path.split(".")
        where: Any = result
        for part in parents:
            where = where[int(part)] if isinstance(where, list) else where.setdefault(part, {})
        if value is None:
            del where[last]
        else:
            where[last] = value
    return result


def plan_object(kind: str, *changes: Json, name: str = "one") -> Json:
    """An object of ``kind`` with a good spec, changed step by step."""
    spec = SPECS[kind]
    for step in changes:
        spec = apply_changes(spec, step)
    return {
        "apiVersion": "twinvault.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


class Caller:
    """Plain calls of the API server, for dry runs that kubectl would take half a second for."""

    def __init__(self, server: ApiServer) -> None:
        pair = server.authority.ensure_pair("user-admin", "admin", organization="system:masters")
        context = ssl.create_default_context(cafile=str(server.authority.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        self._connection = http.client.HTTPSConnection(
            "127.0.0.1", server.api_port, timeout=30, context=context
        )

    def call(self, method: str, obj: Json, *, dry_run: bool = True) -> tuple[int, Json]:
        """Status code and answer; fields that the schema does not know are errors."""
        path = f"/apis/twinvault.io/v1alpha1/{obj['kind'].lower()}s"
        if method != "POST":
            path += f"/{obj['metadata']['name']}"
        path += "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        headers = {"Content-Type": "application/json"}
        body = None if method == "DELETE" else json.dumps(obj)
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def table(self, kind: str) -> dict[str, dict[str, Any]]:
        """What ``kubectl get`` shows: cells by column, by name of the object."""
        headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        self._connection.request("GET", f"/apis/twinvault.io/v1alpha1/{kind}", headers=headers)
        told = json.loads(self._connection.getresponse().read())
        columns = [c["name"] for c in told["columnDefinitions"]]
        rows = [dict(zip(columns, row["cells"], strict=True)) for row in told["rows"]]
        return {row["Name"]: row for row in rows}

    def refusal(self, method: str, obj: Json) -> str:
        """The answer's words when the object is refused, empty when it is taken. A dry run."""
        status, answer = self.call(method, obj)
        return "" if status < 300 else str(answer["message"])

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def caller(api_server: ApiServer) -> Iterator[Caller]:
    connected = Caller(api_server)
    yield connected
    connected.close()


ACCEPTED = [
    *((kind, {}) for kind in SPECS),
    ("Volume", {"sizeBytes": 1048576}),
    ("Volume", {"sizeBytes": 64 * 1024 * GIB}),
    ("Volume", {"volumeMode": "Block", "fsType": None}),
    ("Volume", {"fsType": None}),
    ("Volume", {"source.snapshot": "s"}),
    ("Volume", {"source.volume": "v"}),
    ("Volume", {"accessibility": {"requisite": ["east-1"], "preferred": ["east-1"]}}),
    ("StorageCluster", {"pools.0.devices": {"selector": {"minSizeBytes": GIB}}}),
    ("StorageCluster", {"pools.0.filesystem": "btrfs", "pools.0.redundancy": "mirror"}),
    ("StorageCluster", {"pools.0.devices.paths": ["/dev/mapper/vg-a..b"]}),
    ("ReplicationPair", {"mode": "Async", "async": {"intervalSeconds": 60}}),
    ("ReplicationPair", {"network": {"cidr": "10.0.0.0/24"}}),
    ("ReplicationPair", {"network": {"roundTripMilliseconds": 0}}),
    ("StorageCluster", {"pools.0.alExtents": 6433}),
    ("Volume", {"resyncPriority": -1000}),
    ("ReplicationPair", {"drill": {"schedule": "30 2 * * sun", "claims": ["his/data-0"]}}),
    ("ReplicationPair", {"drill": {"runAt": "2026-03-01T02:00:00Z", "volumes": ["v"]}}),
    ("VolumeReplica", {"giveUp": "east-1"}),
    ("VolumeReplica", {"keepData": True}),
    ("Volume", {"replicationPair": "metro", "removedReplica": "Keep"}),
    ("StorageNode", {"evacuate": True}),
    ("StorageNode", {"lost": "one"}),
]

REFUSED = [
    ("Volume", {"sizeBytes": 0}, "greater than or equal to 1048576"),
    ("Volume", {"sizeBytes": -4096}, "greater than or equal to 1048576"),
    ("Volume", {"sizeBytes": 2**63 - 1}, "less than or equal to"),
    ("Volume", {"sizeBytes": 64 * 1024 * GIB + 4096}, "less than or equal to"),
    ("Volume", {"sizeBytes": GIB + 1}, "multiple of 4096"),
    ("Volume", {"sizeBytes": None}, "sizeBytes: Required"),
    ("Volume", {"pool": ""}, "pool"),
    ("Volume", {"pool": None}, "pool: Required"),
    ("Volume", {"fsType": "ntfs"}, 'supported values: "ext4", "xfs"'),
    ("Volume", {"volumeMode": "Block"}, "a Block volume has no fsType"),
    ("Volume", {"source": {}}, "either source.snapshot or source.volume"),
    ("Volume", {"source": {"snapshot": "s", "volume": "v"}}, "either source.snapshot"),
    ("Volume", {"publishedTo": ["a", "b"]}, "at most 1 item"),
    ("Volume", {"unknown": 1}, "unknown field"),
    ("Volume", {"removedReplica": "Sell"}, 'supported values: "Erase", "Keep"'),
    ("StorageNode", {"lost": "east-1"}, "type its name into spec.lost"),
    ("StorageCluster", {"nodeSelector.matchLabels": {}}, "at least 1 propert"),
    ("StorageCluster", {"nodeSelector": None}, "nodeSelector: Required"),
    ("StorageCluster", {"pools": []}, "at least 1 item"),
    ("StorageCluster", {"pools": [POOL, POOL]}, "Duplicate value"),
    ("StorageCluster", {"pools.0.name": "Fast"}, "should match"),
    ("StorageCluster", {"pools.0.name": "../etc"}, "should match"),
    ("StorageCluster", {"pools.0.filesystem": "zfs"}, 'supported values: "xfs", "btrfs"'),
    ("StorageCluster", {"pools.0.redundancy": "mirror"}, "need filesystem btrfs"),
    ("StorageCluster", {"pools.0.compression": "zstd"}, "need filesystem btrfs"),
    ("StorageCluster", {"pools.0.reservePercent": 51}, "less than or equal to 50"),
    ("StorageCluster", {"pools.0.overProvisioningPercent": 99}, "greater than or equal to 100"),
    ("StorageCluster", {"pools.0.devices": {}}, "either devices.paths or devices.selector"),
    (
        "StorageCluster",
        {"pools.0.devices.selector": {"rotational": False}},
        "either devices.paths or devices.selector",
    ),
    ("StorageCluster", {"pools.0.devices": {"selector": {}}}, "at least 1 propert"),
    ("StorageCluster", {"pools.0.devices.paths": ["/etc/passwd"]}, "should match"),
    ("StorageCluster", {"pools.0.devices.paths": ["/dev/../etc/passwd"]}, "has no '..'"),
    ("StorageCluster", {"pools.0.devices.paths": ["/dev/sda/.."]}, "has no '..'"),
    ("StorageCluster", {"pools.0.devices.paths": ["/dev//sda"]}, "has no '..'"),
    ("StorageCluster", {"pools.0.devices.paths": ["/dev/sda; rm"]}, "should match"),
    ("ReplicationPair", {"clusters": ["east", "east"]}, "cannot be paired with itself"),
    ("ReplicationPair", {"clusters": ["east"]}, "at least 2 items"),
    ("ReplicationPair", {"clusters": ["a", "b", "c"]}, "at most 2 items"),
    ("ReplicationPair", {"mode": "Maybe"}, 'supported values: "Sync", "Async"'),
    ("ReplicationPair", {"async": {"intervalSeconds": 60}}, "async settings need mode Async"),
    (
        "ReplicationPair",
        {"network": {"cidr": "10.0.0.0/24", "interface": "eth1"}},
        "either network.interface or network.cidr",
    ),
    ("ReplicationPair", {"network": {"interface": "eth1; reboot"}}, "should match"),
    ("ReplicationPair", {"network": {"roundTripMilliseconds": 1001}}, "less than or equal to 1000"),
    ("StorageCluster", {"pools.0.alExtents": 66}, "greater than or equal to 67"),
    ("Volume", {"resyncPriority": 1001}, "less than or equal to 1000"),
    ("ReplicationPair", {"failover.leaseDurationSeconds": 2}, "greater than or equal to 3"),
    ("ReplicationPair", {"drill": {"runAt": "tonight"}}, "date-time"),
    ("ReplicationPair", {"drill": {"claims": ["data-0"]}}, "should match"),
    ("ReplicationPair", {"drill": {"deadlineSeconds": 1}}, "greater than or equal to 10"),
    ("VolumeReplica", {"giveUp": "east-2"}, "write the name of its node"),
    ("VolumeReplica", {"nodeName": None}, "nodeName: Required"),
    ("VolumeReplica", {"role": "Leader"}, "Unsupported value"),
    ("Snapshot", {"volume": ""}, "at least 1 char"),
    ("Snapshot", {"volume": None}, "volume: Required"),
]

CHANGES_ACCEPTED = [
    ("Volume", {}, {"sizeBytes": 2 * GIB}),
    ("Volume", {}, {"storageCluster": "east"}),
    ("Volume", {}, {"publishedTo": ["east-1"]}),
    ("Volume", {}, {"replicationPair": "metro"}),
    ("Volume", {}, {"resyncPriority": 7}),
    ("ReplicationPair", {}, {"network": {"roundTripMilliseconds": 5}}),
    ("StorageCluster", {}, {"pools.0.alExtents": 100}),
    ("Volume", {"replicationPair": "metro"}, {"replicationPair": None}),
    ("StorageCluster", {}, {"pools.0.devices.paths": ["/dev/sdb"], "pools.0.reservePercent": 9}),
    ("StorageCluster", {}, {"pools": [POOL, {**POOL, "name": "slow", "filesystem": "btrfs"}]}),
    ("StorageCluster", {}, {"nodeSelector.matchLabels": {"site": "east"}}),
    ("VolumeReplica", {}, {"sizeBytes": 2 * GIB}),
    ("VolumeReplica", {}, {"giveUp": "east-1"}),
    ("ReplicationPair", {}, {"failover.policy": "Manual"}),
]

CHANGES_REFUSED = [
    ("Volume", {}, {"sizeBytes": GIB - 4096}, "cannot shrink"),
    ("Volume", {}, {"pool": "slow"}, "pool, volumeMode and fsType are immutable"),
    ("Volume", {}, {"fsType": "xfs"}, "pool, volumeMode and fsType are immutable"),
    ("Volume", {}, {"fsType": None}, "pool, volumeMode and fsType are immutable"),
    ("Volume", {}, {"volumeMode": "Block", "fsType": None}, "volumeMode and fsType are immutable"),
    ("Volume", {}, {"source.volume": "v"}, "source is immutable"),
    ("Volume", {"source.volume": "v"}, {"source.volume": "w"}, "source is immutable"),
    ("Volume", {"source.volume": "v"}, {"source": None}, "source is immutable"),
    ("Volume", {"replicationPair": "one"}, {"replicationPair": "two"}, "take replicationPair away"),
    ("Volume", {"storageCluster": "east"}, {"storageCluster": "west"}, "immutable once set"),
    ("Volume", {"storageCluster": "east"}, {"storageCluster": None}, "immutable once set"),
    ("StorageCluster", {}, {"pools.0.name": "other"}, "a pool cannot be removed"),
    ("StorageCluster", {}, {"pools.0.filesystem": "btrfs"}, "of a pool are immutable"),
    ("VolumeReplica", {}, {"nodeName": "east-2"}, "does not change its volume, node"),
    ("VolumeReplica", {}, {"volumeUID": "w"}, "does not change its volume, node"),
    ("VolumeReplica", {}, {"sizeBytes": GIB - 4096}, "cannot shrink"),
    ("VolumeReplica", {}, {"source.volume": "w"}, "source is immutable"),
    ("Snapshot", {}, {"volume": "w"}, "spec of a Snapshot is immutable"),
    ("ReplicationPair", {}, {"mode": "Async"}, "mode is immutable"),
    ("ReplicationPair", {}, {"clusters": ["east", "north"]}, "clusters is immutable"),
]

BAD_NAMES = ["a.b", "x" * 64]


def _id(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)[:60]


def observe_change(caller: Caller, kind: str, before: Json, changes: Json) -> str:
    """The refusal of ``changes`` to an object that exists; the object is gone afterwards."""
    status, existing = caller.call("POST", plan_object(kind, before), dry_run=False)
    assert status == 201, existing
    try:
        changed = plan_object(kind, before, changes)
        changed["metadata"]["resourceVersion"] = existing["metadata"]["resourceVersion"]
        return caller.refusal("PUT", changed)
    finally:
        caller.call("DELETE", existing, dry_run=False)


@pytest.mark.parametrize(("kind", "changes"), ACCEPTED, ids=_id)
def test_what_makes_sense_is_accepted(caller: Caller, kind: str, changes: Json) -> None:
    assert caller.refusal("POST", plan_object(kind, changes)) == ""


@pytest.mark.parametrize(("kind", "changes", "words"), REFUSED, ids=_id)
def test_what_makes_no_sense_is_refused_with_words(
    caller: Caller, kind: str, changes: Json, words: str
) -> None:
    assert words in caller.refusal("POST", plan_object(kind, changes))


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["Volume", "Snapshot", "StorageCluster", "ReplicationPair"])
def test_a_name_that_is_no_dns_label_is_refused(caller: Caller, kind: str, name: str) -> None:
    refusal = caller.refusal("POST", plan_object(kind, name=name))
    assert "DNS label of at most 63 characters" in refusal


@pytest.mark.parametrize(("kind", "before", "changes"), CHANGES_ACCEPTED, ids=_id)
def test_a_change_that_makes_sense_is_accepted(
    caller: Caller, kind: str, before: Json, changes: Json
) -> None:
    assert observe_change(caller, kind, before, changes) == ""


@pytest.mark.parametrize(("kind", "before", "changes", "words"), CHANGES_REFUSED, ids=_id)
def test_a_change_of_what_is_fixed_is_refused_with_words(
    caller: Caller, kind: str, before: Json, changes: Json, words: str
) -> None:
    assert words in observe_change(caller, kind, before, changes)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StorageCluster", "pools.0.filesystem", "xfs"),
        ("StorageCluster", "pools.0.reservePercent", 5),
        ("StorageCluster", "pools.0.overProvisioningPercent", 100),
        ("Volume", "volumeMode", "Filesystem"),
        ("VolumeReplica", "role", "Primary"),
        ("ReplicationPair", "failover.policy", "Automatic"),
        ("ReplicationPair", "resync.concurrentVolumes", 2),
    ],
)
def test_what_is_left_out_gets_its_default(
    caller: Caller, kind: str, path: str, value: object
) -> None:
    _, answer = caller.call("POST", plan_object(kind))
    found: Any = answer["spec"]
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert found == value


@pytest.mark.parametrize("kind", SPECS)
def test_kubectl_explains_every_kind(api_server: ApiServer, kind: str) -> None:
    text = api_server.kubectl("explain", f"{kind.lower()}s.twinvault.io.spec")
    assert "DESCRIPTION:\n    <empty>" not in text.partition("FIELDS:")[2]


def test_replicas_are_found_by_node_on_the_server(api_server: ApiServer) -> None:
    """The agent's watch rests on this: without selectableFields the server refuses it."""
    answer = api_server.kubectl("get", "volumereplicas", "--field-selector=spec.nodeName=east-1")
    assert "east-1" not in answer


def test_snapshots_are_found_by_volume_on_the_server(api_server: ApiServer) -> None:
    answer = api_server.kubectl(
        "get", "snapshots.twinvault.io", "--field-selector=spec.volume=none"
    )
    assert "none" not in answer


def test_a_table_shows_words_and_no_lists(caller: Caller) -> None:
    used = plan_object("Volume", {"publishedTo": ["east-1"]}, name="used")
    free = plan_object("Volume", name="free")
    try:
        for obj in (used, free):
            assert caller.call("POST", obj, dry_run=False)[0] < 300
        shown = caller.table("volumes")
    finally:
        for obj in (used, free):
            caller.call("DELETE", obj, dry_run=False)
    assert shown["used"]["Used By"] == "east-1"
    assert shown["free"]["Used By"] in ("", None, "<none>")
