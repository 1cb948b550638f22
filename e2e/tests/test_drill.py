"""Drills in the lab: pods are moved to the other site and back, in sync all along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from e2e.deploy import NAMESPACE, condition_of, get_json, wait_seen
from e2e.lab.api import Lab
from e2e.tests.test_replication import (
    METRO,
    checksum,
    cordoned,
    in_sync,
    metro,
    node_of,
    other,
    wait_in_sync,
    write,
)
from e2e.workload import Namespace, Object, claim, pod

pytestmark = pytest.mark.e2e

PAIR = "replicationpairs.twinvault.io"
NAME = "metro"
POD = "app-0"
TAINT = "twinvault.io/drill"
__all__ = ["metro"]  # the fixture


def stateful_set(claim_name: str) -> Object:
    """A pod with a controller: the only kind that a drill moves."""
    labels = {"app": "app"}
    # It ends by the rules: a pod with no time to end at all is forgotten by the API server at once.
    spec = {**pod("app", claim_name)["spec"], "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": labels}, "spec": spec}
    wanted = {
        "replicas": 1,
        "serviceName": "app",
        "selector": {"matchLabels": labels},
        "template": template,
    }
    metadata = {"name": "app", "labels": labels}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": wanted}


def patch_drill(lab: Lab, drill: dict[str, Any] | None) -> None:
    patch = json.dumps({"spec": {"drill": drill}})
    lab.kubectl("patch", PAIR, NAME, "--type=merge", "-p", patch)


@contextmanager
def drilled(lab: Lab, **drill: Any) -> Iterator[None]:
    """A drill now, and none afterwards."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    patch_drill(lab, {"runAt": now, **drill})
    try:
        yield
    finally:
        patch_drill(lab, None)


def status_of(lab: Lab) -> dict[str, Any]:
    return dict(get_json(lab, PAIR, NAME).get("status") or {})


def wait_phase(lab: Lab, phase: str) -> None:
    def probe() -> tuple[bool, str]:
        drill = status_of(lab).get("drill") or {}
        return drill.get("phase") == phase, json.dumps(status_of(lab).get("lastDrill"))

    wait_seen(f"the drill to be {phase}", probe, timeout_seconds=180)


def wait_result(lab: Lab, before: dict[str, Any]) -> dict[str, Any]:
    """``lastDrill`` of the drill that was asked for after ``before`` was seen."""

    def probe() -> tuple[bool, str]:
        status = status_of(lab)
        last, running = status.get("lastDrill") or {}, status.get("drill")
        done = running is None and last.get("ended") != before.get("ended")
        return done, json.dumps(running or last)

    wait_seen("the end of the drill", probe, timeout_seconds=400)
    return dict(status_of(lab)["lastDrill"])


def last_of(lab: Lab) -> dict[str, Any]:
    return dict(status_of(lab).get("lastDrill") or {})


def closed_nodes(lab: Lab) -> set[str]:
    nodes = get_json(lab, "nodes")["items"]
    return {
        n["metadata"]["name"]
        for n in nodes
        if any(t["key"] == TAINT for t in n["spec"].get("taints") or ())
    }


def wait_open(lab: Lab) -> None:
    def probe() -> tuple[bool, str]:
        return not closed_nodes(lab), f"closed: {closed_nodes(lab)}"

    wait_seen("every node to be open", probe, timeout_seconds=30)


@pytest.fixture
def app(metro: Namespace) -> tuple[Namespace, str]:
    """A StatefulSet with a replicated volume, in sync; the name of the volume."""
    metro.apply(claim("data", "320Mi", storage_class=METRO), stateful_set("data"))
    wait_seen("the pod", lambda: _exists(metro), timeout_seconds=60)
    metro.wait_pod(POD, timeout_seconds=180)
    volume = metro.volume_of("data")
    wait_in_sync(metro.lab, volume)
    return metro, volume


def _exists(space: Namespace) -> tuple[bool, str]:
    found = space.kubectl("get", "pod", POD, "--ignore-not-found", "-o", "name").strip()
    return bool(found), "not made yet"


def test_a_drill_moves_the_pod_and_brings_it_back_in_sync_all_along(
    app: tuple[Namespace, str],
) -> None:
    space, volume = app
    lab, home, before = space.lab, node_of(space, POD), last_of(space.lab)
    first = write(space, POD, "first")
    epoch = get_json(lab, "volumes.twinvault.io", volume)["status"]["replication"]["epoch"]
    with drilled(lab, claims=[f"{space.name}/data"], holdSeconds=45):
        wait_phase(lab, "Away")
        assert node_of(space, POD) == other(lab, home)
        assert len(in_sync(lab, volume)) == 2
        assert checksum(space, POD, "first") == first
        second = write(space, POD, "second")
        last = wait_result(lab, before)
    assert last["result"] == "Succeeded", last
    space.wait_pod(POD)
    assert node_of(space, POD) == home
    assert checksum(space, POD, "first") == first
    assert checksum(space, POD, "second") == second
    found = get_json(lab, "volumes.twinvault.io", volume)
    assert found["status"]["replication"]["epoch"] == epoch + 2
    assert len(in_sync(lab, volume)) == 2
    assert not condition_of(found, "Degraded")[0]
    assert last["recoverySeconds"] > 0
    wait_open(lab)
    print(f"drill: {last['volumes']}")


def test_a_drill_goes_on_when_its_operator_is_killed(app: tuple[Namespace, str]) -> None:
    space, volume = app
    lab, home, before = space.lab, node_of(space, POD), last_of(space.lab)
    kept = write(space, POD, "kept")
    with drilled(lab, volumes=[volume], holdSeconds=0):
        wait_phase(lab, "Leaving")
        words = ("-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force")
        lab.kubectl("-n", NAMESPACE, "delete", "pods", *words)
        last = wait_result(lab, before)
    assert last["result"] == "Succeeded", last
    space.wait_pod(POD)
    assert node_of(space, POD) == home
    assert checksum(space, POD, "kept") == kept
    wait_open(lab)


def test_a_drill_to_a_cordoned_node_is_refused(
    app: tuple[Namespace, str],
) -> None:
    space, volume = app
    lab, home = space.lab, node_of(space, POD)
    uid = space.get(f"pod/{POD}")["metadata"]["uid"]
    away = other(lab, home)
    before = last_of(lab)
    with cordoned(lab, away), drilled(lab, volumes=[volume]):
        last = wait_result(lab, before)
    assert (last["result"], last["reason"]) == ("Refused", "Pinned"), last
    assert space.get(f"pod/{POD}")["metadata"]["uid"] == uid
    assert not closed_nodes(lab)


def test_a_pod_without_a_controller_is_never_evicted(metro: Namespace) -> None:
    lab = metro.lab
    metro.apply(claim("data", "320Mi", storage_class=METRO), pod("app", "data"))
    metro.wait_pod("app", timeout_seconds=180)
    volume, before = metro.volume_of("data"), last_of(lab)
    wait_in_sync(lab, volume)
    uid = metro.get("pod/app")["metadata"]["uid"]
    with drilled(lab, volumes=[volume]):
        last = wait_result(lab, before)
    assert (last["result"], last["reason"]) == ("Refused", "NoController"), last
    assert metro.get("pod/app")["metadata"]["uid"] == uid
