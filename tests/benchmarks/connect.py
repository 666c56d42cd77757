"""What a Service costs a connection: connects through it and directly, in turns, from a client through the node."""

from __future__ import annotations

import socket
import statistics
import sys
import time
from typing import TYPE_CHECKING, Final

from objects import NODE_NAME, Size, cluster_ip, endpoint_slice, objects, pod_ip, service

from pointsman.dataplane.nftables import NftablesDataplane
from pointsman.lab.network import Network
from pointsman.model.parse import parse
from pointsman.policy.planner import Planner

if TYPE_CHECKING:
    from pointsman.lab.network import Host

_BLOCK: Final = 100
"""Pairs in one block; each block gives one ratio of medians."""
_PORT: Final = 8080
_SERVER: Final = f"""
import socket
listener = socket.create_server(("", {_PORT}), backlog=4096)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""


def compare_connects(size: Size, pairs: int) -> dict[str, float]:
    """Connect and close, through the first Service and directly to its only endpoint.

    Args:
        size: what else the node has.
        pairs: how many connects of each kind.
    """
    with Network() as network:
        node = network.node("node", "172.16.0.1")
        pod = network.pod("pod", "192.168.1.1", node=node)
        client = network.client("client", "203.0.113.1")
        network.build()
        network.route("10.96.0.0/12", via=node)
        vip = _program(node, pod, size)
        server = pod.namespace.start([sys.executable, "-c", _SERVER])
        try:
            _wait_for(client, (pod.address(), _PORT))
            return _compare(client, vip, (pod.address(), _PORT), pairs)
        finally:
            server.kill()
            server.wait()


def _program(node: Host, pod: Host, size: Size) -> tuple[str, int]:
    """Bring a cluster into the node's kernel, and one more Service with the pod as endpoint."""
    planner = Planner(NODE_NAME)
    for data in objects(size):
        planner.put(parse(data).objects[0])
    own = size.services
    its_slice = endpoint_slice(own, [0]).replace(pod_ip(0).encode(), pod.address().encode())
    for data in (service(own), its_slice):
        planner.put(parse(data).objects[0])
    planner.take()
    with node.namespace.entered():
        dataplane = NftablesDataplane()
    dataplane.adopt(planner.plan)
    return cluster_ip(own), 80


def _compare(client: Host, vip: tuple[str, int], direct: tuple[str, int], pairs: int) -> dict[str, float]:
    ratios: list[float] = []
    through_all: list[float] = []
    direct_all: list[float] = []
    with client.namespace.entered():
        _block(vip, direct)
        while len(direct_all) < pairs:
            through_times, direct_times = _block(vip, direct)
            ratios.append(statistics.median(through_times) / statistics.median(direct_times))
            through_all += through_times
            direct_all += direct_times
    ratios.sort()
    return {
        "ratio": statistics.median(through_all) / statistics.median(direct_all),
        "ratio p10": ratios[len(ratios) // 10],
        "ratio p90": ratios[len(ratios) * 9 // 10],
        "direct us": statistics.median(direct_all) * 1e6,
        "Service us": statistics.median(through_all) * 1e6,
    }


def _block(vip: tuple[str, int], direct: tuple[str, int]) -> tuple[list[float], list[float]]:
    through_times, direct_times = [], []
    for number in range(_BLOCK):
        # Who is first changes with each pair.
        if number % 2:
            through_times.append(_connect(vip))
            direct_times.append(_connect(direct))
        else:
            direct_times.append(_connect(direct))
            through_times.append(_connect(vip))
    return through_times, direct_times


def _connect(address: tuple[str, int]) -> float:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    begun = time.perf_counter()
    made.connect(address)
    made.close()
    return time.perf_counter() - begun


def _wait_for(client: Host, address: tuple[str, int]) -> None:
    with client.namespace.entered():
        deadline = time.monotonic() + 10
        while True:
            try:
                _connect(address)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
