"""`pointsman lab` as its user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pointsman.lab import namespaces, records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("nftables", "connection tracking")
LAB = (sys.executable, "-m", "pointsman", "lab")

OWN = """
apiVersion: v1
kind: Node
metadata: {name: alpha}
spec: {podCIDRs: [10.1.0.0/24, "fd00:10:1::/64"]}
status: {addresses: [{type: InternalIP, address: 10.9.0.1}, {type: InternalIP, address: "fd00:10:9::1"}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: cart}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.9, "fd00:10:96::9"]
  ipFamilies: [IPv4, IPv6]
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [198.51.100.0/24]
  ports: [{name: web, port: 80, protocol: TCP, nodePort: 31000}, {name: dns, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.80}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: nobody}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: cart-4, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: web, port: 8080, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}]
endpoints:
- {addresses: [10.1.0.5], nodeName: alpha, conditions: {ready: true}}
- {addresses: [10.2.0.5], nodeName: beta, conditions: {ready: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: cart-6, labels: {kubernetes.io/service-name: cart}}
addressType: IPv6
ports: [{name: web, port: 8080, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: ["fd00:10:1::5"], nodeName: alpha, conditions: {ready: true}}]
"""


def leftovers_of(pid: int) -> list[str]:
    return namespaces.with_prefix(f"pm{pid}-") + [path.name for path in records.home().glob(f"pm{pid}-*")]


def run(*options: str) -> tuple[int, dict[str, Any], str]:
    process = subprocess.Popen(
        [*LAB, "-o", "json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, errors = process.communicate(timeout=120)
    assert leftovers_of(process.pid) == []
    return process.returncode, json.loads(out) if out else {}, errors


def test_the_tour_passes_and_leaves_nothing() -> None:
    status, result, errors = run()
    wrong = [step for step in result["steps"] if not step["found"]["good"]]
    assert (status, wrong, errors) == (0, [], "")
    assert [step["title"] for step in result["steps"]][-1] == "An agent is killed"
    assert len(result["steps"]) == 11


def test_manifests_of_ones_own_are_surveyed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    status, result, errors = run("--manifests", str(tmp_path))
    survey = result["steps"][-1]["found"]
    assert (status, errors) == (0, ""), survey
    assert {tuple(row) for row in survey["table"]["rows"]} >= {
        ("shop/cart:web", "192.0.2.80:80/tcp", "outside", "drop", "1 drop", "ok"),
        ("shop/nobody", "10.96.0.10:80/tcp", "client-beta", "reject", "1 reject", "ok"),
        ("shop/cart:web", "[fd00:10:96::9]:80/tcp", "client-alpha", "1 endpoint", "6 pod-fd00-10-1--5", "ok"),
    }


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """Have programs started meanwhile heed a signal: a shell's job in the background ignores SIGINT, and so do its own.

    A program inherits no handler, but that a signal is ignored.
    """
    former = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, former)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tour_leaves_nothing(number: signal.Signals) -> None:
    with heeded(signal.SIGINT):
        process = subprocess.Popen([*LAB, "--plain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "3. " not in (line := process.stdout.readline()):
        assert line, "the tour ended before it was interrupted"
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "everything is removed" in errors
    assert leftovers_of(process.pid) == []


def test_a_lab_is_left_up_and_removed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    process = subprocess.Popen(
        [*LAB, "--keep", "--plain", "--manifests", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=60)
    try:
        assert process.returncode == 0, out
        assert "PASSED" in out
        commands = [line[line.index("ip netns exec") :].strip() for line in out.splitlines() if "ip netns exec" in line]
        assert len(commands) == 3
        for command in commands:
            said = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout  # noqa: S602 - what a user would paste
            assert "table ip pointsman" in said or "healthy" in said or "pod-10-1-0-5" in said or "pod-10-2-0-5" in said
    finally:
        removed = subprocess.run([*LAB, "--remove"], capture_output=True, text=True, check=True).stdout
    assert f"removed pm{process.pid}-" in removed
    assert leftovers_of(process.pid) == []


def test_a_directory_that_is_not_there_is_refused() -> None:
    done = subprocess.run([*LAB, "--manifests", "/nothing-here"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing-here" in done.stderr
