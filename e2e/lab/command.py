"""Run one command to its end, with a deadline and an error that shows what it said."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_SHOWN_LINES = 30


class CommandError(Exception):
    """A command failed or did not end in time; the message carries its last lines."""

    def __init__(self, argv: Sequence[str], outcome: str, output: str) -> None:
        self.argv = tuple(argv)
        self.output = output
        lines = output.strip().splitlines()[-_SHOWN_LINES:]
        text = "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"
        super().__init__(f"{shlex.join(argv)[:400]}: {outcome}\n{text}")


def in_namespace(namespace: str | None, argv: Sequence[str]) -> list[str]:
    """The argument list that runs ``argv`` inside a network namespace of the lab."""
    if namespace is None:
        return list(argv)
    return ["nsenter", f"--net=/run/netns/{namespace}", "--", *argv]


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    namespace: str | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> str:
    """Run ``argv`` and return its standard output.

    ``env`` is added to ours. With ``log`` both streams go to that file (appended)
    and an empty string is returned. Raises CommandError when the command cannot be
    started, fails, or is still running after ``timeout_seconds`` (it is killed).
    """
    full = in_namespace(namespace, argv)
    surroundings = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        if log is not None:
            return _run_logged(full, timeout_seconds, stdin, surroundings, cwd, log)
        done = subprocess.run(
            full,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_seconds,
            env=surroundings,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise CommandError(argv, f"cannot be started: {error}", "") from error
    except subprocess.TimeoutExpired as error:
        said = _text(error.stdout) + _text(error.stderr)
        raise CommandError(argv, f"not finished after {timeout_seconds:g} s", said) from error
    if done.returncode != 0:
        raise CommandError(argv, f"exit code {done.returncode}", done.stdout + done.stderr)
    return done.stdout


def succeeds(
    argv: Sequence[str], *, timeout_seconds: float = 10, namespace: str | None = None
) -> bool:
    """Whether the command ends with code 0 in time."""
    try:
        run(argv, timeout_seconds=timeout_seconds, namespace=namespace)
    except CommandError:
        return False
    return True


def tail(path: Path, lines: int = _SHOWN_LINES) -> str:
    """The last lines of a log file; empty when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _run_logged(
    argv: list[str],
    timeout_seconds: float,
    stdin: str | None,
    env: Mapping[str, str],
    cwd: Path | None,
    log: Path,
) -> str:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        try:
            code = subprocess.run(
                argv,
                check=False,
                input=None if stdin is None else stdin.encode(),
                stdin=subprocess.DEVNULL if stdin is None else None,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
                env=env,
                cwd=cwd,
            ).returncode
        except subprocess.TimeoutExpired as error:
            outcome = f"not finished after {timeout_seconds:g} s"
            raise CommandError(argv, outcome, tail(log)) from error
    if code != 0:
        raise CommandError(argv, f"exit code {code}, whole log in {log}", tail(log))
    return ""


def _text(data: bytes | str | None) -> str:
    if data is None:
        return ""
    return data if isinstance(data, str) else data.decode("utf-8", "replace")
