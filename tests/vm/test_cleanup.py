"""What kube-proxy's mode ipvs leaves goes, beside virtual servers of others and ours; and IPVS connections traced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroute2 import IPSet

from pointsman.dataplane.leftovers import KubeProxy, held_by
from pointsman.dataplane.tracing.ipvs_connections import read_connections
from pointsman.dataplane.tracing.raw import raw
from pointsman.dataplane.tracing.tracked import read_tracked
from pointsman.model.plan import Frontend
from support.proxied import answer

if TYPE_CHECKING:
    from pointsman.dataplane.leftovers import Leftover
    from support.ipvs import IpvsNode

NODE_PORT = 31999


def members(found: list[Leftover], kind: str, *, kept: bool = False) -> set[str]:
    return {member for each in found if each.kind == kind and bool(each.kept) is kept for member in each.members}


def test_virtual_servers_of_kube_proxy_go_and_all_others_stay(node: IpvsNode) -> None:
    ours, ours6, theirs = node.vip(), node.vip(family=6), node.vip()
    node.put(
        {ours: answer(node.endpoints(2), scheduler="rr"), ours6: answer(node.endpoints(2, family=6), scheduler="rr")}
    )
    at, pod, namespace = node.ground.node.address(), node.ground.pods[0].address(), node.ground.node.namespace
    before = node.saved()
    # kube-proxy puts the addresses of all Services there, ours among them when it ran before.
    namespace.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    for address in (theirs.address, ours.address):
        namespace.run("ip", "address", "add", f"{address}/32", "dev", "kube-ipvs0")
    with namespace.entered(), IPSet() as sets:
        sets.create("KUBE-NODE-PORT-TCP", stype="bitmap:port", bitmap_ports_range=(0, 65535))
        sets.add("KUBE-NODE-PORT-TCP", NODE_PORT, etype="port")
    of_kube_proxy = (f"{theirs.address}:80", f"{at}:{NODE_PORT}", f"127.0.0.1:{NODE_PORT}")
    of_others = (f"{at}:31998", f"192.0.2.77:{NODE_PORT}")
    node.ipvsadm(
        "--restore",
        stdin="".join(f"-A -t {each} -s rr\n-a -t {each} -r {pod}:80 -m -w 1\n" for each in of_kube_proxy + of_others),
    )
    try:
        with namespace.entered():
            left = KubeProxy()
            told = left.find()
            done = left.remove()
            again = left.find()
            left.close()
        assert members(told, "virtual servers") == {f"{each}/tcp" for each in of_kube_proxy}
        assert members(done, "virtual servers", kept=True) == {f"{each}/tcp" for each in of_others}
        assert members(done, "ipsets") == {"KUBE-NODE-PORT-TCP"}
        assert [each.detail for each in done if each.kind == "device"] == ["2 addresses"]
        assert [each for each in again if not each.kept] == []
        assert {line for line in node.saved() if line not in before} == {
            line for each in of_others for line in (f"-A -t {each} -s rr", f"-a -t {each} -r {pod}:80 -m -w 1")
        }
        assert set(before) <= set(node.saved())
        assert "kube-ipvs0" not in namespace.run("ip", "link")
        with namespace.entered():
            held = held_by("ipvs")
        assert held is not None
        assert members(held, "virtual servers") == {f"{ours.address}:80/tcp", f"[{ours6.address}]:80/tcp"}
        assert members(held, "local routes") >= {"10.96.0.0/12"}
    finally:
        for each in of_others:
            node.ipvsadm("-D", "-t", each)
    node.adopt()
    assert node.reach(ours) in {"a", "b"}


def test_a_connection_is_traced_in_both_tables(node: IpvsNode) -> None:
    frontend = node.vip()
    servers = {server.name: server for server in node.endpoints(2)}
    node.put({frontend: answer(list(servers.values()), (3, 2), scheduler="wrr", affinity=600)})
    line = node.line(frontend, source_port=4321)
    server = servers[line.server]
    client, question = node.ground.client.address(), (frontend.address, 80, frontend.protocol)
    with node.ground.node.namespace.entered():
        (tracked,) = read_tracked(client, *question)
        connections = read_connections(client, *question)
        words = raw("ipvs", 4, [frontend])
        nobody = raw("ipvs", 4, [Frontend(4, "10.96.255.255", "tcp", 80)])
    assert (tracked.client_port, tracked.state) == (4321, "ESTABLISHED")
    assert tracked.answering == (server.address, server.port)
    # The first one is how persistence remembers the client.
    assert [each.client_port for each in connections] == [0, 4321]
    assert {each.answering for each in connections} == {(server.address, server.port)}
    assert connections[1].state == "ESTABLISHED"
    assert f"ipvsadm -A -t {frontend.address}:80 -s wrr -p 600" in words
    assert sum(each.startswith(f"ipvsadm -a -t {frontend.address}:80 ") for each in words) == 2
    assert f"ip pointsman-ipvs frontends: {frontend.address} . tcp . 80" in words
    assert nobody == ()
