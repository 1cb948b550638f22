"""The one place that starts, finds and ends long-running processes of the lab.

A process is known by its name inside a run directory: ``NAME.pid`` and
``NAME.log``. The pid file is the process's own line of ``/proc/PID/stat`` and the
machine's boot id, written by the process itself before it becomes the program
asked for. So there is no moment at which it runs unrecorded, and a pid that the
kernel has given to somebody else is never signalled: the start time differs.
"""

from __future__ import annotations

import os
import select
import signal as signals
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from e2e.lab.command import in_namespace, tail

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LOG_LIMIT_BYTES = 64 * 1024 * 1024

# $1 is the pid file, $2 the new name of it; the rest is the program. The shell's
# own pid and start time stay with the program, for exec changes neither.
_LAUNCHER = """
read -r stat < /proc/$$/stat && read -r boot < /proc/sys/kernel/random/boot_id || exit 125
printf '%s\\n%s\\n' "$stat" "$boot" > "$2" && mv "$2" "$1" || exit 125
shift 2
exec "$@"
"""

# $1 is the file that gets a line for every end. A foreground child delays the trap,
# so on TERM (sent to the whole group) the program ends first and then this shell.
_SUPERVISOR = """
trap ended=1 TERM
ends=$1
shift
while :; do
    "$@"
    code=$?
    [ -z "$ended" ] || exit 0
    echo "$code" >> "$ends"
    echo "--- ended with code $code, starting again in a second"
    sleep 1
    [ -z "$ended" ] || exit 0
done
"""


# The program ends with the process at the other end of standard input.
_LIFELINE = """
exec 3<&0
"$@" < /dev/null 3<&- &
program=$!
(read -r _ <&3; kill -KILL 0) &
reader=$!
exec 3<&-
wait "$program"
code=$?
kill "$reader"
exit "$code"
"""


class ProcessError(Exception):
    """A process did not start, or did not end."""


@dataclass(frozen=True)
class Identity:
    """What tells a process from every other one on this machine, now and before."""

    pid: int
    start_ticks: int
    boot_id: str


def parse_pid_file(text: str) -> Identity | None:
    """Read what the launcher wrote; None when it is not whole."""
    lines = text.splitlines()
    if len(lines) != 2:
        return None
    parsed = _parse_stat(lines[0])
    return None if parsed is None else Identity(parsed[0], parsed[2], lines[1])


def pid_file(name: str, run_dir: Path) -> Path:
    return run_dir / f"{name}.pid"


def log_file(name: str, run_dir: Path) -> Path:
    return run_dir / f"{name}.log"


def start(
    name: str,
    argv: Sequence[str],
    *,
    run_dir: Path,
    env: Mapping[str, str] | None = None,
    namespace: str | None = None,
    cwd: Path | None = None,
    restart: bool = False,
    tied: bool = False,
    timeout_seconds: float = 10,
) -> int:
    """Start ``argv`` as ``name`` in a session of its own and return its pid.

    Does nothing when it runs already. ``env`` is added to ours, ``namespace`` is a
    network namespace. With ``restart`` it is started again whenever it ends by itself
    (count_ends tells how often), and the pid is that of the shell that does so. When
    ``tied`` it is killed as soon as this Python process ends, however that happens.
    Returns once the pid is recorded, not when it is ready.
    """
    existing = running_pid(name, run_dir)
    if existing is not None:
        return existing
    run_dir.mkdir(parents=True, exist_ok=True)
    recorded = pid_file(name, run_dir)
    recorded.unlink(missing_ok=True)
    log = log_file(name, run_dir)
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.old"))
    _ends_file(name, run_dir).unlink(missing_ok=True)
    launcher = ["sh", "-c", _LAUNCHER, "sh", str(recorded), f"{recorded}.new"]
    if restart:
        launcher += ["sh", "-c", _SUPERVISOR, "sh", str(_ends_file(name, run_dir))]
    if tied:
        launcher += ["sh", "-c", _LIFELINE, "sh"]
    with log.open("ab") as file:
        file.write(f"--- {time.strftime('%F %T')} start of {name}\n".encode())
        file.flush()
        # setsid --fork: the process is nobody's child, so it outlives us and
        # leaves no zombie in a long test session.
        subprocess.run(
            ["setsid", "--fork", *launcher, *in_namespace(namespace, argv)],
            stdin=_lifeline() if tied else subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd or "/",
            timeout=timeout_seconds,
            check=True,
        )
    deadline = time.monotonic() + timeout_seconds
    while not recorded.exists():
        if time.monotonic() > deadline:
            raise ProcessError(f"{name} did not start in {timeout_seconds:g} s\n{tail(log)}")
        time.sleep(0.005)
    return _identity(name, run_dir).pid


