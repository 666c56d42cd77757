"""What the agent is told at its start."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pointsman.dataplane.sysctl import SYSCTL_ROOT
from pointsman.sources.apiserver.access import Access


class AgentOptions(msgspec.Struct, frozen=True):
    """What the agent is told at its start.

    Attributes:
        source: what to follow: a directory of manifests, or an API server.
        node_name: name of the node's Node object, and `nodeName` of the endpoints that run here.
        config: file with the ProxyConfig to use, whatever the directory has, until this node has a NodeProxy; None to
            choose from the directory.
        healthz_address, metrics_address: ``IP:PORT``, "" for none.
        state_dir: directory in which the last NodeProxy is kept for a start without the API server; None for nowhere.
        namespace: where the agent's Lease is, and the DaemonSet `clean_up_with`.
        clean_up_with: name of the DaemonSet that the agent belongs to: when SIGTERM comes because it is deleted, the
            agent removes its rules. "" for none; the rules stay then.
        sysctl_root: where the kernel's parameters are.
        connection_metrics: how many series of connections `/metrics` may have; 0 for none.
    """

    source: Path | Access
    node_name: str
    config: Path | None = None
    healthz_address: str = "0.0.0.0:10256"
    metrics_address: str = "127.0.0.1:10249"
    state_dir: Path | None = None
    namespace: str = "pointsman-system"
    clean_up_with: str = ""
    sysctl_root: Path = SYSCTL_ROOT
    connection_metrics: int = 0
