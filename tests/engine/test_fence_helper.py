"""The real helper program, compiled here, against the real server in this process."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from twinvault_core.errors import FailedPreconditionError
from twinvault_engine.agent.fence_server import FenceServer, Question, parse_question
from twinvault_engine.drbd_kernel import FenceHelper

SOURCE = Path(__file__).parents[2] / "images/fence-peer/fence-peer.c"
ENVIRONMENT = {"DRBD_PEER_AF": "ipv4", "DRBD_PEER_ADDRESS": "10.76.1.22"}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc: the helper is compiled")
    program = tmp_path_factory.mktemp("helper") / "fence-peer"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    subprocess.run(["gcc", *flags, "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Parameters as the module shows them: a program of somebody else is configured."""
    previous = tmp_path / "previous.sh"
    previous.write_text('#!/bin/sh\necho "$0 $*" > "$(dirname "$0")/handed-on"\nexit 42\n')
    previous.chmod(0o755)
    parameters = tmp_path / "parameters"
    parameters.mkdir()
    (parameters / "usermode_helper").write_text(f"{previous}\n")
    return parameters


class Parameter(FenceHelper):
    """The kernel adds a newline to what is read, which a plain file does not."""

    def _set(self, program: str) -> None:
        self._parameter.write_text(f"{program}\n")


@pytest.fixture
def short_directory(tmp_path: Path) -> Iterator[Path]:
    """A path short enough for a socket and for the module's buffer, however long tmp_path is."""
    link = Path(f"/tmp/fence-test-{os.getpid()}")
    link.mkdir()
    yield link
    shutil.rmtree(link)


@pytest.fixture
def helper(compiled: Path, module: Path, short_directory: Path) -> FenceHelper:
    made = Parameter(short_directory / "fence", parameters=module)
    made.ensure_installed(compiled)
    made.mark("tv-pg", 1000)
    return made


async def run_helper(helper: FenceHelper, *arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(str(helper.path), *arguments, env=ENVIRONMENT)
    async with asyncio.timeout(10):
        return await process.wait()


@asynccontextmanager
async def answering(helper: FenceHelper, code: int) -> AsyncIterator[list[Question]]:
    asked: list[Question] = []

    async def decide(question: Question) -> int:
        asked.append(question)
        return code

    server = FenceServer(helper.socket, decide)
    await server.start()
    try:
        yield asked
    finally:
        await server.stop()


@pytest.mark.parametrize(("code", "expected"), [(4, 4), (6, 6), (7, 7), (5, 1), (0, 1), (3, 1)])
async def test_only_answers_that_are_safe_reach_the_kernel(
    helper: FenceHelper, code: int, expected: int
) -> None:
    async with answering(helper, code) as asked:
        assert await run_helper(helper, "fence-peer", "tv-pg") == expected
    assert asked == [Question("fence-peer", "tv-pg", "10.76.1.22")]


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (7, 1)])
async def test_resync_begins_only_when_it_is_allowed(
    helper: FenceHelper, code: int, expected: int
) -> None:
    async with answering(helper, code) as asked:
        assert await run_helper(helper, "before-resync-target", "minor-1000") == expected
    assert asked[0].minor == 1000


async def test_without_an_agent_everything_stays_frozen(helper: FenceHelper) -> None:
    assert await run_helper(helper, "fence-peer", "tv-pg") == 1
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(helper.socket))
    assert await run_helper(helper, "fence-peer", "tv-pg") == 1


async def test_agent_that_hangs_leaves_everything_frozen(helper: FenceHelper) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(helper.socket))
        silent.listen(1)
        assert await run_helper(helper, "fence-peer", "tv-pg") == 1


async def test_decision_that_takes_too_long_or_fails_is_unsure(helper: FenceHelper) -> None:
    async def never(question: Question) -> int:
        if question.handler == "fence-peer":
            await asyncio.sleep(60)
        raise RuntimeError("broken")

    server = FenceServer(helper.socket, never, answer_seconds=0.2)
    await server.start()
    try:
        assert await run_helper(helper, "fence-peer", "tv-pg") == 1
        assert await run_helper(helper, "before-resync-target", "minor-1000") == 1
    finally:
        await server.stop()


@pytest.mark.parametrize("answer", [b"7", b"77\n", b"x\n", b"\n", b"7 \n", b"-7\n"])
async def test_answer_that_is_not_one_digit_and_a_newline_is_unsure(
    helper: FenceHelper, answer: bytes
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(helper.socket))
    assert await run_helper(helper, "fence-peer", "tv-pg") == 1
    server.close()


@pytest.mark.parametrize("what", ["theirs", "minor-1", "../ours", "tv-pg/..", "x" * 200])
async def test_resources_of_others_are_handed_on_to_the_former_program(
    helper: FenceHelper, tmp_path: Path, what: str
) -> None:
    async with answering(helper, 7) as asked:
        assert await run_helper(helper, "fence-peer", what) == 42
    assert asked == []
    assert (tmp_path / "handed-on").read_text().split()[1:] == ["fence-peer", what]


async def test_damaged_directory_is_unsure_and_not_somebody_elses(
    helper: FenceHelper, tmp_path: Path
) -> None:
    ours = helper.path.parent / "ours"
    ours.rename(tmp_path / "away")
    assert await run_helper(helper, "fence-peer", "tv-pg") == 1
    assert not (tmp_path / "handed-on").exists()


async def test_helper_never_calls_itself(helper: FenceHelper) -> None:
    (helper.path.parent / "previous").write_text(f"{helper.path}\n")
    assert await run_helper(helper, "fence-peer", "theirs") == 1


def test_former_program_comes_back_when_nothing_is_ours(
    helper: FenceHelper, compiled: Path, module: Path, tmp_path: Path
) -> None:
    assert helper.observe_configured() == str(helper.path)
    helper.ensure_installed(compiled)
    assert not helper.restore(), "a volume of ours is still there"
    helper.unmark("tv-pg", 1000)
    assert helper.restore()
    assert helper.observe_configured() == str(tmp_path / "previous.sh")
    assert not helper.restore()


def test_program_that_somebody_set_after_us_is_handed_on_to_from_then_on(
    helper: FenceHelper, compiled: Path, module: Path
) -> None:
    (module / "usermode_helper").write_text("/usr/sbin/other\n")
    helper.ensure_installed(compiled)
    assert helper.observe_configured() == str(helper.path)
    assert (helper.path.parent / "previous").read_text() == "/usr/sbin/other\n"


def test_path_that_the_module_could_not_keep_is_refused(
    compiled: Path, module: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 80)
    with pytest.raises(FailedPreconditionError):
        FenceHelper(long, parameters=module).ensure_installed(compiled)


@pytest.mark.parametrize("line", [b"", b"fence-peer tv-pg ipv4 1", b"a b c\n", b"a b c d e\n"])
def test_what_is_no_question_is_none(line: bytes) -> None:
    assert parse_question(line) is None
