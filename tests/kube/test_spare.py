"""A hanging API server costs a call a moment, and a write is never made twice unguarded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

import pytest

from twinvault_core.errors import UnavailableError
from twinvault_kube import spare
from twinvault_kube.spare import SpareTransport, parse_servers
from twinvault_kube.transport import Answer

WEST, WITNESS = "https://10.0.2.1:6444", "https://10.0.3.1:6444"
SLICES = json.dumps(
    {
        "items": [
            {
                "addressType": "IPv4",
                "ports": [{"name": "https", "port": 6444}],
                "endpoints": [{"addresses": ["10.0.2.1"]}, {"addresses": ["10.0.3.1"]}],
            }
        ]
    }
).encode()


class Server:
    """``status`` 0: hangs; -1: refuses the connection."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.heard: list[str] = []
        self.given_up = 0
        self.closed = False

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        repeatable: bool = False,
    ) -> Answer:
        if "endpointslices" in target:
            return Answer(200, "OK", SLICES)
        self.heard.append(method)
        if self.status == 0:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.given_up += 1
                raise
        if self.status < 0:
            raise UnavailableError("no answer from the API server: refused")
        return Answer(self.status, "", b"{}")

    async def stream(self, target: str, idle_seconds: float) -> AsyncGenerator[bytes]:
        yield b""

    async def close(self) -> None:
        self.closed = True


class Site:
    def __init__(self) -> None:
        self.first = Server()
        self.spares = {WEST: Server(), WITNESS: Server()}
        self.now = 0.0
        self.transport = SpareTransport(self.first, self._dial, lambda: self.now)

    def _dial(self, server: str) -> Server:
        return self.spares[server]

    async def ask(self, method: str = "GET", *, repeatable: bool = True) -> int:
        answer = await self.transport.request(method, "/x", {}, None, repeatable=repeatable)
        return answer.status


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(spare, "PATIENCE_SECONDS", 0.01)
    made = Site()
    assert await made.ask() == 200
    await asyncio.sleep(0.01)  # the addresses are read beside the first call
    made.first.heard.clear()
    yield made
    await made.transport.close()
    assert made.first.closed


async def test_the_usual_server_alone_is_asked_while_it_answers(site: Site) -> None:
    assert await site.ask("PUT") == 200
    assert not site.spares[WEST].heard
    assert not site.spares[WITNESS].heard


@pytest.mark.parametrize("trouble", [0, -1, 500, 503, 504])
async def test_another_server_answers_in_place_of_one_that_does_not(
    site: Site, trouble: int
) -> None:
    site.first.status = trouble
    assert await site.ask("PUT") == 200
    assert site.spares[WEST].heard == ["PUT"]
    assert site.first.given_up == (1 if trouble == 0 else 0)


async def test_the_third_server_answers_when_two_hang(site: Site) -> None:
    site.first.status = site.spares[WEST].status = 0
    assert await site.ask() == 200
    assert site.spares[WITNESS].heard == ["GET"]


@pytest.mark.parametrize("refusal", [404, 409, 429])
async def test_a_refusal_is_an_answer(site: Site, refusal: int) -> None:
    site.first.status = refusal
    assert await site.ask("PUT") == refusal
    assert not site.spares[WEST].heard


async def test_a_call_that_may_not_be_repeated_is_made_once(site: Site) -> None:
    site.first.status = 503
    assert await site.ask("POST", repeatable=False) == 503
    assert not site.spares[WEST].heard


async def test_without_any_answer_the_last_trouble_is_told(site: Site) -> None:
    for server in (site.first, *site.spares.values()):
        server.status = -1
    with pytest.raises(UnavailableError, match="refused"):
        await site.ask()
    site.first.status = 503
    assert await site.ask() == 503


async def test_who_had_to_answer_is_asked_first_for_a_while(site: Site) -> None:
    site.first.status = 0
    await site.ask()
    site.first.heard.clear()
    await site.ask()
    assert not site.first.heard
    site.now += spare.PREFER_SECONDS
    site.first.status = 200
    await site.ask()
    assert site.first.heard == ["GET"]


async def test_a_call_that_is_given_up_leaves_nothing_running(site: Site) -> None:
    for server in (site.first, *site.spares.values()):
        server.status = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await site.ask()
    assert [s.given_up for s in (site.first, *site.spares.values())] == [1, 1, 1]


async def test_a_server_that_is_gone_from_the_cluster_is_left(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = json.loads(SLICES)
    left["items"][0]["endpoints"].pop()
    monkeypatch.setitem(globals(), "SLICES", json.dumps(left).encode())
    site.now += spare.LEARN_SECONDS
    await site.ask()
    await asyncio.sleep(0.01)
    assert site.spares[WITNESS].closed
    assert not site.spares[WEST].closed


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text, {WEST, WITNESS}),
        (
            lambda text: text.replace("IPv4", "IPv6").replace("10.0.", "fd00::"),
            {"https://[fd00::2.1]:6444", "https://[fd00::3.1]:6444"},
        ),
        (lambda _: "{}", set()),
        (lambda _: "garbage", set()),
        (lambda _: '{"items":[{"ports":null,"endpoints":null}]}', set()),
    ],
)
def test_addresses_are_read_from_whatever_the_cluster_tells(
    change: Callable[[str], str], expected: set[str]
) -> None:
    assert parse_servers(change(SLICES.decode()).encode()) == expected
