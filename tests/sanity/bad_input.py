"""What csi-sanity does not ask: bad input, and a controller killed in the middle, for real.

Each check is named for what it protects and uses the processes of the stack over their sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from e2e.lab import process
from e2e.lab.command import CommandError
from tests.csi.requests import GIB, capability, code_of, create_request, from_volume, on_nodes
from tests.sanity.stack import NODE, Stack
from twinvault_csi.pb import csi_pb2, csi_pb2_grpc, pluginregistration_pb2_grpc
from twinvault_csi.pb import pluginregistration_pb2 as registration_pb2

Code = grpc.StatusCode
MIB = 1024**2
CALL_SECONDS = 60.0
STORM = 20


@dataclass
class Driver:
    """Clients of the stack's sockets; every call waits for a process that is starting."""

    stack: Stack
    controller: csi_pb2_grpc.ControllerStub
    node: csi_pb2_grpc.NodeStub

    @classmethod
    @asynccontextmanager
    async def connected(cls, stack: Stack) -> AsyncIterator[Self]:
        async with (
            grpc.aio.insecure_channel(f"unix:{stack.socket('csi-controller')}") as controller,
            grpc.aio.insecure_channel(f"unix:{stack.socket('csi-node')}") as node,
        ):
            yield cls(stack, csi_pb2_grpc.ControllerStub(controller), csi_pb2_grpc.NodeStub(node))

    async def create(self, name: str, size: int = 64 * MIB, **more: Any) -> csi_pb2.Volume:
        request = create_request(name, size, **more)
        answer = await self.controller.CreateVolume(
            request, timeout=CALL_SECONDS, wait_for_ready=True
        )
        return answer.volume

    async def delete(self, volume_id: str) -> None:
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume_id)
        await self.controller.DeleteVolume(request, timeout=CALL_SECONDS, wait_for_ready=True)

    async def publish(self, volume_id: str, node: str = NODE) -> None:
        request = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=volume_id, node_id=node, volume_capability=capability()
        )
        await self.controller.ControllerPublishVolume(request, timeout=CALL_SECONDS)

    async def unpublish(self, volume_id: str) -> None:
        request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume_id, node_id=NODE)
        await self.controller.ControllerUnpublishVolume(request, timeout=CALL_SECONDS)

    async def stage(self, volume_id: str, path: Path) -> None:
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=volume_id, staging_target_path=str(path), volume_capability=capability()
        )
        await self.node.NodeStageVolume(request, timeout=CALL_SECONDS)

    async def unstage(self, volume_id: str, path: Path) -> None:
        request = csi_pb2.NodeUnstageVolumeRequest(
            volume_id=volume_id, staging_target_path=str(path)
        )
        await self.node.NodeUnstageVolume(request, timeout=CALL_SECONDS)

    async def expand(self, volume_id: str, required: int, limit: int = 0) -> int:
        size = csi_pb2.CapacityRange(required_bytes=required, limit_bytes=limit)
        request = csi_pb2.ControllerExpandVolumeRequest(volume_id=volume_id, capacity_range=size)
        answer = await self.controller.ControllerExpandVolume(request, timeout=CALL_SECONDS)
        return answer.capacity_bytes

    def names(self, kind: str) -> list[str]:
        return self.stack.api.kubectl("get", kind, "-o", "name").split()


class Expected(AssertionError):
    """A check found something else than it wants."""


async def expect(call: Awaitable[Any], *codes: Code, word: str = "") -> None:
    code, message = await code_of(call)
    if code not in codes or word not in message:
        raise Expected(f"wanted {codes} with {word!r}, got {code}: {message}")


def require(good: object, what: str) -> None:
    if not good:
        raise Expected(what)


async def check_sizes_that_cannot_be(driver: Driver) -> None:
    await expect(driver.create("bad-size", -1), Code.INVALID_ARGUMENT)
    await expect(driver.create("bad-size", 2**62), Code.OUT_OF_RANGE)
    await expect(driver.create("bad-size", 2 * GIB, limit_bytes=GIB), Code.INVALID_ARGUMENT)
    require((await driver.create("no-size", 0)).capacity_bytes == GIB, "the default size")
    await driver.delete("no-size")


