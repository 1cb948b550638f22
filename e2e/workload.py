"""Claims, pods and snapshots of a namespace in the lab, for tests and benches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from e2e.deploy import get_json, wait_seen
from e2e.lab.api import Lab

IMAGE = "registry.hospital.example/twinvault/postgresql:15"
"""Has a shell, coreutils, PostgreSQL and Python: enough for every test pod."""
STORAGE_CLASS = "twinvault-local"
DATA_PATH = "/data"
DEVICE_PATH = "/dev/volume"

Object = dict[str, Any]


def claim(
    name: str,
    size: str,
    *,
    storage_class: str = STORAGE_CLASS,
    block: bool = False,
    source: Mapping[str, str] | None = None,
) -> Object:
    """A PersistentVolumeClaim; ``source`` is a dataSource (kind, name, apiGroup)."""
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "volumeMode": "Block" if block else "Filesystem",
        "resources": {"requests": {"storage": size}},
    }
    if source is not None:
        spec["dataSource"] = dict(source)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": spec,
    }


def pod(
    name: str,
    claim_name: str,
    *,
    block: bool = False,
    zone: str = "",
    command: Sequence[str] = ("sleep", "infinity"),
) -> Object:
    """A pod that holds the claim; it waits unless it is given something to do."""
    container: Object = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
    }
    if block:
        container["volumeDevices"] = [{"name": "data", "devicePath": DEVICE_PATH}]
    else:
        container["volumeMounts"] = [{"name": "data", "mountPath": DATA_PATH}]
    spec: Object = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsUser": 0},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim_name}}],
    }
    if zone:
        spec["nodeSelector"] = {"topology.kubernetes.io/zone": zone}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def volume_snapshot(name: str, claim_name: str) -> Object:
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {
            "volumeSnapshotClassName": "twinvault",
            "source": {"persistentVolumeClaimName": claim_name},
        },
    }


TEST_LABEL = "e2e.twinvault.io/test"
"""On the namespaces of tests and benches: what an interrupted run left is told by it."""


def remove_namespaces_of_earlier_runs(lab: Lab, timeout_seconds: int = 180) -> None:
    """A run that was interrupted leaves its pods and volumes; they would disturb this one."""
    lab.kubectl(
        "delete",
        "namespaces",
        f"--selector={TEST_LABEL}",
        f"--timeout={timeout_seconds}s",
        timeout_seconds=timeout_seconds + 15,
    )


class Namespace:
    """One namespace of the lab and what is in it."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab, self.name = lab, name

    def create(self) -> None:
        metadata = {"name": self.name, "labels": {TEST_LABEL: "true"}}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def delete(self, timeout_seconds: int = 180) -> None:
        """Delete all and wait until it is gone, its volumes too."""
        self.lab.kubectl(
            "delete",
            "namespace",
            self.name,
            "--ignore-not-found",
            f"--timeout={timeout_seconds}s",
            timeout_seconds=timeout_seconds + 15,
        )

    def apply(self, *objects: Object) -> None:
        body = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.lab.kubectl("apply", "-n", self.name, "-f", "-", stdin=json.dumps(body))

    def kubectl(self, *words: str, timeout_seconds: float = 60) -> str:
        return self.lab.kubectl("-n", self.name, *words, timeout_seconds=timeout_seconds)

    def get(self, resource: str) -> Object:
        return get_json(self.lab, "-n", self.name, resource)

    def wait_pod(self, name: str, timeout_seconds: float = 120) -> None:
        """Until the pod is Ready; the error shows its events."""

        def probe() -> tuple[bool, str]:
            found = self.get(f"pod/{name}")
            ready = [c for c in found["status"].get("conditions", ()) if c["type"] == "Ready"]
            if ready and ready[0]["status"] == "True":
                return True, ""
            events = self.kubectl(
                "get",
                "events",
                "--field-selector",
                f"involvedObject.name={name}",
                "-o",
                "custom-columns=R:.reason,M:.message",
                "--no-headers",
            )
            return False, f"{found['status'].get('phase')}\n{events}"

        wait_seen(f"pod {self.name}/{name} to be ready", probe, timeout_seconds=timeout_seconds)

    def wait_gone(self, resource: str, timeout_seconds: int = 90) -> None:
        self.kubectl(
            "wait",
            resource,
            "--for=delete",
            f"--timeout={timeout_seconds}s",
            timeout_seconds=timeout_seconds + 10,
        )

    def shell(self, pod_name: str, script: str, timeout_seconds: float = 60) -> str:
        """What the script prints in the pod; fails when it fails."""
        return self.kubectl(
            "exec", pod_name, "--", "sh", "-euc", script, timeout_seconds=timeout_seconds
        )

    def wait_snapshot(self, name: str, timeout_seconds: float = 60) -> None:
        def probe() -> tuple[bool, str]:
            status = self.get(f"volumesnapshot/{name}").get("status", {})
            return bool(status.get("readyToUse")), json.dumps(status)

        wait_seen(f"snapshot {self.name}/{name}", probe, timeout_seconds=timeout_seconds)

    def volume_of(self, claim_name: str) -> str:
        """Name of the PersistentVolume behind a bound claim."""
        return str(self.get(f"pvc/{claim_name}")["spec"]["volumeName"])
