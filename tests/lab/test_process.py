"""Long-running processes: found again, ended whole, and never mistaken."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2e.lab import process
from e2e.lab.command import CommandError, run


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def test_a_process_is_found_by_its_name_until_it_is_stopped(tmp_path: Path) -> None:
    pid = process.start("sleeper", ["sleep", "600"], run_dir=tmp_path)
    assert process.running_pid("sleeper", tmp_path) == pid
    assert process.names(tmp_path) == ["sleeper"]
    process.stop("sleeper", tmp_path)
    assert not process.is_running("sleeper", tmp_path)
    assert process.names(tmp_path) == []


def test_a_second_start_leaves_the_first_process_alone(tmp_path: Path) -> None:
    pid = process.start("sleeper", ["sleep", "600"], run_dir=tmp_path)
    try:
        assert process.start("sleeper", ["sleep", "601"], run_dir=tmp_path) == pid
    finally:
        process.kill("sleeper", tmp_path)


def test_a_pid_given_to_another_process_is_never_signalled(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            stat = Path(f"/proc/{stranger.pid}/stat").read_text().split()
            stat[21] = str(int(stat[21]) - 1)
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()
            process.pid_file("old", tmp_path).write_text(" ".join(stat) + "\n" + boot)
            assert not process.signal("old", tmp_path, signal.SIGKILL)
            process.stop("old", tmp_path)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_pid_from_before_the_last_boot_is_nobody(tmp_path: Path) -> None:
    stat = Path("/proc/self/stat").read_text().strip()
    process.pid_file("old", tmp_path).write_text(f"{stat}\nanother-boot\n")
    assert process.running_pid("old", tmp_path) is None


@pytest.mark.parametrize("text", ["", "12 (x", "1 (sh) S 0\nboot\n", "no\nno\nno\n"])
def test_a_damaged_pid_file_names_no_process(text: str) -> None:
    assert process.parse_pid_file(text) is None


def test_a_program_name_with_brackets_and_blanks_does_not_confuse() -> None:
    fields = " ".join(["S", "1", *(["0"] * 17), "4711", "0"])
    identity = process.parse_pid_file(f"42 (a) b) {fields}\nboot\n")
    assert identity == process.Identity(42, 4711, "boot")


def test_kill_ends_the_children_too(tmp_path: Path) -> None:
    script = "sleep 600 & echo $! > child; wait"
    process.start("parent", ["sh", "-c", script], run_dir=tmp_path, cwd=tmp_path)
    eventually(lambda: (tmp_path / "child").exists(), "the child started")
    eventually(lambda: (tmp_path / "child").read_text() != "", "the child's pid is written")
    child = int((tmp_path / "child").read_text())
    process.kill("parent", tmp_path)
    eventually(lambda: not _is_alive(child), "the child is gone with its parent")


def _is_alive(pid: int) -> bool:
    """A killed orphan is a zombie until init reaps it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def test_one_that_ignores_term_is_killed_at_the_deadline(tmp_path: Path) -> None:
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); open('up','w'); time.sleep(600)"
    process.start("deaf", [sys.executable, "-c", code], run_dir=tmp_path, cwd=tmp_path)
    eventually(lambda: (tmp_path / "up").exists(), "it ignores TERM")
    process.stop("deaf", tmp_path, timeout_seconds=0.2)
    assert not process.is_running("deaf", tmp_path)


def test_a_frozen_process_can_be_stopped(tmp_path: Path) -> None:
    process.start("frozen", ["sleep", "600"], run_dir=tmp_path)
    process.signal("frozen", tmp_path, signal.SIGSTOP)
    process.stop("frozen", tmp_path)
    assert not process.is_running("frozen", tmp_path)


def test_with_restart_one_that_ends_is_started_again(tmp_path: Path) -> None:
    argv = ["sh", "-c", "echo x >> runs; [ $(wc -l < runs) -gt 1 ] && exec sleep 600; exit 7"]
    process.start("phoenix", argv, run_dir=tmp_path, cwd=tmp_path, restart=True)
    try:
        runs = tmp_path / "runs"
        eventually(
            lambda: runs.exists() and len(runs.read_text().splitlines()) == 2, "it ran twice"
        )
        assert process.count_ends("phoenix", tmp_path) == 1
        assert "ended with code 7" in process.log_file("phoenix", tmp_path).read_text()
    finally:
        process.stop("phoenix", tmp_path)
    assert len((tmp_path / "runs").read_text().splitlines()) == 2


def test_a_program_that_is_missing_is_told_in_its_log(tmp_path: Path) -> None:
    process.start("missing", ["/no/such/program"], run_dir=tmp_path)
    eventually(lambda: not process.is_running("missing", tmp_path), "it ended")
    assert "/no/such/program" in process.log_file("missing", tmp_path).read_text()


def test_a_failed_command_tells_what_it_printed() -> None:
    with pytest.raises(CommandError, match=r"exit code 3\n    no space left"):
        run(["sh", "-c", "echo no space left >&2; exit 3"], timeout_seconds=10)


def test_a_command_that_hangs_is_ended_and_told() -> None:
    with pytest.raises(CommandError, match="not finished"):
        run(["sleep", "600"], timeout_seconds=0.1)


def test_a_logged_command_that_fails_tells_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CommandError, match="broken pipe"):
        run(["sh", "-c", "echo broken pipe; exit 1"], timeout_seconds=10, log=log)
    assert log.read_text() == "broken pipe\n"


def test_a_missing_command_is_an_error_of_the_same_kind() -> None:
    with pytest.raises(CommandError, match="cannot be started"):
        run(["/no/such/program"], timeout_seconds=1)


def test_a_tied_process_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from e2e.lab import process;"
        "process.start('tied', ['sleep', '600'], run_dir=Path(sys.argv[1]), tied=True);"
        "print('started', flush=True); time.sleep(600)"
    )
    root = Path(process.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        assert process.is_running("tied", tmp_path)
        starter.kill()
    eventually(lambda: not process.is_running("tied", tmp_path), "it ended with its starter")


def test_a_tied_process_can_be_stopped_before(tmp_path: Path) -> None:
    process.start("tied", ["sleep", "600"], run_dir=tmp_path, tied=True)
    assert process.is_running("tied", tmp_path)
    process.stop("tied", tmp_path)
    assert not process.is_running("tied", tmp_path)
