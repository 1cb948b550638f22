"""twinvault and the hospital's examples on the lab, as a user would put them on a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from e2e.lab.api import Lab
from e2e.lab.config import ROOT
from e2e.lab.images import DRIVER_IMAGE, ensure_images
from e2e.lab.progress import say, step, wait_until

RELEASE = "twinvault"
NAMESPACE = "twinvault-system"
CHART = ROOT / "charts" / "twinvault"
EXAMPLES = ROOT / "examples"


def wait_seen(what: str, probe: Callable[[], tuple[bool, str]], *, timeout_seconds: float) -> None:
    """Until ``probe`` answers true; its text is what was seen last, for the error."""
    seen = ""

    def condition() -> bool:
        nonlocal seen
        done, seen = probe()
        return done

    wait_until(
        what,
        condition,
        timeout_seconds=timeout_seconds,
        interval_seconds=0.5,
        explain=lambda: f"last seen: {seen}",
    )


def get_json(lab: Lab, *words: str) -> dict[str, Any]:
    """``kubectl get WORDS`` as an object."""
    answer: dict[str, Any] = json.loads(lab.kubectl("get", *words, "-o", "json"))
    return answer


def condition_of(obj: dict[str, Any], type_: str) -> tuple[bool, str]:
    """Whether the condition holds for the current generation, and what it says."""
    for condition in obj.get("status", {}).get("conditions", ()):
        if condition["type"] == type_:
            text = f"{condition.get('reason', '')}: {condition.get('message', '')}"
            return condition["status"] == "True", text
    return False, f"no condition {type_} yet"


def wait_condition(
    lab: Lab, resource: str, type_: str, *words: str, timeout_seconds: float = 120
) -> None:
    wait_seen(
        f"{resource} to be {type_}",
        lambda: condition_of(get_json(lab, resource, *words), type_),
        timeout_seconds=timeout_seconds,
    )


def install_chart(lab: Lab, *values: str, timeout_seconds: int = 240) -> None:
    """Helm install or upgrade, until every pod of the chart is ready.

    The lab builds every state of the sources under one tag: the annotation rolls the pods when
    the image behind the tag is another one.
    """
    image = next(i for i in ensure_images(lab.settings) if i.name == DRIVER_IMAGE)
    values = (*values, f"podAnnotations.image={image.digest}")
    with step("helm upgrade --install twinvault"):
        lab.helm(
            "upgrade",
            "--install",
            RELEASE,
            str(CHART),
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            f"{timeout_seconds}s",
            *(word for value in values for word in ("--set", value)),
            timeout_seconds=timeout_seconds + 30,
        )


def apply_example(lab: Lab, name: str) -> None:
    """kubectl apply of examples/NAME."""
    with step(f"kubectl apply -f examples/{name}"):
        lab.kubectl("apply", "-f", str(EXAMPLES / name))


def wait_sites(lab: Lab, timeout_seconds: float = 120) -> None:
    """Until both StorageClusters say that they are Ready."""
    for site in ("east", "west"):
        with step(f"waiting for StorageCluster {site}"):
            wait_condition(lab, f"storagecluster/{site}", "Ready", timeout_seconds=timeout_seconds)
    with step("waiting for the scheduler to know the room on every node"):
        wait_seen(
            "a CSIStorageCapacity of each node", lambda: _room(lab), timeout_seconds=timeout_seconds
        )


def _room(lab: Lab) -> tuple[bool, str]:
    """Whether the provisioner has told the scheduler of room on every node.

    Until it has, a pod that prefers one site may be sent to the other one.
    """
    found = get_json(lab, "-n", NAMESPACE, "csistoragecapacities")["items"]
    with_room = {
        node
        for entry in found
        if entry.get("capacity", "0") != "0"
        for node in entry["nodeTopology"]["matchLabels"].values()
    }
    return len(with_room) >= len(lab.nodes), f"room on {sorted(with_room)}"


def show(lab: Lab, *words: str) -> None:
    """Print a kubectl command and what it answers."""
    say(f"$ kubectl {' '.join(words)}")
    print(lab.kubectl(*words), flush=True)
