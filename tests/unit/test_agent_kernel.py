"""The way to the machine's kernel, as far as it can be seen without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman.agent import kernel
from pointsman.agent.kernel import real_kernel
from pointsman.api.proxyconfig import NodeConfiguration

if TYPE_CHECKING:
    from pathlib import Path

    from pointsman.api.names import Mode


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("vs/conntrack", "vs/expire_nodest_conn", "vs/expire_quiescent_template", "ip_forward"):
        file = tmp_path / "net" / "ipv4" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0\n")
    return tmp_path


def test_it_has_the_modes_of_this_release(root: Path) -> None:
    assert set(real_kernel(root).dataplanes) == {"nftables", "ipvs", "iptables", "userspace"}


@pytest.mark.parametrize(("mode", "value", "told"), [("ipvs", "1\n", 0), ("nftables", "0\n", 1)])
def test_the_parameters_of_ipvs_are_set_in_its_mode_alone(root: Path, mode: Mode, value: str, told: int) -> None:
    """Forwarding, too; in the other modes it is looked at."""
    problems = real_kernel(root).sysctls(NodeConfiguration(), frozenset({4}), mode)
    assert {file.read_text() for file in (root / "net" / "ipv4").rglob("*") if file.is_file()} == {value}
    assert len(problems) == told


@pytest.mark.parametrize(
    ("module", "table", "expected"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_traces_of_ipvs_are_its_module_or_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, module: bool, table: bool, expected: bool
) -> None:
    listing = tmp_path / "ip_vs"
    if module:
        listing.touch()
    monkeypatch.setattr(kernel, "_IPVS_LISTING", listing)
    monkeypatch.setattr(kernel, "has_table", lambda name: table and name == "pointsman-ipvs")
    assert real_kernel().traces("ipvs") is expected
    assert real_kernel().traces("nftables"), "it costs nothing to look"


def test_traces_of_iptables_are_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for expected in (True, False):
        monkeypatch.setattr("pointsman.dataplane.iptables.dataplane.has_traces", lambda _root, found=expected: found)
        assert real_kernel().traces("iptables") is expected


def test_loopback_that_an_agent_had_routed_is_a_trace_of_iptables(root: Path) -> None:
    file = root / "net/ipv4/conf/all/route_localnet"
    file.parent.mkdir(parents=True)
    file.write_text("0\n")
    config = NodeConfiguration.model_validate({"iptables": {"localhostNodePorts": True}})
    real_kernel(root).sysctls(config, frozenset({4}), "nftables")
    assert file.read_text() == "0\n"
    real_kernel(root).sysctls(config, frozenset({4}), "iptables")
    assert file.read_text() != "0\n"
    assert real_kernel(root).traces("iptables")
    real_kernel(root).sysctls(NodeConfiguration(), frozenset({4}), "iptables")
    assert file.read_text() == "0\n"