async def check_a_volume_does_not_shrink(driver: Driver) -> None:
    await driver.create("shrink", 128 * MIB)
    await expect(driver.expand("shrink", 32 * MIB, 64 * MIB), Code.OUT_OF_RANGE, word="shrink")
    require(await driver.expand("shrink", 64 * MIB) == 128 * MIB, "it stays as it is")
    patch = json.dumps({"spec": {"sizeBytes": 64 * MIB}})
    try:
        driver.stack.api.kubectl("patch", "volume", "shrink", "--type=merge", "-p", patch)
    except CommandError as error:
        require("cannot shrink" in str(error), f"the schema says why: {error}")
    else:
        raise Expected("the schema let a volume shrink")
    await driver.delete("shrink")


async def check_parameters_are_refused_by_name(driver: Driver) -> None:
    bad = Code.INVALID_ARGUMENT
    await expect(driver.create("p", parameters={"pool": "gold"}), bad, word="'gold'")
    await expect(driver.create("p", parameters={"iops": "1"}), bad, word="'iops'")
    await expect(driver.create("p", parameters={"fsType": "ntfs"}), bad, word="'ntfs'")
    pair = {"pool": "fast", "replicationPair": "metro"}
    await expect(driver.create("p", parameters=pair), bad, word="metro")
    many = [capability(csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER)]
    await expect(driver.create("p", volume_capabilities=many), bad, word="MULTI_NODE")


async def check_names_and_ids_that_are_paths_do_no_harm(driver: Driver) -> None:
    for name in ("../../../etc/twinvault", "/", "..", "a/../b", "x" * 128, "Ärzte 1"):
        volume = await driver.create(name)
        await driver.stage(volume.volume_id, driver.stack.kubelet_dir / "staging")
        await driver.unstage(volume.volume_id, driver.stack.kubelet_dir / "staging")
        await driver.delete(volume.volume_id)
    for volume_id in ("..", "../x", "/etc", "a/b"):
        await driver.delete(volume_id)
        call = driver.stage(volume_id, driver.stack.kubelet_dir / "staging")
        await expect(call, Code.NOT_FOUND)


