"""Two services whose every acknowledged write is known: PostgreSQL, and a raw block volume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.deploy import get_json, wait_seen
from e2e.faults.acknowledged import BLOCKS, ROWS, SERVICES
from e2e.faults.observer import PORT
from e2e.lab.api import Lab
from e2e.workload import DEVICE_PATH, IMAGE, Object, claim

NAMESPACE = "faults"
DATABASE_SIZE = "512Mi"
BLOCKS_SIZE = "64Mi"
PODS = {ROWS: "database-0", BLOCKS: "blocks-0"}
CLAIMS = {ROWS: "data-database-0", BLOCKS: "data-blocks-0"}
_SETS = {ROWS: "database", BLOCKS: "blocks"}
PROGRAMS = Path(__file__).parent / "programs"
_PASSWORD = "only-in-the-lab"
_DUMP_ROWS = "COPY (SELECT stream, number, run FROM acknowledged) TO STDOUT WITH (DELIMITER ' ')"
POOL_IMAGE = "/var/lib/twinvault/pools/*/volumes/{}/data.img"


@dataclass(frozen=True)
class Scene:
    """The services in namespace ``faults``, on volumes of ``storage_class``."""

    lab: Lab
    storage_class: str
    services: tuple[str, ...] = SERVICES

    def kubectl(self, *words: str, stdin: str | None = None, timeout_seconds: float = 60) -> str:
        return self.lab.kubectl(
            "-n", NAMESPACE, *words, stdin=stdin, timeout_seconds=timeout_seconds
        )

    def get(self, *words: str) -> Object:
        return get_json(self.lab, "-n", NAMESPACE, *words)

    def ensure(self) -> None:
        """Make what is missing; both services then start."""
        observers = {node.name: self.lab.observer_address(node.name) for node in self.lab.nodes}
        items = plan_objects(self.storage_class, observers, self.services)
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.lab.kubectl("apply", "-f", "-", stdin=body)

    def remove(self, timeout_seconds: int = 180) -> None:
        words = ("delete", "namespace", NAMESPACE, "--ignore-not-found")
        self.lab.kubectl(
            *words, f"--timeout={timeout_seconds}s", timeout_seconds=timeout_seconds + 10
        )

    def volume(self, service: str) -> str:
        """Name of the service's volume."""
        return str(self.get(f"pvc/{CLAIMS[service]}")["spec"]["volumeName"])

    def node_of(self, service: str) -> str:
        """The node that the service's pod is on; '' when it is on none."""
        words = (f"pod/{PODS[service]}", "--ignore-not-found", "-o", "jsonpath={.spec.nodeName}")
        return self.kubectl("get", *words).strip()

    def stop(self, timeout_seconds: float = 90) -> None:
        """End the services in order, and wait until no node has their volumes in use."""
        self._scale(0)
        volumes = {self.volume(service) for service in self.services}

        def ended() -> tuple[bool, str]:
            pods = {p["metadata"]["name"] for p in self.get("pods")["items"]}
            left = sorted(pods & {PODS[service] for service in self.services})
            held = [
                f"{a['spec']['source']['persistentVolumeName']} on {a['spec']['nodeName']}"
                for a in get_json(self.lab, "volumeattachments")["items"]
                if a["spec"]["source"].get("persistentVolumeName") in volumes
            ]
            used = [
                r["metadata"]["name"]
                for r in get_json(self.lab, "volumereplicas.twinvault.io")["items"]
                if r["spec"]["volume"] in volumes and r.get("status", {}).get("inUse")
            ]
            return not (left or held or used), f"pods {left}, attached {held}, in use {used}"

        wait_seen("the services to end", ended, timeout_seconds=timeout_seconds)

    def start(self) -> None:
        self._scale(1)

    def _scale(self, replicas: int) -> None:
        sets = (f"statefulset/{_SETS[service]}" for service in self.services)
        self.kubectl("scale", f"--replicas={replicas}", *sets)

    def wait_ready(self, timeout_seconds: float = 120) -> None:
        def ready() -> tuple[bool, str]:
            found = self.get("statefulsets")["items"]
            late = [s["metadata"]["name"] for s in found if s["status"].get("readyReplicas", 0) < 1]
            return not late, f"not ready: {', '.join(late)}; see kubectl -n {NAMESPACE} get events"

        wait_seen("the services to be ready", ready, timeout_seconds=timeout_seconds)

    def dump_rows(self) -> dict[str, dict[int, int]]:
        """Stream -> number -> run, of every row that the database has now."""
        text = self.kubectl(
            "exec", PODS[ROWS], "--", "psql", "--no-psqlrc", "--quiet", "--dbname=hospital",
            f"--command={_DUMP_ROWS}", timeout_seconds=60,
        )  # fmt: skip
        rows: dict[str, dict[int, int]] = {}
        for line in text.splitlines():
            stream, number, run = line.split()
            rows.setdefault(stream, {})[int(number)] = int(run)
        return rows

    def dump_blocks(self, node: str) -> dict[int, int]:
        """Number -> run of what the image on one node holds; for a volume that nobody uses."""
        image = self.image(BLOCKS, node)
        program = (PROGRAMS / "blocks.py").read_bytes()
        argv = ("python3", "-", image, "--dump")
        text = self.lab.node(node).exec(*argv, stdin=program).check().text
        return {int(number): int(run) for number, run in map(str.split, text.splitlines())}

    def image(self, service: str, node: str) -> str:
        """Path of the volume's image on a node."""
        pattern = POOL_IMAGE.format(self.volume(service))
        return self.lab.node(node).exec("sh", "-c", f"ls {pattern}").check().text.strip()

    def holders(self, service: str) -> list[str]:
        """Nodes that have a replica of the service's volume, sorted."""
        volume = self.volume(service)
        replicas = get_json(self.lab, "volumereplicas.twinvault.io")["items"]
        return sorted(r["spec"]["nodeName"] for r in replicas if r["spec"]["volume"] == volume)


