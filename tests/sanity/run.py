"""``make sanity``: csi-sanity against every process of ours, for filesystems and for devices.

Exit code 0 only when nothing failed, nothing was left behind, and no secret reached a log.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.lab import process
from e2e.lab.config import Settings
from e2e.lab.progress import say, step
from tests.sanity.bad_input import run_checks
from tests.sanity.stack import PROCESSES, Stack, StackError, loops_below, mounts_below

MIB = 1024**2
VOLUME_BYTES = 64 * MIB
EXPANDED_BYTES = 128 * MIB
RUN_TIMEOUT_SECONDS = 900
SETTLE_SECONDS = 10
SECRET = "only-the-storage-may-know"
_SECRET_CALLS = (
    *("CreateVolume", "DeleteVolume", "ControllerPublishVolume", "ControllerUnpublishVolume"),
    *("ControllerValidateVolumeCapabilities", "NodeStageVolume", "NodePublishVolume"),
    *("CreateSnapshot", "DeleteSnapshot", "ControllerExpandVolume", "ListSnapshots", "GetSnapshot"),
)
_OWN_MOUNTS = "TWINVAULT_SANITY_OWN_MOUNTS"
_KINDS = ("volumes", "volumereplicas", "snapshots")


@dataclass(frozen=True)
class Result:
    """What one run of csi-sanity found; ``failures`` are the names of its specs with the reason."""

    passed: int
    skipped: tuple[str, ...]
    failures: tuple[str, ...]


def parse_report(text: str) -> Result:
    """The counts of a ginkgo JSON report; specs that are disabled upstream count as neither."""
    states: Counter[str] = Counter()
    skipped, failures = [], []
    for suite in json.loads(text):
        for spec in suite["SpecReports"] or ():
            if spec["LeafNodeType"] != "It":
                continue
            states[spec["State"]] += 1
            name = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
            failure = spec.get("Failure") or {}
            if spec["State"] == "skipped":
                skipped.append(f"{name}: {failure.get('Message', '')}")
            elif spec["State"] not in ("passed", "pending"):
                failures.append(f"{name}\n      {failure.get('Message', '')}")
    return Result(states["passed"], tuple(skipped), tuple(failures))


def run_sanity(stack: Stack, access_type: str, focus: Sequence[str]) -> Result:
    """One run, with volumes of ``access_type`` (mount or block)."""
    report = stack.directory / f"{access_type}.json"
    log = stack.directory / f"{access_type}.log"
    parameters, secrets = _write_inputs(stack.directory)
    argv = [
        str(stack.api.binaries / "csi-sanity"),
        f"--csi.endpoint={stack.socket('csi-node')}",
        f"--csi.controllerendpoint={stack.socket('csi-controller')}",
        f"--csi.mountdir={stack.kubelet_dir / 'mount'}",
        f"--csi.stagingdir={stack.kubelet_dir / 'staging'}",
        f"--csi.testvolumeaccesstype={access_type}",
        f"--csi.testvolumesize={VOLUME_BYTES}",
        f"--csi.testvolumeexpandsize={EXPANDED_BYTES}",
        f"--csi.testvolumeparameters={parameters}",
        f"--csi.secrets={secrets}",
        f"--ginkgo.json-report={report}",
        "--ginkgo.no-color",
        *(f"--ginkgo.focus={text}" for text in focus),
    ]
    with step(f"csi-sanity, {access_type}"), log.open("wb") as file:
        subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=RUN_TIMEOUT_SECONDS,
            check=False,
        )
    if not report.exists():
        raise StackError(f"csi-sanity gave no report\n{log.read_text()[-4000:]}")
    return parse_report(report.read_text())


def _write_inputs(directory: Path) -> tuple[Path, Path]:
    """Parameters and secrets for csi-sanity; JSON is YAML too."""
    parameters, secrets = directory / "parameters.yaml", directory / "secrets.yaml"
    parameters.write_text(json.dumps({"pool": "fast"}))
    words = {f"{call}Secret": {"password": SECRET} for call in _SECRET_CALLS}
    secrets.write_text(json.dumps(words))
    return parameters, secrets


def observe_leftovers(stack: Stack) -> Iterator[str]:
    """What is there although every volume and snapshot was deleted."""
    for kind in _KINDS:
        yield from stack.api.kubectl("get", kind, "-o", "name").split()
    for device, back in loops_below(stack.directory):
        if device != stack.device:
            yield f"{device} over {back}"
    pools = stack.data_dir / "pools"
    for path in mounts_below(stack.directory):
        if Path(path).parent != pools:
            yield f"mount {path}"
    for folder in ("volumes", "snapshots", "trash"):
        yield from map(str, pools.glob(f"*/{folder}/*"))
    for entry in stack.kubelet_dir.iterdir():
        if entry.name != "plugins_registry":
            yield str(entry)


def wait_for_no_leftovers(stack: Stack) -> list[str]:
    """What is still there after a moment: a report of the last erasure may be on its way."""
    deadline = time.monotonic() + SETTLE_SECONDS
    left = list(observe_leftovers(stack))
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = list(observe_leftovers(stack))
    return left


def observe_told_secrets(stack: Stack) -> Iterator[str]:
    """Logs and objects that hold the secret that csi-sanity sent with every call."""
    for name in PROCESSES:
        path = process.log_file(name, stack.logs)
        if SECRET in path.read_text(errors="replace"):
            yield f"secret in {path.name}"


def enter_own_mounts(arguments: Sequence[str]) -> None:
    """Go on in a mount namespace of our own.

    Another program on this machine that makes such a namespace would take a copy of our mounts
    with it, and keep our devices busy for as long as it lives.
    """
    if os.environ.get(_OWN_MOUNTS) or os.geteuid() != 0:
        return
    argv = ["unshare", "--mount", "--propagation", "private", "--"]
    argv += [sys.executable, "-m", "tests.sanity.run", *arguments]
    os.execvpe(argv[0], argv, {**os.environ, _OWN_MOUNTS: "1"})


def main(arguments: Sequence[str]) -> int:
    """``arguments``: mount, block or nothing for both; ``--focus=TEXT`` runs some specs only."""
    focus = [text.removeprefix("--focus=") for text in arguments if text.startswith("--focus=")]
    chosen = [text for text in arguments if text in ("mount", "block")] or ["mount", "block"]
    directory = Path(os.environ.get("TWINVAULT_SANITY", "/var/lib/twinvault-sanity"))
    try:
        with Stack.started(Settings.from_environment(), directory) as stack:
            return _judge(stack, chosen, focus)
    except StackError as error:
        say(f"sanity: {error}")
        return 1


def _judge(stack: Stack, chosen: Sequence[str], focus: Sequence[str]) -> int:
    bad: list[str] = []
    for access_type in chosen:
        result = run_sanity(stack, access_type, focus)
        for line in result.skipped:
            say(f"    skipped  {line}")
        bad += [f"{access_type}: {failure}" for failure in result.failures]
        bad += [f"{access_type}: left behind: {one}" for one in wait_for_no_leftovers(stack)]
        print(
            f"csi-sanity {access_type}: {result.passed} passed, {len(result.failures)} failed,"
            f" {len(result.skipped)} skipped",
            flush=True,
        )
    if not focus:
        with step("bad input"):
            passed, failures = asyncio.run(run_checks(stack))
        bad += [f"bad input: {failure}" for failure in failures]
        bad += [f"bad input: left behind: {one}" for one in wait_for_no_leftovers(stack)]
        print(f"bad input: {passed} passed, {len(failures)} failed", flush=True)
    bad += observe_told_secrets(stack)
    memory = ", ".join(f"{name} {size} MiB" for name, size in stack.memory_mib().items())
    say(f"  resident memory after the runs: {memory}")
    for line in bad:
        print(f"  FAILED {line}", flush=True)
    if bad:
        kept = stack.directory.with_name(f"{stack.directory.name}-failed.log")
        kept.write_text(_collect_logs(stack, chosen))
        print(f"  logs of all processes: {kept}", flush=True)
    return 1 if bad else 0


def _collect_logs(stack: Stack, chosen: Sequence[str]) -> str:
    paths = [process.log_file(name, stack.logs) for name in PROCESSES]
    paths += [stack.directory / f"{one}.log" for one in chosen]
    return "\n".join(f"===== {one.name}\n{one.read_text(errors='replace')}" for one in paths)


if __name__ == "__main__":
    enter_own_mounts(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
