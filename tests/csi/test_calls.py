from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor

from tests.csi.conftest import Driver
from tests.csi.requests import capability, code_of, create_request
from twinvault_core.errors import BusyError
from twinvault_csi.calls import describe_request
from twinvault_csi.controller import Controller
from twinvault_csi.locks import InFlight
from twinvault_csi.pb import csi_pb2, csi_pb2_grpc
from twinvault_csi.server import serve
from twinvault_kube.logs import JsonFormatter

Code = grpc.StatusCode
SECRET = "correct horse battery staple"


def secret_requests() -> list[Any]:
    """One message of every CSI request type that has secrets, with a secret in it."""
    found = []
    for name, descriptor in csi_pb2.DESCRIPTOR.message_types_by_name.items():
        if name.endswith("Request") and "secrets" in descriptor.fields_by_name:
            message: Any = message_factory.GetMessageClass(descriptor)()
            message.secrets["password"] = SECRET
            found.append(message)
    return found


@pytest.mark.parametrize("message", secret_requests(), ids=lambda m: m.DESCRIPTOR.name)
def test_no_request_is_described_with_its_secrets(message: Any) -> None:
    assert SECRET not in repr(describe_request(message))
    assert describe_request(message)["secrets"] == "(stripped)"


def test_every_field_that_the_proto_calls_secret_is_one_that_we_strip() -> None:
    def walk(descriptor: Descriptor) -> list[str]:
        named = [f for f in descriptor.fields if "secret" in f.name]
        extension: Any = csi_pb2.csi_secret
        return [f.full_name for f in named if not f.GetOptions().Extensions[extension]]

    types = csi_pb2.DESCRIPTOR.message_types_by_name.values()
    assert [name for one in types for name in walk(one)] == []


def test_the_rest_of_a_request_is_described() -> None:
    request = create_request("pvc-1", volume_capabilities=[capability(mount_flags=("ro",))])
    described = describe_request(request)
    assert described["name"] == "pvc-1"
    assert described["parameters"] == {"pool": "fast"}
    assert described["volume_capabilities"][0]["mount"]["mount_flags"] == ["ro"]


async def test_secrets_reach_no_log_at_any_level(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = {"password": SECRET}
    with caplog.at_level(logging.DEBUG):
        await driver.controller.CreateVolume(create_request("pvc-1", secrets=secrets), timeout=20)
        bad = create_request("pvc-2", parameters={"nope": "1"}, secrets=secrets)
        await code_of(driver.controller.CreateVolume(bad, timeout=20))
        stage = csi_pb2.NodeStageVolumeRequest(
            volume_id="pvc-1",
            staging_target_path="/staging",
            volume_capability=capability(),
            secrets=secrets,
        )
        await driver.node.NodeStageVolume(stage, timeout=20)
    lines = [JsonFormatter().format(record) for record in caplog.records]
    ours = [line for line in lines if "twinvault_csi.calls" in line]
    assert any('"method": "CreateVolume"' in line and '"code": "OK"' in line for line in ours)
    assert any('"code": "INVALID_ARGUMENT"' in line for line in ours)
    assert any('"volume_id": "pvc-1"' in line for line in ours)
    assert not any(SECRET in line for line in lines)
    assert SECRET not in repr(driver.agent.requests)
    assert SECRET not in repr(driver.api.objects)


async def test_a_call_that_is_not_advertised_is_unimplemented(driver: Driver) -> None:
    modify = csi_pb2.ControllerModifyVolumeRequest(volume_id="pvc-1")
    code, _ = await code_of(driver.controller.ControllerModifyVolume(modify, timeout=20))
    assert code is Code.UNIMPLEMENTED
    health = csi_pb2.NodeGetVolumeHealthRequest(volume_id="pvc-1")
    assert (await code_of(driver.node.NodeGetVolumeHealth(health, timeout=20)))[0] is (
        Code.UNIMPLEMENTED
    )


async def test_what_nobody_foresaw_is_internal_and_says_where_to_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Any = None
    seen: list[tuple[str, str]] = []

    def add_services(server: grpc.aio.Server) -> None:
        csi_pb2_grpc.add_ControllerServicer_to_server(Controller(broken), server)

    def observe(method: str, code: str, seconds: float) -> None:
        seen.append((method, code))

    server = await serve(tmp_path / "csi.sock", add_services, observe)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'csi.sock'}") as channel:
        stub = csi_pb2_grpc.ControllerStub(channel)
        code, message = await code_of(stub.ListVolumes(csi_pb2.ListVolumesRequest(), timeout=20))
    await server.stop(None)
    assert code is Code.INTERNAL
    assert "AttributeError" in message
    assert seen == [("ListVolumes", "INTERNAL")]


def test_a_key_is_held_by_one_operation_and_freed_by_a_failure() -> None:
    keys = InFlight()
    with keys.hold("a", "CreateVolume"):
        with pytest.raises(BusyError, match="CreateVolume of a"), keys.hold("a", "DeleteVolume"):
            pass
        with keys.hold("b", "DeleteVolume"):
            pass
    with pytest.raises(ValueError), keys.hold("a", "x"):
        raise ValueError
    with keys.hold("a", "x"):
        pass
