"""The table of docs/modes.md says what the code does; its rows on packets are read by the tests that send them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pointsman.api.names import MODES
from pointsman.api.proxyconfig import NodeConfiguration
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULERS
from pointsman.dataplane.nftables.layout import LAYOUTS, Layout
from pointsman.dataplane.userspace.balancer import MOST_CLIENTS
from pointsman.policy.settings import node_settings
from support.mode_table import PAGE, difference, rows
from support.packet_flows import ALIKE, phases

if TYPE_CHECKING:
    from pointsman.api.names import Mode


def test_every_row_says_something_of_every_mode_and_why() -> None:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| <a id=")]
    assert len(lines) == len(rows())
    for line in lines:
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        assert len(cells) == len(MODES) + 2
        assert all(cells), line


def test_every_row_is_read_by_a_test() -> None:
    read = re.compile(r'difference\("([a-z-]+)"\)')
    found = {name for file in PAGE.parents[1].glob("tests/**/*.py") for name in read.findall(file.read_text("utf-8"))}
    # These two are read by their names below.
    assert found | {"unused-port", "unallocated"} == set(rows())


def test_how_many_clients_affinity_remembers() -> None:
    said = difference("affinity-clients")
    assert said["nftables"] == f"{_size_of(LAYOUTS[4]['affinity']):,} a family"
    assert said["userspace"] == f"{MOST_CLIENTS:,} a frontend"


def _size_of(layout: Layout) -> int:
    found = re.search(r"size (\d+)", layout.declaration)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("mode", MODES)
def test_loopback_is_asked_for(mode: Mode) -> None:
    said = difference("loopback")[mode]
    by_addresses = NodeConfiguration.model_validate({"nodePortAddresses": ["primary", "localhost"]})
    by_iptables = NodeConfiguration.model_validate({"iptables": {"localhostNodePorts": True}})
    assert _has_loopback(by_addresses, mode) == ("localhost in nodePortAddresses" in said)
    assert _has_loopback(by_iptables, mode) == ("iptables.localhostNodePorts" in said)
    assert not _has_loopback(NodeConfiguration(), mode)


def _has_loopback(config: NodeConfiguration, mode: Mode) -> bool:
    found = node_settings(config, None, ("192.0.2.1",), [], mode=mode)
    if mode == "iptables":
        return found.iptables.localhost_node_ports
    return found.localhost_node_ports or "127.0.0.0/8" in found.node_port_cidrs


@pytest.mark.parametrize("mode", MODES)
def test_facts_of_the_code(mode: Mode) -> None:
    assert difference("default-scheduler")[mode] == DEFAULT_SCHEDULER[mode]
    assert difference("schedulers")[mode] == ", ".join(SCHEDULERS[mode])
    assert difference("node-port-addresses")[mode] == ", ".join(NodeConfiguration().node_port_addresses_in(mode))


def test_what_becomes_of_addresses_and_ports_that_nobody_has_is_what_the_flows_say() -> None:
    words = {"reject": "refused", "drop": "dropped", "none": "left alone"}
    for row, pattern in (("unused-port", "only another service has"), ("unallocated", "that no service owns")):
        for mode in MODES:
            found = {case["output"]["verdict"] for _, _, case in phases(mode) if re.search(pattern, case["name"])}
            # The vectors have no case for what is left alone at such an address: nothing tells it from any other one.
            assert difference(row)[mode] in ({words[verdict] for verdict in found} or {"left alone"}), (row, mode)
    assert set(ALIKE) | {"nftables", "iptables"} == set(MODES)
