"""What must hold of the chart's files, whatever Helm makes of them."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
import yaml

from tools import sync_crds
from tools.lint_chart import CHART, check_examples, check_values, find_open_objects
from twinvault_core.names import DRIVER_NAME, STORAGE_CLASS_PARAMETERS, TAINT_RESYNCING

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def with_value(path: str, value: object) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    *parents, last = path.split(".")
    where = values
    for part in parents:
        where = where[part]
    where[last] = value
    return values  # type: ignore[no-any-return]


def test_default_values_fit_the_schema_and_the_schema_is_closed() -> None:
    assert list(check_values()) == []


def test_an_object_that_takes_any_name_is_found_in_a_schema() -> None:
    open_schema = {"properties": {"a": {"properties": {}}}, "additionalProperties": False}
    assert list(find_open_objects(open_schema)) == ["#/properties/a"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("oprator", {}),
        ("image.registy", "x"),
        ("image.twinvault.digest", "sha256:short"),
        ("logLevel", "loud"),
        ("operator.replicas", 0),
        ("node.agentPort", 80),
        ("node.kubeletDir", "var/lib/kubelet"),
        ("node.dataDir", "/var/lib/../etc/x y"),
        ("sidecars.timeout", "60"),
        ("snapshots.controller", "maybe"),
        ("storageClasses.twinvault-local.fstype", "xfs"),
        ("storageClasses.twinvault-local.fsType", "zfs"),
        ("storageClasses.Upper", {"enabled": True, "pool": "fast"}),
        ("storageClasses.no-pool", {"enabled": True}),
        ("operator.tolerations", [{"kye": "x"}]),
    ],
)
def test_a_typing_error_in_the_values_is_refused(path: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_value(path, value), SCHEMA)


def test_the_chart_carries_the_very_crds() -> None:
    source = sync_crds.observe_files(sync_crds.SOURCE)
    assert len(source) == 6
    assert sync_crds.plan_sync(source, sync_crds.observe_files(sync_crds.COPY)) == ([], [])


def test_a_crd_that_changed_or_went_is_planned_to_be_written_or_removed() -> None:
    source, copied = {"a": b"1", "b": b"2"}, {"a": b"1", "b": b"0", "c": b"3"}
    assert sync_crds.plan_sync(source, copied) == (["b"], ["c"])


def test_storage_classes_use_only_parameters_that_the_driver_knows() -> None:
    text = (CHART / "templates" / "storageclasses.yaml").read_text()
    block = text.partition("parameters:\n")[2].partition("reclaimPolicy:")[0]
    keys = {line.split(":")[0].strip() for line in block.splitlines() if not line.count("{{-")}
    assert keys == {"pool", "csi.storage.k8s.io/fstype", "replicationPair", "resyncPriority"}
    assert keys - {"csi.storage.k8s.io/fstype"} <= STORAGE_CLASS_PARAMETERS


def test_one_driver_name_everywhere() -> None:
    for name in ("csidriver.yaml", "storageclasses.yaml", "snapshotclass.yaml", "node.yaml"):
        assert DRIVER_NAME in (CHART / "templates" / name).read_text()


def test_examples_are_whole_objects() -> None:
    assert list(check_examples()) == []


def test_no_column_of_a_table_is_a_list() -> None:
    """kubectl would show only its first entry, or raw JSON."""
    for path in sorted((CHART.parents[1] / "crds").glob("*.yaml")):
        version = yaml.safe_load(path.read_text())["spec"]["versions"][0]
        for column in version["additionalPrinterColumns"]:
            where = column["jsonPath"]
            assert "[*]" not in where, f"{path.name}: {column['name']}"
            if "[" in where:
                continue
            schema = version["schema"]["openAPIV3Schema"]
            for part in where.strip(".").split("."):
                properties = schema.get("properties") or {"creationTimestamp": {"type": "string"}}
                schema = properties[part]
            assert schema["type"] not in ("array", "object"), f"{path.name}: {column['name']}"


def test_our_own_pods_come_back_to_a_node_that_resyncs() -> None:
    """A standby may run nowhere else, and without the agent there is no resync."""
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    scheduling = helpers.partition('define "twinvault.scheduling"')[2].partition("define")[0]
    assert f"{{key: {TAINT_RESYNCING}, operator: Exists}}" in scheduling
    templates = [path.read_text() for path in (CHART / "templates").glob("*.yaml")]
    deployments = [text for text in templates if "kind: Deployment" in text]
    assert len(deployments) == 3
    assert all('include "twinvault.scheduling"' in text for text in deployments)
    assert {"operator": "Exists"} in VALUES["node"]["tolerations"]
