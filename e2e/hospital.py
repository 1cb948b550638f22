"""The example hospital in the lab: its database, and desks that register patients from anywhere."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from e2e.deploy import get_json, wait_seen
from e2e.lab.api import Lab
from e2e.workload import IMAGE


class Hospital:
    """One system of the examples, once applied: ``his``, or ``emr`` of active-active.yaml; in the
    namespace of that name unless another one is given.
    """

    def __init__(self, lab: Lab, system: str = "his", namespace: str = "") -> None:
        self.lab, self.namespace = lab, namespace or system
        self.database = f"{system}-postgresql"
        self.database_pod = f"{self.database}-0"

    def kubectl(self, *words: str, stdin: str | None = None, timeout_seconds: float = 60) -> str:
        return self.lab.kubectl(
            "-n", self.namespace, *words, stdin=stdin, timeout_seconds=timeout_seconds
        )

    def wait_ready(self, timeout_seconds: float = 180) -> None:
        """Until the database answers its readiness probe; the error shows the pod's events."""

        def probe() -> tuple[bool, str]:
            found = get_json(self.lab, "-n", self.namespace, f"statefulset/{self.database}")
            if found["status"].get("readyReplicas", 0) >= 1:
                return True, ""
            events = self.kubectl(
                "get",
                "events",
                "--sort-by=.lastTimestamp",
                "-o",
                "custom-columns=O:.involvedObject.name,R:.reason,M:.message",
                "--no-headers",
            )
            return False, "\n".join(events.splitlines()[-8:])

        wait_seen("PostgreSQL to be ready", probe, timeout_seconds=timeout_seconds)

    def node(self) -> str:
        """The node that the database runs on."""
        pod = get_json(self.lab, "-n", self.namespace, f"pod/{self.database_pod}")
        return str(pod["spec"].get("nodeName") or "")

    def volume(self) -> str:
        """Name of the database's volume."""
        claim = get_json(self.lab, "-n", self.namespace, f"pvc/data-{self.database_pod}")
        return str(claim["spec"]["volumeName"])

    def query(self, statement: str) -> str:
        return self.kubectl(
            "exec",
            self.database_pod,
            "--",
            "psql",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--dbname=hospital",
            f"--command={statement}",
        ).strip()

    def count_patients(self) -> int:
        return int(self.query("SELECT count(*) FROM patients"))

    def wait_registered(self, count: int, timeout_seconds: float = 120) -> None:
        """Until ``count`` patients are in the database."""

        def probe() -> tuple[bool, str]:
            now = self.count_patients()
            return now >= count, f"{now} of {count} patients"

        wait_seen(f"{count} patients", probe, timeout_seconds=timeout_seconds)


class Desk:
    """A registration desk in a pod at one site; its log is the list of acknowledged numbers.

    At another site than the database it outlives a power cut of the database's node: it is the
    observer that knows what was promised.
    """

    def __init__(self, hospital: Hospital, name: str, zone: str) -> None:
        self._hospital, self.name, self._zone = hospital, name, zone

    def open(self, rate: float = 0) -> None:
        """Start registering; ``rate`` patients a second, 0 as fast as the database answers."""
        self._hospital.kubectl("apply", "-f", "-", stdin=json.dumps(self._pod(rate)))
        self._hospital.kubectl(
            "wait", f"pod/{self.name}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70
        )

    def acknowledged(self) -> list[int]:
        """Every number that the database has acknowledged to this desk so far."""
        lines = self._hospital.kubectl("logs", self.name).splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("acknowledged ")]

    def acknowledged_at(self) -> list[float]:
        """Seconds of time.time() of each acknowledgement, as the desk's node has them."""
        lines = self._hospital.kubectl("logs", "--timestamps", self.name).splitlines()
        told = (line.split() for line in lines)
        return [
            datetime.fromisoformat(words[0]).timestamp()
            for words in told
            if len(words) == 3 and words[1] == "acknowledged"
        ]

    def wait_acknowledged(self, count: int, timeout_seconds: float = 120) -> None:
        def probe() -> tuple[bool, str]:
            now = len(self.acknowledged())
            return now >= count, f"{now} of {count} acknowledged"

        wait_seen(
            f"desk {self.name} to have {count} patients", probe, timeout_seconds=timeout_seconds
        )

    def check(self, numbers: list[int]) -> str:
        """Ask the database for each number; CommandError with the missing ones if any is gone."""
        lines = "".join(f"acknowledged {number}\n" for number in numbers)
        return self._hospital.kubectl(
            "exec",
            "-i",
            self.name,
            "--",
            "check-patients",
            f"--desk={self.name}",
            stdin=lines,
            timeout_seconds=300,
        )

    def close(self) -> None:
        self._hospital.kubectl(
            "delete",
            "pod",
            self.name,
            "--ignore-not-found",
            "--wait=true",
            "--grace-period=0",
            "--force",
        )

    def _pod(self, rate: float) -> dict[str, Any]:
        host = f"{self._hospital.database}.{self._hospital.namespace}.svc"
        secret = {"secretKeyRef": {"name": "registration", "key": "password"}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self._hospital.namespace},
            "spec": {
                "nodeSelector": {"topology.kubernetes.io/zone": self._zone},
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 5432,
                    "runAsGroup": 5432,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "desk",
                        "image": IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["register-patients", f"--desk={self.name}", f"--rate={rate}"],
                        "env": [
                            {"name": "PGHOST", "value": host},
                            {"name": "PGDATABASE", "value": "hospital"},
                            {"name": "PGUSER", "value": "registration"},
                            {"name": "PGPASSWORD", "valueFrom": secret},
                        ],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
            },
        }
