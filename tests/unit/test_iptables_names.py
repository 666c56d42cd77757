"""Names and probabilities as kube-proxy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pointsman.dataplane.iptables.names import (
    endpoint_chain,
    is_own,
    port_chain,
    probability,
    saved_probability,
)

VECTORS = Path(__file__).parents[1] / "vectors"
NAMES = json.loads((VECTORS / "iptables_names.json").read_text())
FOUNDING = json.loads((VECTORS / "founding_example.json").read_text())["iptables"]["chains"]


@pytest.mark.parametrize("vector", NAMES["iptables"], ids=lambda vector: vector["hash"])
def test_chains(vector: dict[str, Any]) -> None:
    service_port = f"{vector['namespace']}/{vector['service']}"
    if vector["portName"]:
        service_port += f":{vector['portName']}"
    if vector["endpoint"]:
        found = [endpoint_chain(service_port, vector["protocol"], vector["endpoint"])]
    else:
        found = [port_chain(kind, service_port, vector["protocol"]) for kind in ("SVC", "SVL", "EXT", "FW")]
    assert found == vector["chains"]


@pytest.mark.parametrize("service_port", FOUNDING)
def test_chains_of_the_founding_example(service_port: str) -> None:
    protocol = "udp" if service_port.endswith(":dns") else "tcp"
    assert port_chain("SVC", service_port, protocol) == FOUNDING[service_port]["service"]
    for endpoint, chain in FOUNDING[service_port].get("endpoints", {}).items():
        assert endpoint_chain(service_port, protocol, endpoint) == chain


@pytest.mark.parametrize(("endpoints", "text"), NAMES["probability"].items())
def test_probability(endpoints: str, text: str) -> None:
    assert probability(1 / int(endpoints)) == text


@pytest.mark.parametrize(
    ("share", "saved"), [(1 / 2, "0.50000000000"), (1 / 3, "0.33333333349"), (1e-5, "0.00001000008")]
)
def test_probability_as_the_kernel_keeps_it(share: float, saved: str) -> None:
    assert saved_probability(share) == saved
    assert saved_probability(float(saved)) == saved


@pytest.mark.parametrize("chain", ["KUBE-SVC-MAU7ERFCJB7QMBT7", "KUBE-SEP-X", "KUBE-SERVICES", "KUBE-MARK-MASQ"])
def test_own_chains(chain: str) -> None:
    assert is_own("nat", chain)


@pytest.mark.parametrize(
    ("table", "chain"),
    [
        ("nat", "KUBE-MARK-DROP"),
        ("nat", "KUBE-KUBELET-CANARY"),
        ("nat", "KUBE-PROXY-CANARY"),
        ("nat", "KUBE-ROUTER-SERVICES"),
        ("nat", "DOCKER"),
        ("mangle", "KUBE-SERVICES"),
        ("filter", "KUBE-SVC-MAU7ERFCJB7QMBT7"),
        ("filter", "KUBE-FIREWALL"),
    ],
)
def test_chains_of_others(table: str, chain: str) -> None:
    assert not is_own(table, chain)
