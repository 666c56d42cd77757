"""`pointsman top`, `/connections` and the metrics of connections, on a real agent with real connections."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab.agent import Agent
from pointsman.lab.namespaces import LabError
from pointsman.lab.traffic import Answered, connect
from support.agents import Supervised, seconds_until, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .conftest import Ground

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

VIP, VIP6, NODE_PORT = "10.96.0.80", "fd00:10:96::80", 30080
LOOKS = 20
LABELS = 'namespace="test",port="tcp",protocol="tcp",service="web"'


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    with supervised(ground, tmp_path) as made:
        options = ("--manifests", str(made.manifests), "--connection-metrics", "5")
        made.agent = Agent(ground.node, options, made.log)
        pods = ground.pods
        made.write("web.json", service("web", VIP, VIP6, node_port=NODE_PORT), *slices("web", *pods[:2]))
        made.write("idle.json", service("idle", "10.96.0.81"))
        made.start()
        yield made


def ask(node: Supervised, address: str, times: int, port: int = 80) -> Counter[str]:
    """Connect so often, and count the servers' names."""
    found: Counter[str] = Counter()
    for _ in range(times):
        outcome = connect(node.ground.client, address, port)
        assert isinstance(outcome, Answered)
        found[outcome.server] += 1
    return found


def top(node: Supervised, *words: str) -> list[dict[str, Any]]:
    """Return the Services of one look."""
    found = json.loads(node.run("top", "--once", "-o", "json", *words))
    assert (found["node"], found["mode"], found["seconds"]) == ("node-1", "nftables", None)
    services: list[dict[str, Any]] = found["services"]
    return services


def counted(node: Supervised, connections: int, *words: str) -> list[dict[str, Any]]:
    """Return the Services of a look that finds so many connections; the agent looks once a second at most."""
    found: list[list[dict[str, Any]]] = []

    def looked() -> bool:
        found.append(top(node, *words))
        return sum(service["connections"] for service in found[-1]) == connections

    seconds_until(looked)
    return found[-1]


def by_server(node: Supervised, backends: list[dict[str, Any]]) -> Counter[str]:
    names = {address: pod.name for pod in node.ground.pods for address in pod.addresses}
    found: Counter[str] = Counter()
    for backend in backends:
        found[names[backend["address"]]] += backend["connections"]
    return found


def test_top_tells_what_was_really_connected(node: Supervised) -> None:
    made = ask(node, VIP, 5) + ask(node, VIP6, 3) + ask(node, node.ground.node.address(4), 2, NODE_PORT)
    web, idle = counted(node, 10)
    assert (web["namespace"], web["name"], web["port"], web["connections"]) == ("test", "web", "tcp", 10)
    assert [tuple(each.values()) for each in web["frontends"]] == [
        (4, VIP, 80, 5), (6, VIP6, 80, 3), (4, "*", NODE_PORT, 2), (6, "*", NODE_PORT, 0),
    ]  # fmt: skip
    assert by_server(node, web["backends"]) == made
    assert (idle["name"], idle["connections"], idle["backends"]) == ("idle", 0, [])
    assert top(node, "--service", "idle") == [idle]
    assert top(node, "--namespace", "other") == []


def test_a_table_in_a_pipe_has_rates_from_the_second_look_on(node: Supervised) -> None:
    command = (sys.executable, "-m", "pointsman", "top", "--service", "web", "--interval", "1")
    lines = 7  # what is shown, headings, the Service, four backends
    with node.ground.node.namespace.entered():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        try:
            first = [process.stdout.readline() for _ in range(lines)]
            ask(node, VIP, 4)
            # A look may be over before the last of them; the one that finds it has a rate.
            for _ in range(LOOKS):
                later = [process.stdout.readline() for _ in range(lines)]
                assert "connections/s" in later[0]
                if later[2].split()[3] == "4":
                    break
        finally:
            process.kill()
    assert first[0].startswith("node-1  nftables  ")
    assert "connections/s" not in first[0]
    assert first[2].split()[:5] == ["test/web:tcp", f"{VIP}:80/tcp", "+3", "0", "-"]
    assert later[2].split()[3] == "4"
    assert float(later[2].split()[4]) > 0
    assert any(line.strip().startswith("[fd00:192:168:1::1]:80 ") for line in later)


def test_a_drained_backend_is_told(node: Supervised) -> None:
    drained = next(slices("web", *node.ground.pods[1:2]))
    drained["metadata"]["name"] = "web-drained"
    drained["metadata"]["annotations"] = {"pointsman.dev/weight": "0"}
    node.put("web.json", service("web", VIP), *slices("web", node.ground.pods[0]), drained)
    ask(node, VIP, 2)
    web = counted(node, 2, "--service", "test/web")[0]
    assert [(each["weight"], each["connections"]) for each in web["backends"]] == [(1, 2), (0, 0)]


def test_metrics_count_from_the_agents_start_and_keep_to_their_limit(node: Supervised) -> None:
    total = f"pointsman_service_connections_total{{{LABELS}}}"
    assert node.metrics()[total] == 0
    made = ask(node, VIP, 6) + ask(node, VIP6, 2)
    seconds_until(lambda: node.metrics()[total] == 8)
    found = node.metrics()
    assert [value for name, value in found.items() if name.startswith("pointsman_service_connections_total")] == [8]
    series = "pointsman_backend_connections_total"
    backends = {name.split('"')[1]: value for name, value in found.items() if name.startswith(f'{series}{{backend="')}
    pods = {f"[{ip}]:80" if ":" in ip else f"{ip}:80": pod.name for pod in node.ground.pods for ip in pod.addresses}
    got: Counter[str] = Counter()
    for backend, value in backends.items():
        got[pods[backend]] += int(value)
    assert (len(backends), +got) == (4, made)
    # The other Service's series is the sixth one.
    assert found["pointsman_connection_metrics_dropped"] == 1
    # An agent that comes after it counts on from 0, whatever the kernel remembers; top tells all of it.
    node.agent.kill()
    node.start()
    assert node.metrics()[total] == 0
    assert counted(node, 8, "--service", "web")
    ask(node, VIP, 1)
    seconds_until(lambda: node.metrics()[total] == 1)


def test_no_agent_is_said_with_what_to_do(node: Supervised) -> None:
    node.agent.kill()
    with pytest.raises(LabError, match=r"no agent answers at http://127\.0\.0\.1:10249/connections"):
        node.run("top", "--once")
