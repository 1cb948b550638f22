"""Real HTTP against a server on loopback: credentials, deadlines and lost connections."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from twinvault_core.errors import InvalidError, UnavailableError
from twinvault_kube.client import KubeClient
from twinvault_kube.config import Config, observe_config
from twinvault_kube.errors import ExpiredError, ForbiddenError
from twinvault_kube.kinds import VOLUMES
from twinvault_kube.transport import HttpTransport


class Server:
    """Answers each request by ``answer``; ``seen`` is what came with it."""

    def __init__(self) -> None:
        self.seen: list[web.BaseRequest] = []
        self.good_token = "first"
        self.pieces: list[bytes] = []
        self.cut = False

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        if request.headers.get("Authorization") != f"Bearer {self.good_token}":
            return web.json_response({"message": "who are you"}, status=401)
        if request.path.endswith("/moved"):
            return web.Response(status=301, headers={"Location": "/elsewhere"})
        if request.path.endswith("/silent"):
            await asyncio.sleep(30)
        if request.path.endswith("/garbage"):
            return web.Response(text="<html>")
        if "watch" not in request.query:
            return web.json_response({"path": request.raw_path})
        return await self._stream(request)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        for piece in self.pieces:
            await answer.write(piece)
            await asyncio.sleep(0.01)
        if self.cut and request.transport is not None:
            request.transport.abort()
        return answer


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    made = Server()
    runner = web.ServerRunner(web.Server(made.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def http(server: tuple[Server, str], tmp_path: Path) -> AsyncIterator[KubeClient]:
    token = tmp_path / "token"
    token.write_text("first\n")
    config = Config(server[1], ssl.create_default_context(), token_file=token)
    client = KubeClient(HttpTransport(config, user_agent="test", timeout_seconds=0.5))
    yield client
    await client.close()


async def events(client: KubeClient) -> list[tuple[str, str]]:
    return [
        (event, obj["metadata"]["name"])
        async for event, obj in client.watch(VOLUMES, "1", labels="a=b")
    ]


def line(name: str) -> bytes:
    return json.dumps({"type": "ADDED", "object": {"metadata": {"name": name}}}).encode() + b"\n"


async def test_a_rotated_token_is_read_again(
    server: tuple[Server, str], http: KubeClient, tmp_path: Path
) -> None:
    await http.get(VOLUMES, "v")
    server[0].good_token = "second"
    (tmp_path / "token").write_text("second\n")
    await http.get(VOLUMES, "v")
    assert [r.headers["Authorization"] for r in server[0].seen] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
    ]


async def test_a_watch_after_a_rotation_finds_the_new_token(
    server: tuple[Server, str], http: KubeClient, tmp_path: Path
) -> None:
    server[0].good_token = "second"
    (tmp_path / "token").write_text("second")
    with pytest.raises(ForbiddenError):
        await events(http)
    assert await events(http) == []


async def test_a_refused_token_that_did_not_change_is_not_tried_twice(
    server: tuple[Server, str], http: KubeClient
) -> None:
    server[0].good_token = "another"
    with pytest.raises(ForbiddenError, match="who are you"):
        await http.get(VOLUMES, "v")
    assert len(server[0].seen) == 1


async def test_a_silent_server_is_given_up_at_the_deadline(http: KubeClient) -> None:
    with pytest.raises(UnavailableError, match="TimeoutError"):
        await http.get(VOLUMES, "silent")


@pytest.mark.parametrize("name", ["moved", "garbage"])
async def test_an_answer_that_no_api_server_gives_is_an_error(http: KubeClient, name: str) -> None:
    with pytest.raises(Exception, match="API server"):
        await http.get(VOLUMES, name)


async def test_a_name_with_tricks_stays_in_its_place(http: KubeClient) -> None:
    answer = await http.get(VOLUMES, "../x?y#z")
    assert answer["path"].endswith("/volumes/..%2Fx%3Fy%23z")


async def test_events_are_whole_however_they_are_cut(
    server: tuple[Server, str], http: KubeClient
) -> None:
    text = line("a") + line("b") + b"\n" + line("c")
    server[0].pieces = [text[:5], text[5:70], text[70:]]
    assert await events(http) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
    assert server[0].seen[0].query["labelSelector"] == "a=b"
    assert "fieldSelector" not in server[0].seen[0].query


async def test_a_watch_that_breaks_off_is_told_from_one_that_ends(
    server: tuple[Server, str], http: KubeClient
) -> None:
    server[0].pieces, server[0].cut = [line("a"), line("b")[:9]], True
    with pytest.raises(UnavailableError, match="watch"):
        await events(http)


async def test_a_version_that_is_gone_is_told_in_the_stream(
    server: tuple[Server, str], http: KubeClient
) -> None:
    server[0].pieces = [b'{"type":"ERROR","object":{"code":410,"reason":"Expired"}}\n']
    with pytest.raises(ExpiredError):
        await events(http)


async def test_nobody_listening_can_be_tried_again(tmp_path: Path) -> None:
    config = Config("http://127.0.0.1:1", ssl.create_default_context(), token="t")
    client = KubeClient(HttpTransport(config, user_agent="test", timeout_seconds=0.5))
    with pytest.raises(UnavailableError, match="no answer from the API server to GET"):
        await client.get(VOLUMES, "v")
    with pytest.raises(UnavailableError, match="no answer from the API server to watch"):
        await events(client)
    await client.close()


def kubeconfig(path: Path, user: str) -> dict[str, str]:
    file = path / "config"
    file.write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
        "clusters: [{name: k, cluster: {server: 'https://api.test/'}}]\n"
        f"users: [{{name: u, user: {{{user}}}}}]\n"
    )
    return {"KUBECONFIG": str(file)}


def test_a_kubeconfig_names_its_server_and_user(tmp_path: Path) -> None:
    config = observe_config(kubeconfig(tmp_path, "token: abc"), tmp_path / "none")
    assert (config.server, config.token, config.token_file) == ("https://api.test", "abc", None)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("", "has none of"),
        ("exec: {command: cloud}", "has none of"),
        ("client-certificate: /no/such, client-key: /no/such", "No such file"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, user: str, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        observe_config(kubeconfig(tmp_path, user), tmp_path / "none")


def test_without_any_configuration_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="set KUBECONFIG"):
        observe_config({"KUBECONFIG": str(tmp_path / "missing")}, tmp_path / "none")


def test_a_pod_uses_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: cafile)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = observe_config(environment, tmp_path)
    assert config.server == "https://[fd00::1]:443"
    assert config.token_file == tmp_path / "token"
