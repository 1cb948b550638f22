"""Events tell once what happens often, and never fail what they tell about."""

from __future__ import annotations

from tests.kube.fake_api import FakeApi
from twinvault_kube.client import KubeClient
from twinvault_kube.events import EventRecorder, EventSource
from twinvault_kube.kinds import EVENTS

PATH = EVENTS.path("default")
VOLUME = {
    "apiVersion": "twinvault.io/v1alpha1",
    "kind": "Volume",
    "metadata": {"name": "v", "uid": "u"},
}


async def test_a_repeat_is_counted(api: FakeApi, client: KubeClient) -> None:
    recorder = EventRecorder(client, EventSource("agent", "east-1"))
    for _ in range(3):
        await recorder.record(VOLUME, "Created", "made")
    await recorder.record(VOLUME, "Failed", "no space", warning=True)
    found = [obj for (where, _), obj in api.objects.items() if where == PATH]
    assert sorted((e["reason"], e["count"], e["type"]) for e in found) == [
        ("Created", 3, "Normal"),
        ("Failed", 1, "Warning"),
    ]
    assert found[0]["involvedObject"]["kind"] == "Volume"


async def test_an_event_lives_beside_what_it_is_about(api: FakeApi, client: KubeClient) -> None:
    """The API server refuses one in another namespace."""
    meta = {"name": "db-0", "namespace": "his", "uid": "u"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta}
    recorder = EventRecorder(client, EventSource("operator", "a"))
    for _ in range(2):
        await recorder.record(pod, "Failover", "moved", warning=True)
    ((where, event),) = [(where, obj) for (where, _), obj in api.objects.items()]
    assert where == EVENTS.path("his")
    assert event["metadata"]["namespace"] == event["involvedObject"]["namespace"] == "his"
    assert event["count"] == 2


async def test_an_unreachable_server_is_not_worth_failing_for(
    api: FakeApi, client: KubeClient
) -> None:
    api.down = True
    await EventRecorder(client, EventSource("agent", "east-1")).record(VOLUME, "Created", "made")
