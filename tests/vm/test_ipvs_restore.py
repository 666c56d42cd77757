"""What `pointsman render` writes, loaded by ipvsadm, nft and ip: the same that the agent's dataplane makes."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from typer.testing import CliRunner

from pointsman.api.names import SCHEDULER_ANNOTATION, SCHEDULER_FLAGS_ANNOTATION
from pointsman.api.proxyconfig import ProxyConfigSpec
from pointsman.api.schedulers import SCHEDULERS
from pointsman.cli.app import app
from pointsman.dataplane.local_routes import PROTOCOL
from pointsman.lab.namespaces import Namespace, batch, create, new_prefix, remove
from pointsman.lab.network import Host
from support.manifests import service
from support.proxied import table_held
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.manifests import Document

pytestmark = pytest.mark.needs("nftables", "connection tracking", "IPv6")

FOUNDING: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors/founding_example.json").read_bytes()
)["objects"]
NODE: Final = ("172.16.0.5", "fd00:172:16::5")
POD_CIDRS: Final = ["192.168.0.0/16", "fd00:192:168::/48"]
SPEC: Final = {
    "mode": "ipvs",
    "podCIDRs": POD_CIDRS,
    "serviceCIDRs": ["10.96.0.0/12", "fd00:10:96::/112"],
}
OUTSIDE: Final = {"externalTrafficPolicy": "Local"}
TABLE: Final = "pointsman-ipvs"


def endpoints(name: str, *, here: int = 2, there: int = 2, protocols: tuple[str, ...] = ("tcp",)) -> Iterator[Document]:
    """Make EndpointSlices of both families, with endpoints on this node and on another one."""
    nodes = ["master"] * here + ["node01"] * there
    for family, address in ((4, "192.168.0.{}"), (6, "fd00:192:168::{}")):
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "test",
                "name": f"{name}-{family}",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": f"IPv{family}",
            "ports": [{"name": each, "port": 8080, "protocol": each.upper()} for each in protocols],
            "endpoints": [
                {"addresses": [address.format(20 + number)], "nodeName": node, "conditions": {"ready": True}}
                for number, node in enumerate(nodes)
            ],
        }


def objects() -> Iterator[Document]:
    """Make Services of every kind, with every scheduler and flag of the mode."""
    yield from FOUNDING["services"]
    yield from FOUNDING["endpointSlices"]
    for number, scheduler in enumerate(SCHEDULERS["ipvs"]):
        annotations = {SCHEDULER_ANNOTATION: scheduler}
        if scheduler in {"sh", "mh"}:
            annotations[SCHEDULER_FLAGS_ANNOTATION] = f"{scheduler}-port"
        name = f"by-{scheduler}"
        yield service(name, f"10.97.0.{number}", f"fd00:10:96::1:{number}", annotations=annotations)
        yield from endpoints(name)
    everything = ("tcp", "udp", "sctp")
    yield service("all", "10.98.0.1", "fd00:10:96::98", node_port=30100, protocols=everything)
    yield from endpoints("all", protocols=everything)
    stays = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 777}}}
    yield service("stays", "10.98.0.2", "fd00:10:96::982", spec=stays)
    yield from endpoints("stays")
    guarded = {"loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8:203::/64"]}
    ips = ("203.0.113.77", "2001:db8:77::1")
    yield service("near", "10.98.0.3", "fd00:10:96::983", node_port=30103, balancer_ips=ips, spec=OUTSIDE | guarded)
    yield from endpoints("near")
    yield service("far", "10.98.0.4", "fd00:10:96::984", node_port=30104, external_ips=["203.0.113.78"], spec=OUTSIDE)
    yield from endpoints("far", here=0)
    yield service("nobody", "10.98.0.5", "fd00:10:96::985", node_port=30105)


@pytest.fixture
def nodes() -> Iterator[tuple[Host, Host]]:
    """Two nodes that nobody is connected to, with the same addresses."""
    prefix = new_prefix()
    made = create([f"{prefix}one", f"{prefix}two"])
    try:
        for each in made:
            with each.entered():
                batch(
                    [
                        "link set lo up",
                        "link add eth0 type dummy",
                        "link set eth0 addrgenmode none up",
                        f"addr add {NODE[0]}/24 dev eth0",
                        f"addr add {NODE[1]}/64 dev eth0 nodad",
                        "route add default dev eth0",
                        "route add ::/0 dev eth0",
                    ]
                )
        one, two = (Host("master", "node", each, NODE, None, 0) for each in made)
        yield one, two
    finally:
        remove([each.name for each in made])


def manifests(files: Path) -> list[str]:
    """Write the objects and the configuration; return the options that name them."""
    listed = files / "objects.json"
    nodes: list[Document] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "master"},
            "spec": {"podCIDRs": ["192.168.0.0/24", "fd00:192:168::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": address} for address in NODE]},
        }
    ]
    listed.write_bytes(b"\n---\n".join(map(msgspec.json.encode, [*nodes, *objects()])))
    config = files / "config.json"
    head = {"apiVersion": "pointsman.dev/v1alpha1", "kind": "ProxyConfig", "metadata": {"name": "default"}}
    config.write_bytes(msgspec.json.encode({**head, "spec": SPEC}))
    return ["-f", str(listed), "--config", str(config)]


def proxy_on(node: Host) -> Proxy:
    return Proxy(node, ProxyConfigSpec.model_validate(SPEC), mode="ipvs")


def virtual_servers(node: Namespace) -> list[str]:
    return sorted(node.run("ipvsadm", "-Sn").splitlines())


def around(node: Namespace) -> list[str]:
    """Return rules, sets and routes. The agent seals its table with checksums; a script can't know them."""
    rules = [line for family in ("ip", "ip6") for line in table_held(partial(node.run, "nft"), family, TABLE)]
    routes = [
        line.strip()
        for family in (4, 6)
        for line in node.run("ip", f"-{family}", "route", "show", "table", "local", "proto", str(PROTOCOL)).splitlines()
    ]
    return [line for line in sorted([*rules, *routes]) if not re.fullmatch(r"\d+ : \d+|0x\w+ : 0x\w+", line)]


def without_marks(lines: list[str]) -> list[str]:
    """Leave firewall marks without their numbers: which frontend has which one means nothing."""
    return sorted(re.sub(r"-f \d+|: 0x504d\w{4}", "mark", line) for line in lines)


def test_what_is_rendered_is_what_the_agent_makes(nodes: tuple[Host, Host], tmp_path: Path) -> None:
    by_script, by_agent = nodes
    options = [*manifests(tmp_path), "--node-name", "master", "--mode", "ipvs"]
    done = CliRunner().invoke(app, ["render", *options])
    assert done.exit_code == 0, done.output
    script = tmp_path / "script"
    script.write_text(done.stdout, "utf-8")
    by_script.namespace.run("sh", "-e", str(script))
    with proxy_on(by_agent) as proxy:
        proxy.put(objects())
        proxy.sync()
        rendered, made = virtual_servers(by_script.namespace), virtual_servers(by_agent.namespace)
        assert without_marks(rendered) == without_marks(made)
        for word in (*SCHEDULERS["ipvs"], "sh-port", "mh-port", "-p 777", "-f ", "-6", "--sctp-service", "30103"):
            assert any(f" {word}" in line or word in line for line in made), word
        assert without_marks(around(by_script.namespace)) == without_marks(around(by_agent.namespace))
