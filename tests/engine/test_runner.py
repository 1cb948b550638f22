from __future__ import annotations

import time
from pathlib import Path

import pytest

from twinvault_core.errors import ErrorCode
from twinvault_engine.runner import CommandError, Failure, classify_failure, run


def test_output_and_accepted_status_are_returned() -> None:
    said = run(
        ["sh", "-c", "read -r x; echo $x; exit 3"],
        timeout_seconds=20,
        accept=frozenset({3}),
        stdin="in\n",
    )
    assert (said.stdout, said.returncode) == ("in\n", 3)


def test_missing_program_is_told_by_name() -> None:
    with pytest.raises(CommandError, match="no-such-tool is not installed") as caught:
        run(["no-such-tool"], timeout_seconds=20)
    assert caught.value.failure is Failure.MISSING
    assert caught.value.code is ErrorCode.FAILED_PRECONDITION


def test_deadline_kills_the_whole_process_group(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", script], timeout_seconds=0.5)
    assert caught.value.failure is Failure.TIMEOUT
    child = int((tmp_path / "child").read_text())
    # Its pipes close a moment before it is gone.
    deadline = time.monotonic() + 10
    while _is_alive(child):
        assert time.monotonic() < deadline, "the child outlived its group"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    """A killed orphan is a zombie until init reaps it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def test_programs_run_in_the_c_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert run(["sh", "-c", "echo $LC_ALL-$LANG"], timeout_seconds=20).stdout == "C-\n"


def test_arguments_are_never_read_by_a_shell() -> None:
    assert run(["echo", "$(id); *"], timeout_seconds=20).stdout == "$(id); *\n"


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("mkfs.xfs: cannot open /dev/x: Device or resource busy", Failure.BUSY),
        ("/dev/x contains a mounted filesystem: /dev/x is mounted", Failure.BUSY),
        ("pwrite: No space left on device", Failure.NO_SPACE),
        ("open: No such file or directory", Failure.NO_DEVICE),
        ("Segmentation fault", Failure.OTHER),
    ],
)
def test_failures_are_classified(text: str, failure: Failure) -> None:
    assert classify_failure(text) is failure


def test_what_the_program_said_is_in_the_message() -> None:
    with pytest.raises(CommandError, match="the reason") as caught:
        run(["sh", "-c", "echo the reason >&2; exit 7"], timeout_seconds=20)
    assert caught.value.returncode == 7
