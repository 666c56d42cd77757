"""The table of docs/modes.md says what the code does; its rows on packets are read by the tests that send them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pointsman.api.names import MODES
from pointsman.api.proxyconfig import NodeConfiguration
from pointsman.api.schedulers import DEFAULT_SCHEDULER, SCHEDULERS
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
