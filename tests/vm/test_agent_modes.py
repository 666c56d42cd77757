"""A whole agent in a kernel that has IPVS: in force, taken away, brought back, and what connections see of it."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman.api.schedulers import SCHEDULERS
from pointsman.lab.traffic import Held, Load
from support.agents import Supervised, seconds_until, server_at, supervised
from support.manifests import service, slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel.conftest import Ground

pytestmark = [pytest.mark.needs("nftables", "connection tracking", "IPv6"), pytest.mark.timeout(900)]

VIP = {4: "10.96.0.1", 6: "fd00:10:96::1"}
MODPROBE = Path("/proc/sys/kernel/modprobe")
GUARD = Path("/tmp/modprobe-all-but-ipvs")  # noqa: S108 (of a guest that is gone after the tests)
GUARD_AS_THE_KERNEL_SEES_IT = f"/mnt/root{GUARD}"
"""The kernel's helper lives in the guest's first root, above the one that the tests have."""
PATIENCE = 240.0
"""Seconds; the guest is emulated."""


def config(**spec: object) -> dict[str, object]:
    wanted = {"priority": 1, "podCIDRs": ["192.168.0.0/16", "fd00:192:168::/48"], "syncPeriod": "1s", **spec}
    metadata = {"name": "wanted"}
    return {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": metadata, "spec": wanted}


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Iterator[Supervised]:
    load_ipvs()
    with supervised(ground, tmp_path) as made:
        annotations = {"pointsman.dev/scheduler": "wlc"}
        made.write("web.json", service("web", *VIP.values(), annotations=annotations), *slices("web", *ground.pods))
        made.write("config.json", config(mode="ipvs"))
        yield made


@contextmanager
def ipvs_kept_out() -> Iterator[None]:
    """Keep the kernel from loading IPVS by itself."""
    GUARD.write_text('#!/bin/sh\ncase "$*" in *ip_vs*|*IPVS*) exit 1;; esac\nexec /sbin/modprobe "$@"\n')
    GUARD.chmod(0o755)
    before = MODPROBE.read_text()
    MODPROBE.write_text(GUARD_AS_THE_KERNEL_SEES_IT)
    try:
        yield
    finally:
        MODPROBE.write_text(before)


def load_ipvs() -> None:
    """Load it here: the kernel does so by itself, but has to read each module anew from the host."""
    names = ["ip_vs", *(f"ip_vs_{name}" for name in SCHEDULERS["ipvs"])]
    subprocess.run(["modprobe", "-a", *names], check=True)


def unload() -> bool:
    """Take IPVS away; tell whether it is gone, which it is not while virtual servers use it."""
    modules = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    mine = [*(name for name in modules if name.startswith("ip_vs_")), *(name for name in modules if name == "ip_vs")]
    return all(subprocess.run(["rmmod", module], check=False).returncode == 0 for module in mine)


def start(node: Supervised) -> None:
    node.agent.start()
    node.agent.daemon.wait_until(lambda: node.agent.healthz()[0] == 200, "is not ready", patience=PATIENCE)


def ipvs_of(node: Supervised) -> str:
    return node.ground.node.namespace.run("cat", "/proc/net/ip_vs")


def tables_of(node: Supervised) -> list[str]:
    return sorted(node.ground.node.namespace.run("nft", "list", "tables").split("\n"))


def answers(node: Supervised) -> bool:
    return all(server_at(node.ground.client, address) for address in VIP.values())


def test_it_is_in_force_with_its_sysctls_and_gives_way_to_another(node: Supervised) -> None:
    start(node)
    assert node.agent.mode() == "ipvs"
    assert answers(node)
    assert "wlc" in ipvs_of(node)
    for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template"):
        assert node.ground.node.namespace.run("cat", f"/proc/sys/net/ipv4/vs/{name}").strip() == "1", name
    assert "WARNING" not in node.log.read_text("utf-8")
    with Load(node.ground.client, VIP[4], 80) as load:
        load.wait(10)
        node.write("config.json", config(mode="nftables"))
        seconds_until(lambda: node.agent.mode() == "nftables", limit=PATIENCE)
        load.wait(10)
    assert load.spread().failures == []
    assert "mode ipvs serves the " in node.log.read_text("utf-8"), "the kernel remembers connections for a while"
    seconds_until(lambda: tables_of(node) == ["", "table ip pointsman", "table ip6 pointsman"], limit=PATIENCE)
    assert "wlc" not in ipvs_of(node), "no virtual server is left"
    assert not node.ground.node.namespace.run("ip", "route", "show", "table", "local", "proto", "112").strip()
    assert '"wlc" is not there in mode nftables' in node.log.read_text("utf-8")


def test_it_comes_back_when_the_module_does(node: Supervised) -> None:
    with ipvs_kept_out():
        assert unload()
        start(node)
        assert node.agent.mode() == "nftables"
        assert "ipvs: no IPVS in this kernel; run `modprobe ip_vs`" in node.log.read_text("utf-8")
        with Held(node.ground.client, VIP[4], 80, count=20) as held, Load(node.ground.client, VIP[4], 80) as load:
            load.wait(10)
            load_ipvs()
            seconds_until(lambda: node.agent.mode() == "ipvs", limit=PATIENCE)
            load.wait(10)
            assert held.broken() == []
    assert load.spread().failures == []
    assert tables_of(node) == ["", "table ip pointsman-ipvs", "table ip6 pointsman-ipvs"]
    assert "INFO mode ipvs is in force, as the configuration says" in node.log.read_text("utf-8")


def test_what_a_killed_agent_left_goes_with_the_next_one_in_another_mode(node: Supervised) -> None:
    start(node)
    assert "wlc" in ipvs_of(node)
    node.agent.kill()
    node.write("config.json", config(mode="nftables"))
    start(node)
    seconds_until(lambda: "wlc" not in ipvs_of(node), limit=PATIENCE)
    assert answers(node)
    assert tables_of(node) == ["", "table ip pointsman", "table ip6 pointsman"]


def test_a_module_that_is_taken_away_from_a_running_agent(node: Supervised) -> None:
    """It can only be unloaded without virtual servers; the agent puts them back, but not at once."""
    start(node)
    with ipvs_kept_out():
        seconds_until(lambda: bool(node.ground.node.namespace.run("ipvsadm", "-C") == "" and unload()), limit=PATIENCE)
        node.write("more.json", service("more", "10.96.0.2"), *slices("more", *node.ground.pods))
        seconds_until(lambda: node.agent.mode() == "nftables", limit=PATIENCE)
        seconds_until(lambda: tables_of(node) == ["", "table ip pointsman", "table ip6 pointsman"], limit=PATIENCE)
        assert answers(node)
        seconds_until(lambda: bool(server_at(node.ground.client, "10.96.0.2")), limit=PATIENCE)
    seconds_until(lambda: node.agent.mode() == "ipvs", limit=PATIENCE)
    assert answers(node)
    assert server_at(node.ground.client, "10.96.0.2")
