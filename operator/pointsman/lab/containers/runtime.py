"""How containerd and kubelet are configured; pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from pointsman.lab.containers.machine import CNI_PLUGINS

PAUSE_IMAGE: Final = "registry.k8s.io/pause:3.10.2"
CLUSTER_DOMAIN: Final = "cluster.local"
KUBELET_PORT: Final = 10250

_IDLE_SNAPSHOTTERS: Final = ("aufs", "btrfs", "devmapper", "native", "zfs")


class NodeFiles(msgspec.Struct, frozen=True):
    """Where a node keeps its files.

    Attributes:
        state: what is gone with the machine: configuration, sockets.
        data: images, containers and Pods; becomes ``/var/lib`` of the node.
    """

    state: Path
    data: Path

    @property
    def socket(self) -> Path:
        """Where containerd answers."""
        return self.state / "containerd.sock"

    @property
    def networks(self) -> Path:
        """Where containerd looks for CNI configurations."""
        return self.state / "cni"


def containerd(files: NodeFiles) -> str:
    """Write containerd's configuration (config.toml, version 2)."""
    disabled = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in _IDLE_SNAPSHOTTERS)
    return f"""version = 2
root = "/var/lib/containerd"
state = "{files.state}/containerd"
disabled_plugins = [{disabled}, "io.containerd.internal.v1.opt"]

[grpc]
  address = "{files.socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # An oom_score_adj below its own is not for every root user to give: runc then fails without a word.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{files.networks}"
"""


def network(pod_cidr: str) -> str:
    """Write the CNI configuration: a veth pair for each Pod, and routes, as in the lab's other network.

    Args:
        pod_cidr: addresses of the node's Pods.
    """
    ptp = {
        "type": "ptp",
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": pod_cidr}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": "/var/lib/cni/networks",
        },
    }
    return json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [ptp]})


def kubelet(files: NodeFiles, *, authority: Path, cgroup: str, dns: str) -> str:
    """Write the kubelet's configuration.

    Args:
        files: the node's.
        authority: certificate of the API server's authority.
        cgroup: above all Pods.
        dns: address of the cluster's name server.
    """
    configuration: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{files.socket}",
        "clusterDNS": [dns],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(files.state / "resolv.conf"),
        "podLogsDir": "/var/lib/pod-logs",
        "port": KUBELET_PORT,
        # Nodes share one machine: nobody may take from it what belongs to all.
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # News of Pods soon, on a machine with few of them.
        "nodeStatusUpdateFrequency": "4s",
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }
    return yaml.safe_dump(configuration, sort_keys=False)
