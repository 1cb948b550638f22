"""An agent that is killed between every two steps still does everything once and leaks nothing.

A volume's whole course is cut into stages. For each stage agents are started that die at their
first, second, third ... step, until one lives to see the stage done. Real API server, real pool.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.lab.standalone import ApiServer
from tests.agent.world import NODE, Json, replica_object, snapshot_object
from tests.api.node_rig import NodeRig, node_rig
from twinvault_core.agent_api import Publish, Request, Stage, Unpublish, Unstage
from twinvault_core.errors import NotFoundError, TwinvaultError
from twinvault_core.sizing import MIB
from twinvault_kube.client import KubeClient
from twinvault_kube.kinds import SNAPSHOTS, STORAGE_NODES, VOLUME_REPLICAS, Kind

pytestmark = [pytest.mark.api, pytest.mark.root]

STRIDE = int(os.environ.get("TWINVAULT_KILL_STRIDE", "3"))
"""1 kills at every step (minutes); 3 at every third, starting elsewhere in each stage."""
MOST_STEPS = 80
STAGE_SECONDS = 30.0
START = "look at the pools"
Check = Callable[[], Awaitable[bool]]


class Course:
    """Brings one stage after the other to its end, whatever the agent's lives are like."""

    def __init__(self, rig: NodeRig, kube: KubeClient) -> None:
        self.rig, self.kube = rig, kube
        self.kills = self.stages = 0

    async def stage(self, what: str, done: Check, *, whole_start: bool = False) -> None:
        """Until ``done`` holds; agents die at step 1, 2, 3 ... of their lives until then."""
        self.stages += 1
        for number in range(1 + self.stages % STRIDE, MOST_STEPS, STRIDE):
            self.rig.start(kill_at=number, after="" if whole_start else START)
            if await self._live(what, done):
                self.rig.kill()
                return
            self.kills += 1
        raise AssertionError(f"{what} is not done within {MOST_STEPS} steps\n{self.rig.log}")

    async def _live(self, what: str, done: Check) -> bool:
        """Whether the stage was done in this life of the agent; False when the agent died."""
        assert self.rig.process is not None
        try:
            async with asyncio.timeout(STAGE_SECONDS):
                while True:
                    if await done():
                        return True
                    if self.rig.process.poll() is not None:
                        return False
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{what}: neither done nor killed\n{self.rig.log}") from None

    def answered(self, request: Request) -> Check:
        """The agent answered ``request`` without an error."""

        async def check() -> bool:
            try:
                await asyncio.to_thread(self.rig.ask, request)
            except (OSError, TwinvaultError):
                return False
            return True

        return check

    def status(self, kind: Kind, name: str, holds: Callable[[Json], bool]) -> Check:
        async def check() -> bool:
            return holds((await self.kube.get(kind, name)).get("status") or {})

        return check

    def gone(self, kind: Kind, name: str) -> Check:
        async def check() -> bool:
            try:
                await self.kube.get(kind, name)
            except NotFoundError:
                return True
            return False

        return check


def is_ready(status: Json) -> bool:
    return status.get("state") == "Ready"


async def make_and_use(course: Course, staged: Stage, published: Publish) -> None:
    kube = course.kube
    await kube.create(STORAGE_NODES, course.rig.node_object())
    pools_ready = lambda s: [p["state"] for p in s.get("pools") or ()] == ["Ready"]  # noqa: E731
    await course.stage(
        "the pool", course.status(STORAGE_NODES, NODE, pools_ready), whole_start=True
    )
    await kube.create(VOLUME_REPLICAS, replica_object("v1", size_bytes=64 * MIB))
    await course.stage("creation", course.status(VOLUME_REPLICAS, f"v1.{NODE}", is_ready))
    await course.stage("staging", course.answered(staged))
    await course.stage("publishing", course.answered(published))
    in_use = course.status(VOLUME_REPLICAS, f"v1.{NODE}", lambda s: s.get("inUse") is True)
    await course.stage("telling that it is in use", in_use)