async def check_paths_outside_of_kubelets_directory_are_refused(driver: Driver) -> None:
    await driver.create("outside")
    inside = driver.stack.kubelet_dir
    for path in (Path("/etc"), inside / "../data", driver.stack.data_dir / "x"):
        await expect(driver.stage("outside", path), Code.INVALID_ARGUMENT)
    (inside / "link").symlink_to("/etc")
    call = driver.stage("outside", inside / "link" / "staging")
    await expect(call, Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
    (inside / "link").unlink()
    await driver.delete("outside")


async def check_one_name_is_one_volume(driver: Driver) -> None:
    calls = [code_of(driver.create("twice")) for _ in range(8)]
    codes = [code for code, _ in await asyncio.gather(*calls)]
    require(Code.OK in codes and set(codes) <= {Code.OK, Code.ABORTED}, f"{codes}")
    await expect(driver.create("twice", GIB), Code.ALREADY_EXISTS, word="twice")
    require(len(driver.names("volumes")) == 1, "one object")
    await driver.delete("twice")


async def check_sources_that_are_missing(driver: Driver) -> None:
    call = driver.create("copy", volume_content_source=from_volume("missing"))
    await expect(call, Code.NOT_FOUND)
    request = csi_pb2.CreateSnapshotRequest(name="s", source_volume_id="missing")
    snapshot = driver.controller.CreateSnapshot(request, timeout=CALL_SECONDS)
    await expect(snapshot, Code.NOT_FOUND)
    require(not driver.names("snapshots"), "no object is left")


async def check_a_volume_in_use_is_not_deleted(driver: Driver) -> None:
    staging = driver.stack.kubelet_dir / "staging"
    await driver.create("used")
    await driver.publish("used")
    await driver.stage("used", staging)
    (staging / "row").write_text("a patient")
    await expect(driver.delete("used"), Code.FAILED_PRECONDITION, word=NODE)
    await driver.unpublish("used")
    await expect(driver.delete("used"), Code.FAILED_PRECONDITION, word=NODE)
    require((staging / "row").read_text() == "a patient", "the data is there")
    volume = json.loads(driver.stack.api.kubectl("get", "volume", "used", "-o", "json"))
    require("deletionTimestamp" not in volume["metadata"], "nothing was changed")
    await driver.unstage("used", staging)
    await driver.delete("used")


async def check_nodes_that_do_not_exist(driver: Driver) -> None:
    await driver.create("nowhere")
    await expect(driver.publish("nowhere", "node-z"), Code.NOT_FOUND, word="node-z")
    await expect(driver.publish("nowhere", "../x"), Code.NOT_FOUND, Code.INVALID_ARGUMENT)
    await driver.delete("nowhere")
    call = driver.create("nowhere", accessibility_requirements=on_nodes("node-z"))
    await expect(call, Code.RESOURCE_EXHAUSTED, word="node-z")


async def check_a_full_pool_says_so_and_leaves_nothing(driver: Driver) -> None:
    request = csi_pb2.GetCapacityRequest(parameters={"pool": "fast"})
    room = (await driver.controller.GetCapacity(request, timeout=CALL_SECONDS)).available_capacity
    await driver.create("most", room - 64 * MIB)
    await expect(driver.create("more", GIB), Code.RESOURCE_EXHAUSTED)
    require(driver.names("volumes") == ["volume.twinvault.io/most"], "nothing is left of it")
    await driver.create("little", 32 * MIB)
    await expect(driver.expand("little", GIB), Code.OUT_OF_RANGE)
    await driver.expand("little", 48 * MIB)
    for name in ("most", "little"):
        await driver.delete(name)


async def check_a_controller_killed_in_a_storm_forgets_nothing(driver: Driver) -> None:
    names = [f"storm-{number}" for number in range(STORM)]
    first = asyncio.gather(*(code_of(driver.create(name)) for name in names))
    while not driver.names("volumes"):
        await asyncio.sleep(0.01)
    process.kill("csi-controller", driver.stack.logs)
    driver.stack.start_process("csi-controller")
    await first
    await asyncio.gather(*(_until_ok(partial(driver.create, name)) for name in names))
    require(len(driver.names("volumes")) == STORM, "as many volumes as names")
    await asyncio.gather(*(_until_ok(partial(driver.delete, name)) for name in names))


async def _until_ok(call: Callable[[], Awaitable[Any]]) -> None:
    """As a sidecar does: again while the answer says that it may help."""
    async with asyncio.timeout(CALL_SECONDS):
        while True:
            code, message = await code_of(call())
            if code is Code.OK:
                return
            if code not in (Code.ABORTED, Code.UNAVAILABLE):
                raise Expected(f"{code}: {message}")
            await asyncio.sleep(0.05)


async def check_kubelet_could_register_the_driver(driver: Driver) -> None:
    registry = driver.stack.kubelet_dir / "plugins_registry/csi.twinvault.io-reg.sock"
    async with grpc.aio.insecure_channel(f"unix:{registry}") as channel:
        stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
        info = await stub.GetInfo(registration_pb2.InfoRequest(), timeout=CALL_SECONDS)
    require(info.name == "csi.twinvault.io", info.name)
    require(info.type == "CSIPlugin", info.type)


CHECKS: tuple[Callable[[Driver], Awaitable[None]], ...] = tuple(
    found for name, found in list(globals().items()) if name.startswith("check_")
)


async def run_checks(stack: Stack) -> tuple[int, list[str]]:
    """How many checks held, and the first that did not, with what it found.

    The next ones would only stumble over what a failed one leaves.
    """
    held = 0
    staging = stack.kubelet_dir / "staging"
    staging.mkdir()
    async with Driver.connected(stack) as driver:
        for check in CHECKS:
            name = getattr(check, "__name__", "check").removeprefix("check_").replace("_", " ")
            try:
                await check(driver)
            except (Expected, grpc.aio.AioRpcError, TimeoutError) as error:
                return held, [f"{name}: {error}"]
            held += 1
    staging.rmdir()
    return held, []
