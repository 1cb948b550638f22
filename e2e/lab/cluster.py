"""`up`: everything that is missing or broken is made, what is there is left alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial

from e2e.lab import (
    admin,
    controlplane,
    data_disk,
    faults,
    images,
    network,
    node,
    pki,
    services,
    sites,
)
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import CommandError, tail
from e2e.lab.config import LOCATIONS, Node, Settings
from e2e.lab.host import ensure_host
from e2e.lab.oci import Image
from e2e.lab.progress import say, step, together, wait_until
from e2e.lab.rootfs import ensure_rootfs
from e2e.lab.state import claim_state, exclusive

NODES_READY_TIMEOUT_SECONDS = 240
_ZONE = "topology.kubernetes.io/zone"
_REGION = "topology.kubernetes.io/region"


def up(settings: Settings) -> None:
    """Bring the whole lab up; afterwards every part runs and no fault is left.

    May be repeated and interrupted at any point. The first time takes the Go build and
    the making of Debian roots (about 20 minutes on two cores), later ones under two.
    """
    ensure_host()
    with exclusive(settings), step("lab up"):
        wanted = prepare(settings)
        claim_state(settings)
        with step("namespaces, links and certificates"):
            network.ensure_network(settings)
            pki.ensure_pki(settings)
            faults.heal_all(settings)
        started = datetime.now(UTC)
        booted = [one for one in settings.nodes if not node.is_running(settings, one)]
        for location in LOCATIONS:
            sites.start_location(settings, location)
        together([lambda: _serve(settings), lambda: _boot(settings, wanted)])
        _wait_for_nodes(settings, booted, started)
        for location in LOCATIONS:
            sites.start_followers(settings, location)
    say("look around: python -m e2e.lab status | kubectl get nodes | exec east-1 -- uname -a")


def prepare(settings: Settings) -> tuple[Image, ...]:
    """Programs, Debian roots and images: what the cache keeps between labs.

    Returns the images, so that one `up` means the same ones throughout.
    """

    def root() -> None:
        with step("Debian root of the nodes"):
            ensure_rootfs(settings)
        with step("images of the checkout"):
            images.ensure_dockerfile_images(settings)

    def programs() -> None:
        with step("programs"):
            ensure_binaries(settings)

    together([programs, root])
    with step("images and the disk that nodes start from"):
        images.ensure_golden_disk(settings)
        return images.ensure_images(settings)


def _serve(settings: Settings) -> None:
    """The API is served everywhere and has what the lab's own parts need."""
    with step("API servers ready at east, west and witness"):
        for location in LOCATIONS:
            controlplane.wait_for_api_server(settings, location)
    with step("cluster objects, controllers, DNS"):
        services.apply_cluster_objects(settings)
        for location in LOCATIONS:
            services.start_dns(settings, location)
            if location.controllers:
                controlplane.start_controllers(settings, location)


def _boot(settings: Settings, wanted: tuple[Image, ...]) -> None:
    running = [one for one in settings.nodes if node.is_running(settings, one)]
    for one in running:
        node.thaw(settings, one)
        data_disk.apply(one, failing=False)
    sites.boot_all(settings, settings.nodes)
    # A node keeps its disks: what was built since they were made is loaded now.
    together([partial(_load_images, settings, one, wanted) for one in settings.nodes])


def _load_images(settings: Settings, one: Node, wanted: tuple[Image, ...]) -> None:
    loaded = images.ensure_loaded(settings, one, wanted)
    if loaded:
        say(f"  loaded into {one.name}: {', '.join(image.name for image in loaded)}")


def _wait_for_nodes(settings: Settings, booted: list[Node], started: datetime) -> None:
    """Every node is Ready, and those booted now have said so since ``started``."""

    def ready() -> bool:
        return not observe_unready(settings, booted, started)

    def explain() -> str:
        late = observe_unready(settings, booted, started)
        logs = [f"{one.name}:\n{tail(node.console_log(settings, one), 15)}" for one in late]
        return "\n".join(["not Ready: " + ", ".join(one.name for one in late), *logs])

    names = ", ".join(one.name for one in settings.nodes)
    with step(f"nodes Ready: {names}"):
        wait_until(
            f"the nodes {names} to be Ready",
            ready,
            timeout_seconds=NODES_READY_TIMEOUT_SECONDS,
            interval_seconds=0.5,
            explain=explain,
        )
        for one in settings.nodes:
            labels = [f"{_ZONE}={one.location.name}", f"{_REGION}=twinvault-lab"]
            admin.kubectl(settings, "label", "--overwrite", "node", one.name, *labels)


def observe_unready(settings: Settings, booted: list[Node], started: datetime) -> list[Node]:
    """Nodes that are not Ready; a node in ``booted`` must have renewed its Lease since."""
    try:
        found = json.loads(admin.kubectl(settings, "get", "nodes", "-o", "json"))
        args = ("get", "leases", "-n", "kube-node-lease", "-o", "json")
        leases = json.loads(admin.kubectl(settings, *args))
    except CommandError:
        return list(settings.nodes)
    ready = {item["metadata"]["name"] for item in found["items"] if is_ready(item)}
    renewed = {
        item["metadata"]["name"]
        for item in leases["items"]
        if datetime.fromisoformat(item["spec"].get("renewTime") or "1970-01-01T00:00:00Z") > started
    }
    return [
        one
        for one in settings.nodes
        if one.name not in ready or (one in booted and one.name not in renewed)
    ]


def is_ready(item: dict[str, object]) -> bool:
    """Whether a Node object's condition Ready is True."""
    status = item.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
