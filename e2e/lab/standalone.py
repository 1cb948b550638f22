"""One etcd and one kube-apiserver on loopback: a real API for tests without nodes.

    with ApiServer.started(settings, directory) as api:
        api.kubectl("apply", "-f", "crds/")
        client = load_kube_config(api.kubeconfig)

Nothing schedules or starts pods. Objects, CRDs, CEL rules, RBAC, watches, field
selectors, Leases and conflicts are the real thing. No port is fixed, so several may
run at once. Both end with the process that started them, also when that is killed.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from e2e.lab import process
from e2e.lab.apiserver import (
    ENVIRONMENT,
    ApiServerPlan,
    EtcdClient,
    is_ready,
    plan_api_server_argv,
)
from e2e.lab.binaries import ensure_binaries
from e2e.lab.command import run, tail
from e2e.lab.config import Settings
from e2e.lab.pki import Authority, format_kubeconfig, write_private
from e2e.lab.progress import wait_until

_LOOPBACK = IPv4Address("127.0.0.1")
_READY_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class ApiServer:
    """A cluster's API and nothing else. ``directory`` holds its data, pids and logs."""

    directory: Path
    binaries: Path
    authority: Authority
    api_port: int
    etcd_client_port: int
    etcd_peer_port: int

    @classmethod
    @contextmanager
    def started(cls, settings: Settings, directory: Path) -> Iterator[ApiServer]:
        """Start both with empty data; on leaving, end both and remove ``directory``."""
        server = cls.prepare(settings, directory)
        try:
            server.start_etcd()
            server.start()
            yield server
        finally:
            server.close()

    @classmethod
    def prepare(cls, settings: Settings, directory: Path) -> ApiServer:
        """Build what is missing and choose ports; what an earlier run left is ended."""
        authority = Authority(settings.cache / "standalone-pki")
        authority.ensure()
        ports = _free_ports(3)
        server = cls(directory, ensure_binaries(settings), authority, *ports)
        server.close()
        directory.mkdir(parents=True)
        return server

    @property
    def url(self) -> str:
        return f"https://{_LOOPBACK}:{self.api_port}"

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of an administrator."""
        return self.kubeconfig_for("admin", "system:masters")

    def kubeconfig_for(self, user: str, group: str = "") -> Path:
        """Kubeconfig of any user, so that RBAC rules can be tried."""
        pair = self.authority.ensure_pair(f"user-{user}", user, organization=group)
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        text = format_kubeconfig(
            server=self.url,
            authority=self.authority.certificate.read_bytes(),
            certificate=pair.certificate.read_bytes(),
            key=pair.key.read_bytes(),
            user=user,
        )
        if not path.exists():
            write_private(path, text)
        return path

    def kubectl(self, *args: str, stdin: str | None = None, timeout_seconds: float = 60) -> str:
        """Output of kubectl as administrator; raises CommandError when it fails."""
        argv = [str(self.binaries / "kubectl"), f"--kubeconfig={self.kubeconfig}", *args]
        return run(argv, stdin=stdin, timeout_seconds=timeout_seconds)

    def start(self) -> None:
        """Start the API server and wait until it is ready; may follow stop or kill."""
        serving = self.authority.ensure_pair("serving", "kube-apiserver", hosts=[_LOOPBACK])
        plan = ApiServerPlan(
            program=self.binaries / "kube-apiserver",
            address=_LOOPBACK,
            port=self.api_port,
            authority=self.authority,
            serving=serving,
            client=serving,
            etcd=EtcdClient((f"http://{_LOOPBACK}:{self.etcd_client_port}",)),
            extra=(
                "--endpoint-reconciler-type=none",
                # No controller makes service accounts here, and pods may be wanted.
                "--disable-admission-plugins=ServiceAccount",
            ),
        )
        argv = plan_api_server_argv(plan)
        process.start("kube-apiserver", argv, run_dir=self.directory, env=ENVIRONMENT, tied=True)
        wait_until(
            f"the API server on {self.url} to be ready",
            self._is_ready_or_dead,
            timeout_seconds=_READY_TIMEOUT_SECONDS,
            interval_seconds=0.05,
            explain=lambda: self._log("kube-apiserver"),
        )
        if not process.is_running("kube-apiserver", self.directory):
            raise process.ProcessError(f"kube-apiserver ended\n{self._log('kube-apiserver')}")

    def stop(self) -> None:
        """End the API server only: to its clients the API is away."""
        process.stop("kube-apiserver", self.directory)

    def kill(self) -> None:
        """End the API server as a power cut would."""
        process.kill("kube-apiserver", self.directory)

    def start_etcd(self) -> None:
        client = f"http://{_LOOPBACK}:{self.etcd_client_port}"
        peer = f"http://{_LOOPBACK}:{self.etcd_peer_port}"
        argv = [
            str(self.binaries / "etcd"),
            "--name=alone",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=alone={peer}",
            "--log-level=warn",
            # Its data never outlives a test, and tests share a disk with real ones.
            "--unsafe-no-fsync",
        ]
        process.start("etcd", argv, run_dir=self.directory, tied=True)

    def close(self) -> None:
        """End both and remove the directory."""
        process.kill("kube-apiserver", self.directory)
        process.kill("etcd", self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _is_ready_or_dead(self) -> bool:
        if not process.is_running("kube-apiserver", self.directory):
            return True
        return is_ready(_LOOPBACK, self.api_port, self.authority.certificate)

    def _log(self, name: str) -> str:
        return tail(process.log_file(name, self.directory))


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; held together so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((str(_LOOPBACK), 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
