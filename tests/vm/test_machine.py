"""What the guest has: the rest of this tier stands on it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.lab.features import missing

if TYPE_CHECKING:
    from pointsman.lab.network import Network

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh", "fo", "ovf")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", autouse=True)
def _ipvs() -> None:
    run("modprobe", "ip_vs")


def test_ipvs_has_its_settings() -> None:
    assert Path("/proc/sys/net/ipv4/vs/conntrack").exists()
    assert Path("/proc/net/ip_vs").read_text().startswith("IP Virtual Server version 1.2.1")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_virtual_server_can_have_every_scheduler(scheduler: str) -> None:
    run("ipvsadm", "--add-service", "--tcp-service", "10.0.0.1:80", "--scheduler", scheduler)
    try:
        assert f"-A -t 10.0.0.1:80 -s {scheduler}\n" in run("ipvsadm", "--save", "--numeric")
    finally:
        run("ipvsadm", "--clear")


@pytest.mark.parametrize("feature", ["network namespaces", "veth devices", "nftables", "connection tracking", "IPv6"])
def test_it_has_what_a_lab_needs(feature: str) -> None:
    assert missing(feature) == ""


@pytest.mark.parametrize("feature", ["SCTP packets", "user namespaces"])
def test_it_has_what_few_machines_have(feature: str) -> None:
    assert missing(feature) == ""


def test_it_has_dummy_devices(network: Network) -> None:
    network.build()
    namespace = network.router.namespace
    namespace.run("ip", "link", "add", "ipvs0", "type", "dummy")
    namespace.run("ip", "address", "add", "10.96.0.1/32", "dev", "ipvs0")
    assert "10.96.0.1" in namespace.run("ip", "-brief", "address", "show", "dev", "ipvs0")


def test_a_network_namespace_has_virtual_servers_of_its_own(network: Network) -> None:
    network.build()
    namespace = network.router.namespace
    namespace.run("ipvsadm", "-A", "-u", "10.0.0.2:53", "-s", "rr")
    assert "10.0.0.2:53" in namespace.run("ipvsadm", "-Sn")
    assert "10.0.0.2:53" not in run("ipvsadm", "-Sn")
