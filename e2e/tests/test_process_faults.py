"""Our processes and the API server go away at bad moments; nothing is lost, doubled or left."""

from __future__ import annotations

import json
import time

import pytest

from e2e.deploy import NAMESPACE, get_json, wait_seen
from e2e.lab.api import Lab
from e2e.workload import DATA_PATH, Namespace, claim, pod

pytestmark = pytest.mark.e2e

_KILL = r"""
for path in /proc/[0-9]*; do
  if tr '\0' ' ' < $path/cmdline 2>/dev/null | grep -qE '^[^ ]*python[^ ]* [^ ]*/NAME( |$)'; then
    kill -9 ${path#/proc/} && echo killed
  fi
done
"""


def _kill_everywhere(lab: Lab, program: str) -> int:
    """SIGKILL every process of the program on every node; how many there were."""
    count = 0
    for node in lab.nodes:
        text = node.exec("sh", "-c", _KILL.replace("NAME", program)).check().text
        count += text.count("killed")
    return count


def _wait_bound(namespace: Namespace, count: int, timeout_seconds: float = 180) -> None:
    def probe() -> tuple[bool, str]:
        claims = namespace.get("pvc")["items"]
        bound = [c for c in claims if c["status"].get("phase") == "Bound"]
        return len(bound) == count, f"{len(bound)} of {count} claims are bound"

    wait_seen(f"{count} claims to be bound", probe, timeout_seconds=timeout_seconds)


def _immediate_class(lab: Lab) -> str:
    """A class that binds without a pod, so that twenty claims need no twenty pods."""
    name = "e2e-immediate"
    body = get_json(lab, "storageclass/twinvault-local")
    lab.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name},
                "provisioner": body["provisioner"],
                "parameters": body["parameters"],
                "reclaimPolicy": "Delete",
                "volumeBindingMode": "Immediate",
            }
        ),
    )
    return name


@pytest.mark.parametrize(
    "program", ["twinvault-operator", "twinvault-csi-controller", "twinvault-agent"]
)
def test_twenty_claims_are_bound_though_a_process_is_killed_meanwhile(
    lab: Lab, namespace: Namespace, program: str
) -> None:
    class_name = _immediate_class(lab)
    namespace.apply(*(claim(f"c{n}", "32Mi", storage_class=class_name) for n in range(20)))
    time.sleep(0.5)
    assert _kill_everywhere(lab, program) >= 1
    _wait_bound(namespace, 20)
    names = {c["spec"]["volumeName"] for c in namespace.get("pvc")["items"]}
    volumes = {v["metadata"]["name"] for v in get_json(lab, "volumes.twinvault.io")["items"]}
    assert len(names) == 20
    assert len(volumes & names) == 20


def test_pod_goes_on_writing_while_every_process_of_ours_is_killed(
    lab: Lab, namespace: Namespace
) -> None:
    namespace.apply(claim("data", "64Mi"), pod("writer", "data"))
    namespace.wait_pod("writer")
    for program in ("twinvault-agent", "twinvault-csi-node", "twinvault-operator"):
        assert _kill_everywhere(lab, program) >= 1
    namespace.shell(
        "writer", f"echo alive > {DATA_PATH}/x; sync; test $(cat {DATA_PATH}/x) = alive"
    )

    def ready() -> tuple[bool, str]:
        pods = get_json(lab, "-n", NAMESPACE, "pods")["items"]
        waiting = [
            p["metadata"]["name"]
            for p in pods
            if not all(c["ready"] for c in p["status"].get("containerStatuses", ()))
        ]
        return not waiting, f"not ready: {waiting}"

    wait_seen("all our pods to be ready again", ready, timeout_seconds=180)
    namespace.kubectl("delete", "pod", "writer", "--wait=true")
    namespace.apply(pod("reader", "data"))
    namespace.wait_pod("reader")
    assert namespace.shell("reader", f"cat {DATA_PATH}/x").strip() == "alive"
