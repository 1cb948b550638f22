"""50 claims at once: seconds to Bound, against a driver that does nothing.

Both drivers stand behind the same provisioner with the same flags, in pods of the same cluster,
and are asked in turns (A B A B ...), so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from bench.figures import print_figure, summarize
from e2e.deploy import NAMESPACE
from e2e.lab.api import Lab
from e2e.workload import Namespace

COUNT = 50
ROUNDS = 3
OURS, FLOOR = "bench-twinvault", "bench-floor"
FLOOR_DRIVER = "mock.csi.twinvault.io"


def storage_class(name: str, driver: str, parameters: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": driver,
        "parameters": parameters,
        "volumeBindingMode": "Immediate",
        "reclaimPolicy": "Delete",
    }


def floor_deployment(lab: Lab) -> dict[str, Any]:
    """The mock driver beside a copy of our controller's provisioner container."""
    ours = json.loads(
        lab.kubectl("-n", NAMESPACE, "get", "deployment", "twinvault-csi-controller", "-o", "json")
    )
    pod = ours["spec"]["template"]["spec"]
    provisioner = next(c for c in pod["containers"] if c["name"] == "csi-provisioner")
    # The mock driver knows no topology and no capacity; everything else stays as it is.
    unwanted = (
        "--feature-gates",
        "--enable-capacity",
        "--capacity",
        "--strict-topology",
        "--immediate-topology",
        "--node-deployment",
    )
    args = [a for a in provisioner["args"] if not a.startswith(unwanted)]
    mock = {
        "name": "driver",
        "image": "registry.hospital.example/lab/mockdriver:lab",
        "imagePullPolicy": "IfNotPresent",
        "args": ["--endpoint=/csi/csi.sock"],
        "volumeMounts": provisioner["volumeMounts"],
    }
    labels = {"app": "bench-floor"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "bench-floor", "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": pod["serviceAccountName"],
                    "securityContext": {"runAsUser": 0},
                    "containers": [mock, {**provisioner, "args": args}],
                    "volumes": [v for v in pod["volumes"] if "emptyDir" in v],
                },
            },
        },
    }


def run_round(lab: Lab, class_name: str, number: int) -> list[float]:
    """Seconds to Bound of each of COUNT claims; the namespace is removed afterwards."""
    space = Namespace(lab, f"storm-{class_name}-{number}")
    space.create()
    try:
        answer = lab.run_at(
            "witness",
            [
                sys.executable,
                "-m",
                "bench.storm_client",
                "--namespace",
                space.name,
                "--storage-class",
                class_name,
                "--count",
                str(COUNT),
            ],
            timeout_seconds=240,
        )
        seconds: list[float] = json.loads(answer)["seconds"]
        return seconds
    finally:
        space.delete()


def main() -> None:
    lab = Lab()
    classes = [
        storage_class(OURS, "csi.twinvault.io", {"pool": "fast"}),
        storage_class(FLOOR, FLOOR_DRIVER, {}),
    ]
    body = {"apiVersion": "v1", "kind": "List", "items": [*classes, floor_deployment(lab)]}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    try:
        lab.kubectl(
            "-n",
            NAMESPACE,
            "rollout",
            "status",
            "deployment/bench-floor",
            "--timeout=120s",
            timeout_seconds=130,
        )
        run_round(lab, OURS, 0)
        run_round(lab, FLOOR, 0)
        ours: list[float] = []
        floor: list[float] = []
        for number in range(1, ROUNDS + 1):
            ours += run_round(lab, OURS, number)
            floor += run_round(lab, FLOOR, number)
    finally:
        lab.kubectl("-n", NAMESPACE, "delete", "deployment/bench-floor", "--ignore-not-found")
        lab.kubectl("delete", "storageclass", OURS, FLOOR, "--ignore-not-found")
    mine, least = summarize(ours), summarize(floor)
    print_figure(
        "storm",
        figure=mine,
        compared_with=least,
        ratio={key: round(mine[key] / least[key], 3) for key in ("p50", "p99")},
        goal="p99 ratio <= 1.2",
        details={"claims": COUNT, "rounds": ROUNDS, "unit": "seconds to Bound"},
    )


if __name__ == "__main__":
    main()
