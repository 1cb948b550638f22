"""The files that a node finds at boot: scripts, addresses, containerd, CNI, kubelet.

They lie in one directory per node that the node sees read-only as ``/run/host`` (and
``/lab`` before it has its own root). All must be there before it boots.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from e2e.lab.config import (
    CLUSTER_DOMAIN,
    DNS_SERVICE_ADDRESS,
    Node,
    Settings,
)

INSIDE = Path(__file__).parent / "inside"
PAUSE_IMAGE = "registry.hospital.example/pause:lab"
MODULES = (
    "loop",
    "bridge",
    "veth",
    "xfs",
    "btrfs",
    "dm_mod",
    "dm_flakey",
    "nf_conntrack",
)
EXEC_PORT = 7070


def apply_node_files(settings: Settings, node: Node, directory: Path) -> None:
    """Write every file of the node into ``directory`` (made when missing)."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("bin", "images"):
        (directory / name).mkdir(exist_ok=True)
    for source in INSIDE.iterdir():
        if source.is_file():
            shutil.copyfile(source, directory / source.name)
    for script in ("init.sh", "keep.sh", "kubelet.sh"):
        (directory / script).chmod(0o755)
    texts = {
        "node.env": render_node_env(node),
        "routes.sh": render_routes(settings, node),
        "hosts": render_hosts(settings),
        "resolv.conf": render_resolv_conf(),
        "containerd.toml": render_containerd_config(),
        "kubelet.json": json.dumps(kubelet_config(), indent=2) + "\n",
        "cni/10-lab.conflist": json.dumps(cni_config(node), indent=2) + "\n",
    }
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def render_node_env(node: Node) -> str:
    """Parameters of the node's own scripts, as shell assignments."""
    prefix = node.location.network.prefixlen
    labels = (
        f"topology.kubernetes.io/zone={node.location.name}",
        "topology.kubernetes.io/region=twinvault-lab",
    )
    values = {
        "NODE": node.name,
        "NODE_IP": str(node.address),
        "ADDRESS": f"{node.address}/{prefix}",
        "GATEWAY": str(node.location.gateway),
        "MANAGEMENT_ADDRESS": f"{node.management_network[2]}/30",
        "LABELS": ",".join(labels),
        "MODULES": " ".join(MODULES),
    }
    return "".join(f'{name}="{value}"\n' for name, value in values.items())


def render_routes(settings: Settings, node: Node) -> str:
    """Pods of the site's other nodes directly; everything else has the default route."""
    neighbours = [
        other for other in settings.nodes if other.location == node.location and other != node
    ]
    return "".join(
        f"ip route add {other.pod_network} via {other.address}\n" for other in neighbours
    )


def render_hosts(settings: Settings) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{node.address} {node.name}" for node in settings.nodes]
    return "\n".join(lines) + "\n"


def render_resolv_conf() -> str:
    """What the node and its host-network pods ask: the cluster's DNS, in short."""
    return f"nameserver {DNS_SERVICE_ADDRESS}\noptions timeout:1 attempts:3\n"


def render_containerd_config() -> str:
    """containerd 2 with crun: half the pod start time of runc on these kernels."""
    return f"""\
version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
oom_score = -900

[grpc]
  address = '/run/containerd/containerd.sock'

[debug]
  level = 'warn'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'

  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{PAUSE_IMAGE}'

[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true

  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'crun'

    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun]
      runtime_type = 'io.containerd.runc.v2'

      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.crun.options]
        BinaryName = '/usr/bin/crun'
        SystemdCgroup = false

  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/lib/cni']
    conf_dir = '/run/host/cni'
"""


def cni_config(node: Node) -> dict[str, object]:
    """One bridge per node; pod networks are routed, never masqueraded."""
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": str(node.pod_network)}]],
                    "dataDir": "/run/cni",
                },
            }
        ],
    }


def kubelet_config() -> dict[str, object]:
    """KubeletConfiguration that a kernel without cpuset and clock speed can run."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/run/host/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "clusterDNS": [str(DNS_SERVICE_ADDRESS)],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "/run/host/resolv.conf",
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "1m",
        "nodeLeaseDurationSeconds": 8,
        "evictionHard": {
            "memory.available": "32Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "24h",
        "serializeImagePulls": False,
        "makeIPTablesUtilChains": False,
        "localStorageCapacityIsolation": True,
        "volumeStatsAggPeriod": "30s",
        "maxPods": 100,
        "readOnlyPort": 0,
    }