async def copy_and_grow(course: Course) -> None:
    kube = course.kube
    obj = snapshot_object("s1", "v1")
    await kube.create(SNAPSHOTS, {key: obj[key] for key in ("metadata", "spec")})
    await kube.patch_status(SNAPSHOTS, "s1", obj["status"])
    taken = course.status(SNAPSHOTS, "s1", lambda s: s["holders"][0]["state"] == "Ready")
    await course.stage("the snapshot", taken)
    for name, source in (("v2", {"snapshot": "s1"}), ("v3", {"volume": "v1"})):
        replica = replica_object(name, size_bytes=64 * MIB, source=source)
        await kube.create(VOLUME_REPLICAS, replica)
        ready = course.status(VOLUME_REPLICAS, f"{name}.{NODE}", is_ready)
        await course.stage(f"a copy of {source}", ready)
    await kube.patch(VOLUME_REPLICAS, f"v1.{NODE}", {"spec": {"sizeBytes": 96 * MIB}})
    grown = course.status(VOLUME_REPLICAS, f"v1.{NODE}", lambda s: s["sizeBytes"] == 96 * MIB)
    await course.stage("growing", grown)


async def remove_everything(course: Course, staged: Stage, published: Publish) -> None:
    kube = course.kube
    await kube.delete(VOLUME_REPLICAS, f"v1.{NODE}")
    refused = course.status(VOLUME_REPLICAS, f"v1.{NODE}", lambda s: s["reason"] == "InUse")
    await course.stage("refusing to erase what is used", refused)
    unpublish = Unpublish("v1", published.target_path)
    await course.stage("unpublishing", course.answered(unpublish))
    await course.stage("unstaging", course.answered(Unstage("v1", staged.staging_path)))
    await course.stage("erasing v1", course.gone(VOLUME_REPLICAS, f"v1.{NODE}"))
    for name in ("v2", "v3"):
        await kube.delete(VOLUME_REPLICAS, f"{name}.{NODE}")
        await course.stage(f"erasing {name}", course.gone(VOLUME_REPLICAS, f"{name}.{NODE}"))
    await kube.delete(SNAPSHOTS, "s1")
    erased = course.status(SNAPSHOTS, "s1", lambda s: s["holders"][0]["state"] == "Erased")
    await course.stage("erasing the snapshot", erased)


async def check_copies(rig: NodeRig, text: bytes) -> None:
    """Both copies hold what was written and flushed before they were made."""
    for name in ("v2", "v3"):
        staging, target = str(rig.kubelet_dir / name), str(rig.kubelet_dir / f"{name}-pod")
        ask = [
            Stage(name, staging, "Filesystem", "ext4"),
            Publish(name, staging, target, "Filesystem"),
        ]
        for request in ask:
            await until_answering(rig, request)
        assert (Path(target) / "row").read_bytes() == text
        for back in (Unpublish(name, target), Unstage(name, staging)):
            await asyncio.to_thread(rig.ask, back)


async def until_answering(rig: NodeRig, request: Request) -> None:
    last: Exception | None = None
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    await asyncio.to_thread(rig.ask, request)
                except (OSError, TwinvaultError) as error:
                    last = error
                    await asyncio.sleep(0.05)
                else:
                    return
    except TimeoutError:
        raise AssertionError(f"{request} is not done: {last}\n{rig.log[-2000:]}") from None


async def test_killed_between_every_two_steps_of_a_volumes_course(
    api_server: ApiServer, kube: KubeClient, tmp_path: Path
) -> None:
    with node_rig(tmp_path, api_server.kubeconfig) as rig:
        course = Course(rig, kube)
        staged = Stage("v1", str(rig.kubelet_dir / "stage"), "Filesystem", "ext4")
        target = str(rig.kubelet_dir / "pod")
        published = Publish("v1", staged.staging_path, target, "Filesystem")
        await make_and_use(course, staged, published)
        row = Path(target) / "row"
        row.write_bytes(b"patient 1")
        await copy_and_grow(course)
        rig.start()
        await until_answering(rig, replace(published))
        await check_copies(rig, b"patient 1")
        assert row.read_bytes() == b"patient 1"
        rig.kill()
        await remove_everything(course, staged, published)
        assert rig.pool_files() == ["snapshots", "trash", "volumes"] or not rig.pool_files()
        assert rig.loops_over_volumes() == []
        assert rig.mounts() == [str(rig.data_dir / "pools" / "fast")]
        assert course.kills > 60 // STRIDE