def plan_objects(
    storage_class: str, observers: Mapping[str, str], services: Sequence[str] = SERVICES
) -> list[Object]:
    """Every object of the scene. ``observers``: node -> address that its pods report to."""
    programs = {path.name: path.read_text() for path in sorted(PROGRAMS.glob("*.py"))}
    start = "".join(f"{node}) OBSERVER={address};; " for node, address in sorted(observers.items()))
    programs["start"] = f'case "$NODE" in {start}esac\nexport OBSERVER\nexec "$@"\n'
    of_service = {
        ROWS: [
            _object("v1", "Service", "database", spec=_service()),
            _object("apps/v1", "StatefulSet", "database", spec=_database(storage_class)),
            _object("apps/v1", "DaemonSet", "desk", spec=_desk()),
        ],
        BLOCKS: [_object("apps/v1", "StatefulSet", "blocks", spec=_blocks(storage_class))],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        _object("v1", "ConfigMap", "programs", data=programs),
        *(one for service in services for one in of_service[service]),
    ]


def _object(version: str, kind: str, name: str, **rest: Any) -> Object:
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def _service() -> Object:
    return {
        "selector": {"app": "database"},
        "ports": [{"name": "postgresql", "port": 5432}],
        "publishNotReadyAddresses": True,
    }


def _set(name: str, size: str, storage_class: str, block: bool, pod: Object) -> Object:
    template = claim("data", size, storage_class=storage_class, block=block)
    return {
        "serviceName": name,
        "replicas": 1,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
        "volumeClaimTemplates": [
            {key: value for key, value in template.items() if key in ("metadata", "spec")}
        ],
    }


def _database(storage_class: str) -> Object:
    probe = ["pg_isready", "-q", "--host=127.0.0.1", "--username=registration", "-d", "hospital"]
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "REGISTRATION_PASSWORD", "value": _PASSWORD}],
        "readinessProbe": {"exec": {"command": probe}, "periodSeconds": 5, "timeoutSeconds": 5},
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}],
    }
    user = {"runAsUser": 5432, "runAsGroup": 5432, "fsGroup": 5432}
    pod = {
        **_common("east"),
        "terminationGracePeriodSeconds": 30,
        "securityContext": {**user, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
    }
    return _set("database", DATABASE_SIZE, storage_class, False, pod)


def _blocks(storage_class: str) -> Object:
    container = {
        **_program("blocks.py", DEVICE_PATH),
        "volumeDevices": [{"name": "data", "devicePath": DEVICE_PATH}],
    }
    pod = {
        **_common("east"),
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 0},
        "containers": [container],
        "volumes": [_programs_volume()],
    }
    return _set("blocks", BLOCKS_SIZE, storage_class, True, pod)


def _desk() -> Object:
    container = _program("desk.py", f"database.{NAMESPACE}.svc.cluster.local", "5432")
    database = {"PGUSER": "registration", "PGDATABASE": "hospital", "PGPASSWORD": _PASSWORD}
    container["env"] += [{"name": key, "value": value} for key, value in database.items()]
    pod = {
        **_common(""),
        "terminationGracePeriodSeconds": 1,
        # A desk stays at its site whatever happens there.
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [_programs_volume()],
    }
    template = {"metadata": {"labels": {"app": "desk"}}, "spec": pod}
    return {"selector": {"matchLabels": {"app": "desk"}}, "template": template}


def _common(preferred_zone: str) -> Object:
    spec: Object = {"automountServiceAccountToken": False, "enableServiceLinks": False}
    if preferred_zone:
        zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [preferred_zone]}
        preference = {"weight": 1, "preference": {"matchExpressions": [zone]}}
        spec["affinity"] = {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}
        }
    return spec


def _program(name: str, *arguments: str) -> Object:
    command = ["sh", "/programs/start", "python3", "-u", f"/programs/{name}", *arguments]
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    return {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "env": [
            {"name": "NODE", "valueFrom": field},
            {"name": "OBSERVER_PORT", "value": str(PORT)},
        ],
        "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": True}],
    }


def _programs_volume() -> Object:
    return {"name": "programs", "configMap": {"name": "programs"}}
