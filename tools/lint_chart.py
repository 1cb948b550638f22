"""Check charts/twinvault and examples/ without a cluster; exit 1 and name what is wrong.

    python tools/lint_chart.py

With a helm at hand (the lab's, or one in PATH) the chart is also linted and rendered with the
value sets below. Without one only what needs no helm is checked, and that is said.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from e2e.lab.binaries import find_binaries  # noqa: E402
from e2e.lab.config import Settings  # noqa: E402

CHART = ROOT / "charts" / "twinvault"
EXAMPLES = ROOT / "examples"
HELM_TIMEOUT_SECONDS = 60
VALUE_SETS = (
    (),
    ("snapshots.controller=never", "snapshots.installCRDs=false", "snapshots.class.enabled=false"),
    ("metrics.podMonitor.enabled=true", "metrics.annotations=false"),
    ("storageClasses.twinvault-metro.enabled=true", "storageClasses.twinvault-local=null"),
    ("admissionPolicy.enabled=false", "image.pullSecrets={regcred}", "operator.nodeSelector.a=b"),
    (f"image.twinvault.digest=sha256:{'0' * 64}", "node.kubeletDir=/data/kubelet"),
)


def find_open_objects(schema: Any, path: str = "#") -> Iterator[str]:
    """Places of a JSON schema where an object with named properties takes any other name too."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties") is not False:
            yield path
        for key, value in schema.items():
            yield from find_open_objects(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from find_open_objects(value, f"{path}/{index}")


def check_values() -> Iterator[str]:
    """values.yaml fits the schema, and the schema refuses what it does not know."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(values):
        yield f"values.yaml: {error.json_path}: {error.message}"
    for path in find_open_objects(schema):
        yield f"values.schema.json: {path} needs additionalProperties: false"


def check_manifests(documents: list[Any], where: str) -> Iterator[str]:
    """Each object has a name and kind, and none is there twice."""
    seen: set[tuple[str, str, str]] = set()
    for document in documents:
        if document is None:
            continue
        meta = document.get("metadata") or {}
        key = (str(document.get("kind")), str(meta.get("namespace")), str(meta.get("name")))
        if not document.get("apiVersion") or "None" in (key[0], key[2]):
            yield f"{where}: an object without apiVersion, kind or name: {key}"
        if key in seen:
            yield f"{where}: {key[0]} {key[2]} is there twice"
        seen.add(key)


def check_examples() -> Iterator[str]:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        yield from check_manifests(list(yaml.safe_load_all(path.read_text())), path.name)


def find_helm() -> str | None:
    binaries = find_binaries(Settings.from_environment())
    return str(binaries / "helm") if binaries is not None else shutil.which("helm")


def check_rendered(helm: str) -> Iterator[str]:
    yield from _run_helm([helm, "lint", "--strict", str(CHART)])
    for values in VALUE_SETS:
        argv = [helm, "template", "twinvault", str(CHART), "--namespace=twinvault-system"]
        argv += [f"--set={value}" for value in values]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=HELM_TIMEOUT_SECONDS, check=False
        )
        where = f"helm template with {', '.join(values) or 'the defaults'}"
        if done.returncode != 0:
            yield f"{where}: {done.stderr.strip()}"
        else:
            yield from check_manifests(list(yaml.safe_load_all(done.stdout)), where)


def _run_helm(argv: list[str]) -> Iterator[str]:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=HELM_TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        yield f"{' '.join(argv)}: {done.stdout.strip()} {done.stderr.strip()}"


def main() -> int:
    problems = [*check_values(), *check_examples()]
    helm = find_helm()
    if helm is None:
        print("no helm here yet: the chart is not rendered (make binaries builds one)")
    else:
        problems += check_rendered(helm)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