def is_running(name: str, run_dir: Path) -> bool:
    return running_pid(name, run_dir) is not None


def running_pid(name: str, run_dir: Path) -> int | None:
    """The pid if the very process that was started still lives (a zombie does not)."""
    try:
        recorded = parse_pid_file(pid_file(name, run_dir).read_text())
    except FileNotFoundError:
        return None
    if recorded is None or not _is_alive(recorded):
        return None
    return recorded.pid


def signal(name: str, run_dir: Path, number: signals.Signals) -> bool:
    """Send a signal to the process and its group; False when it does not run."""
    pid = running_pid(name, run_dir)
    if pid is None:
        return False
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


def stop(name: str, run_dir: Path, *, timeout_seconds: float = 10) -> None:
    """End the process: TERM, and KILL when it still runs after ``timeout_seconds``.

    A frozen (SIGSTOPped) process is thawed so that it can obey. Does nothing when
    it does not run. Raises ProcessError if even KILL does not end it.
    """
    if signal(name, run_dir, signals.SIGTERM):
        signal(name, run_dir, signals.SIGCONT)
        if not wait_for_end(name, run_dir, timeout_seconds=timeout_seconds):
            kill(name, run_dir)
    pid_file(name, run_dir).unlink(missing_ok=True)


def kill(name: str, run_dir: Path, *, timeout_seconds: float = 10) -> None:
    """End the process at once, as a power cut would; returns when it is gone."""
    signal(name, run_dir, signals.SIGKILL)
    if not wait_for_end(name, run_dir, timeout_seconds=timeout_seconds):
        raise ProcessError(
            f"{name} (pid {running_pid(name, run_dir)}) is still there {timeout_seconds:g} s "
            "after SIGKILL: it hangs in the kernel, see its state with ps"
        )
    pid_file(name, run_dir).unlink(missing_ok=True)


def count_ends(name: str, run_dir: Path) -> int:
    """How often a process started with ``restart`` ended by itself since then."""
    try:
        return len(_ends_file(name, run_dir).read_text().splitlines())
    except FileNotFoundError:
        return 0


def wait_for_end(name: str, run_dir: Path, *, timeout_seconds: float) -> bool:
    """Wait until the process and its group are gone; False if not in time."""
    pid = running_pid(name, run_dir)
    if pid is None:
        return True
    deadline = time.monotonic() + timeout_seconds
    _wait_for_exit(name, run_dir, pid, timeout_seconds)
    while _group_members(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _wait_for_exit(name: str, run_dir: Path, pid: int, timeout_seconds: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        if running_pid(name, run_dir) == pid:
            waiter.poll(timeout_seconds * 1000)
    finally:
        os.close(handle)


def memory_mib(name: str, run_dir: Path) -> int | None:
    """Resident memory of the process and its group in MiB; None when it does not run."""
    pid = running_pid(name, run_dir)
    if pid is None:
        return None
    pages = 0
    for member in _group_members(pid):
        try:
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)


def names(run_dir: Path) -> list[str]:
    """Every process that was started in the directory and not stopped."""
    return sorted(path.stem for path in run_dir.glob("*.pid"))


@cache
def _lifeline() -> int:
    """The reading end of a pipe whose writing end only our own end closes."""
    reading, _ = os.pipe()
    return reading


def _identity(name: str, run_dir: Path) -> Identity:
    identity = parse_pid_file(pid_file(name, run_dir).read_text())
    if identity is None:
        raise ProcessError(f"{pid_file(name, run_dir)} is damaged: remove it and start again")
    return identity


def _is_alive(identity: Identity) -> bool:
    try:
        parsed = _parse_stat(Path(f"/proc/{identity.pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return False
    if parsed is None or parsed[1] in "ZX":
        return False
    same_start = parsed[2] == identity.start_ticks
    return same_start and _BOOT_ID.read_text().strip() == identity.boot_id


def _group_members(group: int) -> list[int]:
    """Pids of a process group, without zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = line.rpartition(")")[2].split()
        if fields[0] not in "ZX" and int(fields[2]) == group:
            members.append(int(entry.name))
    return members


def _ends_file(name: str, run_dir: Path) -> Path:
    return run_dir / f"{name}.ends"


def _parse_stat(line: str) -> tuple[int, str, int] | None:
    """Pid, state and start time of a line of /proc/PID/stat (proc(5))."""
    # The second field is the program's name in brackets and may hold anything.
    head, _, rest = line.rpartition(")")
    fields = rest.split()
    if len(fields) < 20:
        return None
    return int(head.split(" ", 1)[0]), fields[0], int(fields[19])
