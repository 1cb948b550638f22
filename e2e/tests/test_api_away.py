"""No API server answers for a minute: pods go on, and everything catches up afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.deploy import get_json
from e2e.lab.api import Lab
from e2e.lab.config import LOCATIONS
from e2e.workload import DATA_PATH, Namespace, claim, pod

pytestmark = pytest.mark.e2e

AWAY_SECONDS = 60
_COUNT = (
    f"i=0; while true; do i=$((i+1)); echo $i >> {DATA_PATH}/log;"
    f" sync {DATA_PATH}/log; sleep 0.2; done"
)


@contextmanager
def _frozen_api(lab: Lab) -> Iterator[None]:
    sites = [lab.site(location.name) for location in LOCATIONS]
    try:
        for site in sites:
            site.freeze_api_server()
        yield
    finally:
        for site in sites:
            site.thaw_api_server()


def _lines(lab: Lab, node: str) -> int:
    """How far the writer is, asked without the API."""
    script = "cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount/log | wc -l"
    return int(lab.node(node).exec("sh", "-c", script).check().text)


def test_pods_write_on_and_claims_are_bound_after_a_minute_without_api(
    lab: Lab, namespace: Namespace
) -> None:
    namespace.apply(claim("data", "64Mi"), pod("writer", "data", command=("sh", "-c", _COUNT)))
    namespace.wait_pod("writer")
    node = str(namespace.get("pod/writer")["spec"]["nodeName"])
    namespace.apply(claim("late", "64Mi"), pod("late", "late"))
    with _frozen_api(lab):
        before = _lines(lab, node)
        time.sleep(AWAY_SECONDS)
        assert _lines(lab, node) >= before + AWAY_SECONDS * 2, "the writer went on"
    namespace.wait_pod("late", timeout_seconds=180)
    namespace.apply(claim("after", "64Mi"), pod("after", "after"))
    namespace.wait_pod("after", timeout_seconds=180)
    containers = namespace.get("pod/writer")["status"]["containerStatuses"]
    assert [c["restartCount"] for c in containers] == [0]
    volumes = {namespace.volume_of(name) for name in ("data", "late", "after")}
    found = get_json(lab, "volumes.twinvault.io")["items"]
    phases = {v["metadata"]["name"]: v["status"]["phase"] for v in found}
    assert {phases[name] for name in volumes} == {"Ready"}
