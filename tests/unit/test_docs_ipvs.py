"""docs/ipvs.md leaves out no field of kube-proxy's configuration, and names only what exists here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pointsman.api.chart_pages import entries
from pointsman.api.chart_parts import Piece
from pointsman.api.chart_values import Values
from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.api.schema import structural
from pointsman.dataplane.ipvs.rules import TABLE
from pointsman.dataplane.local_routes import PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = (Path(__file__).parents[2] / "docs" / "ipvs.md").read_text("utf-8")
IPVS: Final = (
    "syncPeriod", "minSyncPeriod", "scheduler", "excludeCIDRs", "strictARP", "tcpTimeout", "tcpFinTimeout",
    "udpTimeout",
)  # fmt: skip
CONNTRACK: Final = (
    "maxPerCore", "min", "tcpEstablishedTimeout", "tcpCloseWaitTimeout", "tcpBeLiberal", "udpTimeout",
    "udpStreamTimeout",
)  # fmt: skip
IPTABLES: Final = ("masqueradeBit", "masqueradeAll", "localhostNodePorts", "syncPeriod", "minSyncPeriod")
TOP: Final = (
    "featureGates", "clientConnection", "logging", "hostnameOverride", "bindAddress", "healthzBindAddress",
    "metricsBindAddress", "bindAddressHardFail", "enableProfiling", "showHiddenMetricsForVersion", "mode", "nftables",
    "winkernel", "detectLocalMode", "detectLocal.bridgeInterface", "detectLocal.interfaceNamePrefix", "clusterCIDR",
    "nodePortAddresses", "oomScoreAdj", "configSyncPeriod", "portRange", "windowsRunAsService",
)  # fmt: skip
FIELDS: Final = (
    *(f"ipvs.{name}" for name in IPVS),
    *(f"conntrack.{name}" for name in CONNTRACK),
    *(f"iptables.{name}" for name in IPTABLES),
    *TOP,
)
"""Of a KubeProxyConfiguration, k8s.io/kube-proxy/config/v1alpha1 of 1.37; those of other modes as a whole."""


def table() -> list[tuple[str, str, str]]:
    found = re.search(r"^## Field by field\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    rows = [line.strip("|").split(" | ") for line in found[1].splitlines() if line.startswith("| ")]
    return [(row[0], row[1], row[2]) for row in rows[1:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def spec_fields(schema: dict[str, object], above: str) -> Iterator[str]:
    properties = schema.get("properties")
    assert isinstance(properties, dict) or above != "spec"
    for name, field in (properties if isinstance(properties, dict) else {}).items():
        yield f"{above}.{name}"
        yield from spec_fields(field, f"{above}.{name}")


def values(piece: Piece, above: str = "") -> Iterator[str]:
    for name, value, _ in entries(piece):
        yield f"{above}{name}"
        if isinstance(value, Piece):
            yield from values(value, f"{above}{name}.")


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_kube_proxy_has_its_row(field: str) -> None:
    told = [name.partition(":")[0] for row in table() for name in code(row[0])]
    assert told.count(field) == 1


def test_no_row_is_of_a_field_that_kube_proxy_does_not_have() -> None:
    assert {name.partition(":")[0] for row in table() for name in code(row[0])} == set(FIELDS)


def test_what_a_field_becomes_exists() -> None:
    known = {*spec_fields(structural(ProxyConfigSpec, defaults=False), "spec"), *values(Values())}
    told = {name.partition(":")[0] for row in table() for name in code(row[1])}
    assert told
    assert told <= known
    named = {name.partition(":")[0] for name in re.findall(r"`(spec\.[^`]+)`", PAGE)}
    assert named <= known


def test_names_in_the_kernel_are_those_of_the_code() -> None:
    assert f"nft list table ip {TABLE} " in PAGE
    assert f"ip route show table local proto {PROTOCOL} " in PAGE
