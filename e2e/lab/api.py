"""The lab for tests and measurements. Everything here is stable.

lab = Lab()
lab.kubectl("apply", "-f", "-", stdin=manifest)
lab.node("east-1").kill()
lab.link("east", "west").cut()
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from e2e.lab import admin, data_disk, faults, node, process, sites
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import run
from e2e.lab.config import Location, Node, Settings
from e2e.lab.exec_channel import Completed, listen_in_namespace


class LabError(Exception):
    """Something was asked of the lab that it does not have."""


@dataclass(frozen=True)
class LabNode:
    """One node. Faults act at once; each method returns when they have."""

    settings: Settings
    plan: Node

    @property
    def name(self) -> str:
        return self.plan.name

    def kill(self) -> None:
        """Power cut: the node's memory is lost, its disks keep what was written."""
        node.kill(self.settings, self.plan)

    def start(self) -> None:
        """Boot the node on its disks; returns when it takes commands."""
        sites.node_start(self.settings, self.plan)

    def freeze(self) -> None:
        node.freeze(self.settings, self.plan)

    def thaw(self) -> None:
        node.thaw(self.settings, self.plan)

    def fail_disk(self) -> None:
        """Every read and write of the data disk is an error, until mended or booted."""
        data_disk.apply(self.plan, failing=True)

    def mend_disk(self) -> None:
        data_disk.apply(self.plan, failing=False)

    def is_running(self) -> bool:
        return node.is_running(self.settings, self.plan)

    def exec(
        self, *argv: str, stdin: bytes | None = None, timeout_seconds: float = 60
    ) -> Completed:
        """Run a command as root in the node itself, not in a container."""
        return node.exec_in(
            self.settings, self.plan, argv, stdin=stdin, timeout_seconds=timeout_seconds
        )


@dataclass(frozen=True)
class LabSite:
    """One location with everything at it."""

    settings: Settings
    location: Location

    def kill(self) -> None:
        """Power cut of nodes and control plane; the others see silence."""
        sites.site_kill(self.settings, self.location)

    def start(self) -> None:
        sites.site_start(self.settings, self.location)

    def freeze_api_server(self) -> None:
        """It takes connections and answers nothing, until thawed."""
        self._signal_api_server(signal.SIGSTOP)

    def thaw_api_server(self) -> None:
        self._signal_api_server(signal.SIGCONT)

    def _signal_api_server(self, number: signal.Signals) -> None:
        directory = self.settings.location_dir(self.location)
        if not process.signal("kube-apiserver", directory, number):
            raise LabError(f"no API server runs at {self.location.name}")


@dataclass(frozen=True)
class LabLink:
    """The link between two locations, for nodes, pods and control plane alike."""

    settings: Settings
    one: Location
    other: Location

    def cut(self, *, one_way: bool = False) -> None:
        """Lose everything; ``one_way``: only what the first named location sends."""
        faults.cut_link(self.settings, self.one, self.other, one_way=one_way)

    def heal(self) -> None:
        faults.heal_link(self.settings, self.one, self.other)

    def netem(self, *, delay_ms: float = 0, loss_percent: float = 0, rate_mbit: float = 0) -> None:
        """Set all three in each direction; the delay is for nodes and pods only."""
        faults.shape_link(
            self.settings,
            self.one,
            self.other,
            delay_ms=delay_ms,
            loss_percent=loss_percent,
            rate_mbit=rate_mbit,
        )


@dataclass(frozen=True)
class Lab:
    """A lab that is up."""

    settings: Settings = field(default_factory=Settings.from_environment)

    @property
    def nodes(self) -> tuple[LabNode, ...]:
        return tuple(LabNode(self.settings, one) for one in self.settings.nodes)

    def node(self, name: str) -> LabNode:
        for one in self.nodes:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.nodes)
        raise LabError(f"there is no node {name}; there are {known}")

    def site(self, name: str) -> LabSite:
        return LabSite(self.settings, faults.find_location(name))

    def link(self, one: str, other: str) -> LabLink:
        return LabLink(self.settings, faults.find_location(one), faults.find_location(other))

    def kubectl(
        self,
        *args: str,
        stdin: str | None = None,
        timeout_seconds: float = 60,
        at: str | None = None,
    ) -> str:
        """Output of kubectl as administrator; CommandError with its output if it fails.

        It runs at the witness (at a site while the witness has no power), or ``at``
        another location: whom that one reaches, it reaches.
        """
        return self._run_tool("kubectl", args, stdin, timeout_seconds, at)

    def helm(
        self,
        *args: str,
        stdin: str | None = None,
        timeout_seconds: float = 300,
        at: str | None = None,
    ) -> str:
        """Output of helm as administrator; see kubectl."""
        return self._run_tool("helm", args, stdin, timeout_seconds, at)

    def _run_tool(
        self,
        tool: str,
        args: Sequence[str],
        stdin: str | None,
        timeout_seconds: float,
        at: str | None,
    ) -> str:
        return admin.run_tool(
            self.settings,
            tool,
            args,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            at=faults.find_location(at) if at else None,
        )

    def run_at(
        self,
        location: str,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        timeout_seconds: float = 60,
    ) -> str:
        """Run a command of this machine in a location's network namespace."""
        return run(
            argv,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            namespace=faults.find_location(location).namespace,
            env={"KUBECONFIG": str(self.settings.admin_kubeconfig)},
        )

    def listen(self, node_name: str, port: int) -> socket.socket:
        """A UDP socket at ``observer_address(node_name)``: pods of that node reach it whatever
        links are cut and wherever the site is dark, for it hangs on the node's own channel.
        """
        plan = self.node(node_name).plan
        return listen_in_namespace(
            plan.location.namespace, (self.observer_address(plan.name), port)
        )

    def observer_address(self, node_name: str) -> str:
        return str(self.node(node_name).plan.management_network[1])

    def program(self, name: str) -> str:
        """Path of a program built for the lab, such as kubectl, helm or csi-sanity."""
        return os.fspath(ensure_binaries(self.settings) / name)
