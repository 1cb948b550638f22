"""What `down` may remove, what waits tell, and what the command line understands."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from e2e.lab import progress, state, status
from e2e.lab.cli import build_parser, parse_arguments
from e2e.lab.config import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", state=tmp_path / "state")


def test_a_directory_that_holds_something_else_is_never_claimed(settings: Settings) -> None:
    settings.state.mkdir()
    (settings.state / "thesis.txt").touch()
    with pytest.raises(state.StateError, match="holds something else"):
        state.claim_state(settings)
    state.remove_state(settings)
    assert (settings.state / "thesis.txt").exists()


def test_a_claimed_directory_is_removed_and_a_missing_one_is_no_error(
    settings: Settings,
) -> None:
    state.claim_state(settings)
    state.claim_state(settings)
    state.remove_state(settings)
    assert not settings.state.exists()
    state.remove_state(settings)


def test_nothing_is_removed_while_something_is_mounted_below(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.claim_state(settings)
    monkeypatch.setattr(state, "observe_mounts", lambda _: [settings.state / "mnt"])
    with pytest.raises(state.StateError, match="still mounted"):
        state.remove_state(settings)
    assert settings.state.exists()


def test_mounts_are_found_at_and_below_a_directory_only() -> None:
    assert Path("/proc") in state.observe_mounts(Path("/proc"))
    assert state.observe_mounts(Path("/pro")) == []


def test_two_cannot_change_the_lab_at_once(settings: Settings) -> None:
    with (
        state.exclusive(settings),
        pytest.raises(state.StateError, match="another"),
        state.exclusive(settings),
    ):
        pass


def test_a_wait_that_ends_tells_what_it_waited_for_and_why() -> None:
    with pytest.raises(progress.WaitError, match=r"gave up waiting for the moon(.|\n)*new moon"):
        progress.wait_until(
            "the moon",
            lambda: False,
            timeout_seconds=0,
            interval_seconds=0,
            explain=lambda: "new moon",
        )


def test_things_done_together_all_end_before_the_error_is_raised() -> None:
    ended = threading.Event()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("first")

    def succeed() -> None:
        failed.wait(10)
        ended.set()

    with pytest.raises(ValueError, match="first"):
        progress.together([fail, succeed])
    assert ended.is_set()


def test_a_table_lines_its_columns_up() -> None:
    assert status.format_table([["A", "B"], ["long", "x"]]) == "A     B\nlong  x"


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "down",
        "status",
        "kubectl get pods -A",
        "exec east-1 -- uname -a",
        "node freeze west-1",
        "site kill east",
        "link cut east west --one-way",
        "netem east witness --delay-ms 5 --loss-percent 1 --rate-mbit 100",
        "logs east/etcd -f",
        "apiserver --dir somewhere",
    ],
)
def test_the_command_line_takes(line: str) -> None:
    assert callable(build_parser().parse_args(line.split()).action)


@pytest.mark.parametrize("line", ["", "link cut east north", "site freeze east", "node kill"])
def test_the_command_line_refuses(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(line.split())
    assert "usage" in capsys.readouterr().err


def test_what_follows_kubectl_is_its_own() -> None:
    options = parse_arguments(["kubectl", "-n", "his", "get", "pods", "--watch"])
    assert options.arguments == ["-n", "his", "get", "pods", "--watch"]
