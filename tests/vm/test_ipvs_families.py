"""Both address families and all protocols in the mode `ipvs`: who answers whom, and whom the endpoint sees.

Upstream's flows (test_ipvs_flows.py) are IPv4 alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.lab.connections import Answered, Refused, TimedOut, connect
from pointsman.model.plan import NODE_PORT, Answer, Backend, Frontend, Pool

if TYPE_CHECKING:
    from pointsman.lab.connections import Outcome
    from pointsman.lab.network import Host
    from pointsman.model.plan import Family, Masquerade, Transport
    from support.ipvs import IpvsNode

PROTOCOLS: tuple[Transport, ...] = ("tcp", "udp", "sctp")
PATIENCE = 0.3
"""Seconds of silence that count as dropped."""

families = pytest.mark.parametrize("family", [4, 6])
pytestmark = pytest.mark.needs("SCTP packets")


class Site:
    """The node with words for its surroundings in one address family."""

    def __init__(self, node: IpvsNode, family: Family) -> None:
        self.node = node
        self.family: Family = family
        self.client = node.ground.client
        self.web = node.ground.pods
        self.own = node.ground.node.address(family)

    def pool(self, *pods: Host) -> Pool:
        here = self.node.ground.node
        return Pool(tuple(sorted(Backend(pod.address(self.family), 80, local=pod.hub is here) for pod in pods)))

    def answer(self, masquerade: Masquerade = "never") -> Answer:
        return Answer("default/web", "rr", self.pool(*self.web), masquerade=masquerade)

    def ask(self, origin: Host, frontend: Frontend, *, port: int = 0, timeout: float = 1.3) -> Outcome:
        address = self.own if frontend.address == NODE_PORT else frontend.address
        return connect(origin, address, port or frontend.port, frontend.protocol, timeout=timeout)

    def met(self, origin: Host, frontend: Frontend, count: int = 3) -> dict[str, str]:
        """Connect as often as there are endpoints; return whom each of them saw."""
        outcomes = [self.ask(origin, frontend) for _ in range(count)]
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answered)]
        assert len(answers) == count, f"{frontend} from {origin.name}: {outcomes}"
        return {answer.server: answer.seen[0] for answer in answers}

    def all_see(self, address: str) -> dict[str, str]:
        return {pod.name: address for pod in self.web}


@pytest.fixture
def site(node: IpvsNode, family: Family) -> Site:
    return Site(node, family)


@families
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cluster_ip(site: Site, protocol: Transport) -> None:
    frontend = site.node.vip(protocol, site.family)
    exclusive = msgspec.structs.replace(site.answer("off-cluster"), exclusive=True)
    site.node.put({frontend: exclusive})
    assert site.met(site.client, frontend) == site.all_see(site.own)
    assert site.met(site.node.ground.node, frontend) == site.all_see(site.own)
    first = site.web[0]
    # One that reaches itself is masqueraded; nobody else inside is.
    assert site.met(first, frontend) == site.all_see(first.address(site.family)) | {first.name: site.own}
    for origin in (site.client, first, site.node.ground.node):
        assert isinstance(site.ask(origin, frontend, port=81), Refused)
    nobodys = site.node.vip(protocol, site.family)
    for origin in (site.client, first):
        assert site.ask(origin, nobodys, timeout=PATIENCE) == TimedOut()


@families
@pytest.mark.parametrize("kind", ["node_port", "external_ip"])
def test_masqueraded_from_everywhere(site: Site, kind: str) -> None:
    frontends = [getattr(site.node, kind)(protocol, site.family) for protocol in PROTOCOLS]
    site.node.put(dict.fromkeys(frontends, site.answer("always")))
    for frontend in frontends:
        for origin in (site.client, site.web[0], site.node.ground.node):
            assert site.met(origin, frontend) == site.all_see(site.own)


@families
@pytest.mark.parametrize("kind", ["node_port", "external_ip"])
def test_clients_inside_have_another_pool_than_those_outside(site: Site, kind: str) -> None:
    """As with `externalTrafficPolicy: Local`."""
    first, _, elsewhere = site.web
    split = msgspec.structs.replace(site.answer("node"), outside=site.pool(first))
    frontends = [getattr(site.node, kind)(protocol, site.family) for protocol in PROTOCOLS]
    site.node.put(dict.fromkeys(frontends, split))
    client, pod = site.client.address(site.family), first.address(site.family)
    for frontend in frontends:
        assert site.met(site.client, frontend) == {first.name: client}
        assert site.met(site.node.ground.node, frontend) == site.all_see(site.own)
        assert site.met(first, frontend) == site.all_see(pod) | {first.name: site.own}
    # No endpoint here: dropped for those outside, and nothing else for those inside.
    away = msgspec.structs.replace(split, pool=site.pool(elsewhere), outside=Pool((), "drop"))
    site.node.put(dict.fromkeys(frontends, away))
    for frontend in frontends:
        assert site.ask(site.client, frontend, timeout=PATIENCE) == TimedOut()
        assert site.met(first, frontend, 1) == {elsewhere.name: pod}
        assert site.met(site.node.ground.node, frontend, 1) == {elsewhere.name: site.own}
    # And back to one pool for all.
    site.node.put(dict.fromkeys(frontends, site.answer("always")))
    for frontend in frontends:
        assert site.met(site.client, frontend) == site.all_see(site.own)
        assert site.met(first, frontend) == site.all_see(site.own)


@families
def test_nobody_there_is_said_at_once(site: Site) -> None:
    frontends = [kind(p, site.family) for kind in (site.node.vip, site.node.node_port) for p in PROTOCOLS]
    site.node.put(dict.fromkeys(frontends, Answer("default/web", "rr", Pool())))
    for frontend in frontends:
        for origin in (site.client, site.web[0], site.node.ground.node):
            assert isinstance(site.ask(origin, frontend), Refused)


@families
def test_source_ranges_guard_the_door(site: Site) -> None:
    frontend = site.node.external_ip(family=site.family)
    ranges = (f"{site.client.address(site.family)}/{32 if site.family == 4 else 128}",)
    site.node.put({frontend: msgspec.structs.replace(site.answer("always"), source_ranges=ranges)})
    assert site.met(site.client, frontend) == site.all_see(site.own)
    assert site.ask(site.web[0], frontend, timeout=PATIENCE) == TimedOut()
    assert site.ask(site.node.ground.node, frontend, timeout=PATIENCE) == TimedOut()
