"""The lab's command line; `python -m e2e.lab --help` tells it all."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from e2e.lab import admin, cluster, faults, process, sites, status, teardown
from e2e.lab.api import Lab, LabError, LabNode
from e2e.lab.binaries import BinariesError
from e2e.lab.command import CommandError, in_namespace
from e2e.lab.config import LOCATIONS, Settings
from e2e.lab.exec_channel import ExecError, stream_in_node
from e2e.lab.host import HostError, ensure_host
from e2e.lab.node import NodeError
from e2e.lab.progress import WaitError, say, step
from e2e.lab.rootfs import RootError
from e2e.lab.standalone import ApiServer
from e2e.lab.state import StateError

FAILURES: tuple[type[Exception], ...] = (
    BinariesError,
    CommandError,
    ExecError,
    HostError,
    LabError,
    NodeError,
    RootError,
    StateError,
    WaitError,
    faults.FaultError,
    process.ProcessError,
)
"""What may go wrong in the lab with a message for a person; anything else is a bug."""

_TOOLS = ("kubectl", "helm")
_NODE_ACTIONS: dict[str, Callable[[LabNode], None]] = {
    "kill": LabNode.kill,
    "start": LabNode.start,
    "freeze": LabNode.freeze,
    "thaw": LabNode.thaw,
    "fail-disk": LabNode.fail_disk,
    "mend-disk": LabNode.mend_disk,
}
_EXEC_TIMEOUT_SECONDS = 24 * 3600.0


def main(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code. Expected failures are told in plain words."""
    options = parse_arguments(arguments)
    settings = Settings.from_environment()
    action: Callable[[Settings, argparse.Namespace], int | None] = options.action
    try:
        return action(settings, options) or 0
    except FAILURES as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; what runs is recorded: `up` goes on, `down` removes it all")
        return 130


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Understand a command line; what follows kubectl and helm is theirs, flags too."""
    if arguments and arguments[0] in _TOOLS and arguments[1:2] not in (["-h"], ["--help"]):
        options = argparse.Namespace(action=_tool, tool=arguments[0], at=None)
        options.arguments = list(arguments[1:])
        if options.arguments[:1] == ["--at"] and len(options.arguments) > 1:
            options.at = options.arguments[1]
            del options.arguments[:2]
        return options
    return build_parser().parse_args(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.lab", description="A two-site Kubernetes cluster on one machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Callable[..., int | None], told: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told, description=told)
        command.set_defaults(action=action)
        return command

    add("up", lambda settings, _: cluster.up(settings), "start what is missing, repair the rest")
    add("down", lambda settings, _: teardown.down(settings), "remove everything but the cache")
    add("prepare", _prepare, "fill the cache only")
    add("status", _status, "what runs, its memory, and the faults that are set")
    for tool in _TOOLS:
        command = add(tool, _tool, f"{tool} as administrator, first of all at the witness")
        command.add_argument("--at", metavar="LOCATION", help="at this location instead")
        command.add_argument("arguments", nargs=argparse.REMAINDER)
    command = add("exec", _exec, "run a command as root in a node")
    command.add_argument("node")
    command.add_argument("arguments", nargs=argparse.REMAINDER)
    command = add("node", _node, "power, hang or data disk of one node")
    command.add_argument("what", choices=[*_NODE_ACTIONS])
    command.add_argument("node")
    command = add("site", _site, "power of everything at a location")
    command.add_argument("what", choices=["kill", "start"])
    command.add_argument("site", choices=[location.name for location in LOCATIONS])
    _add_link_commands(add)
    command = add("logs", _logs, "logs there are, or the end of one")
    command.add_argument("what", nargs="?", default="", help="part of its name: east/etcd")
    command.add_argument("-f", "--follow", action="store_true")
    command.add_argument("-n", "--lines", type=int, default=50)
    command = add("apiserver", _apiserver, "only an etcd and an API server on loopback")
    command.add_argument("--dir", type=Path, required=True, help="made, and removed at the end")
    return parser


def _add_link_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    names = [location.name for location in LOCATIONS]
    link = add("link", _link, "cut or heal the link between two locations")
    link.add_argument("what", choices=["cut", "heal"])
    netem = add("netem", _netem, "slow, lossy or narrow link, in each direction; 0 is none")
    for command in (link, netem):
        command.add_argument("one", choices=names, metavar="A")
        command.add_argument("other", choices=names, metavar="B")
    link.add_argument("--one-way", action="store_true", help="lose only what A sends")
    netem.add_argument("--delay-ms", type=float, default=0, help="nodes and pods only")
    netem.add_argument("--loss-percent", type=float, default=0)
    netem.add_argument("--rate-mbit", type=float, default=0)


def _prepare(settings: Settings, _: argparse.Namespace) -> None:
    ensure_host()
    cluster.prepare(settings)


def _status(settings: Settings, _: argparse.Namespace) -> None:
    print(status.describe(settings))


def _tool(settings: Settings, options: argparse.Namespace) -> int:
    at = faults.find_location(options.at) if options.at else admin.choose_location()
    argv = in_namespace(at.namespace, admin.admin_argv(settings, options.tool, at))
    sys.stdout.flush()
    return os.execvp(argv[0], [*argv, *options.arguments])


def _exec(settings: Settings, options: argparse.Namespace) -> int:
    one = Lab(settings).node(options.node)
    argv = options.arguments[options.arguments[:1] == ["--"] :] or ["sh"]
    return stream_in_node(
        one.plan,
        argv,
        stdin=None if sys.stdin.isatty() else sys.stdin.buffer,
        timeout_seconds=_EXEC_TIMEOUT_SECONDS,
        on_stdout=_write_to(sys.stdout.fileno()),
        on_stderr=_write_to(sys.stderr.fileno()),
    )


def _write_to(descriptor: int) -> Callable[[bytes], object]:
    return lambda data: os.write(descriptor, data)


def _node(settings: Settings, options: argparse.Namespace) -> None:
    one = Lab(settings).node(options.node)
    with step(f"node {options.what} {one.name}"):
        _NODE_ACTIONS[options.what](one)


def _site(settings: Settings, options: argparse.Namespace) -> None:
    act = sites.site_kill if options.what == "kill" else sites.site_start
    with step(f"site {options.what} {options.site}"):
        act(settings, faults.find_location(options.site))


def _link(settings: Settings, options: argparse.Namespace) -> None:
    link = Lab(settings).link(options.one, options.other)
    if options.what == "heal":
        link.heal()
    else:
        link.cut(one_way=options.one_way)


def _netem(settings: Settings, options: argparse.Namespace) -> None:
    Lab(settings).link(options.one, options.other).netem(
        delay_ms=options.delay_ms,
        loss_percent=options.loss_percent,
        rate_mbit=options.rate_mbit,
    )


def _logs(settings: Settings, options: argparse.Namespace) -> int:
    found = [path for path in sorted(settings.state.rglob("*.log")) if options.what in str(path)]
    if not options.what or not found:
        for path in sorted(settings.state.rglob("*.log")):
            print(path.relative_to(settings.state).with_suffix(""))
        return int(bool(options.what))
    sys.stdout.flush()
    follow = ["-F"] if options.follow else []
    return os.execvp("tail", ["tail", "-n", str(options.lines), *follow, *map(str, found)])


def _apiserver(settings: Settings, options: argparse.Namespace) -> None:
    # The end of a terminal or of a test run must not leave the two behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ApiServer.started(settings, options.dir) as server:
        print(f"export KUBECONFIG={server.kubeconfig}", flush=True)
        signal.pause()
