"""SCTP through Services with the kernel's own SCTP: whole associations, in both modes that know the protocol."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import msgspec
import pytest

from pointsman.lab import sctp
from pointsman.model.plan import NODE_PORT, Answer, Backend, Plan, Pool
from support.dataplanes import open_dataplane
from support.proxied import SETTINGS, node_port, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.api.names import Mode
    from pointsman.dataplane.protocol import Dataplane
    from pointsman.lab.network import Host
    from pointsman.model.plan import Family, Frontend, Masquerade
    from support.ipvs import Shared

PORT = 81
MODES: tuple[Mode, ...] = ("nftables", "ipvs")
ABORT_ON_CLOSE = struct.pack("ii", 1, 0)
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
"""Socket level and option that make ICMP errors the socket's (linux/in.h, linux/in6.h)."""


def open_sctp(host: Host, family: Family) -> socket.socket:
    """Make a one-to-one style socket that aborts its association when it is closed."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    made = host.namespace.socket(kind, socket.SOCK_STREAM, sctp.PROTOCOL)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT_ON_CLOSE)
    made.setsockopt(*RECVERR[family], 1)
    made.settimeout(3)
    return made


class Endpoint:
    """An SCTP server on a pod: it answers each message with the pod's name and the client's address."""

    def __init__(self, pod: Host, family: Family) -> None:
        self._name = pod.name
        self._bell, self._bell_end = socket.socketpair()
        self._listener = open_sctp(pod, family)
        self._listener.bind((pod.address(family), PORT))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, ExitStack() as resources:
            for each in (self._bell_end, self._listener):
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    if ready is self._bell_end:
                        return
                    if ready is self._listener:
                        association = resources.enter_context(closing(self._listener.accept()[0]))
                        selector.register(association, selectors.EVENT_READ)
                    elif not self._answer(ready):
                        selector.unregister(ready)

    def _answer(self, association: socket.socket) -> bool:
        """Answer one message; tell whether there may be another."""
        try:
            if not association.recv(1000):
                return False
            association.send(msgspec.json.encode([self._name, association.getpeername()[0]]))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._bell.send(b"!")
        self._thread.join()
        for each in (self._listener, self._bell, self._bell_end):
            each.close()


class Association:
    """A client's association."""

    def __init__(self, origin: Host, address: str, port: int, family: Family) -> None:
        self._socket = open_sctp(origin, family)
        try:
            self._socket.connect((address, port))
        except OSError:
            self._socket.close()
            raise

    def ask(self) -> tuple[str, str]:
        """Send a message; return the server's name, and whom it sees."""
        self._socket.send(b"?")
        name, seen = msgspec.json.decode(self._socket.recv(1000), type=tuple[str, str])
        return name, seen

    def close(self) -> None:
        self._socket.close()


class Site:
    """A node in one mode, with an SCTP endpoint on each of its two pods and on the one of another node."""

    def __init__(self, shared: Shared, mode: Mode, family: Family, resources: ExitStack) -> None:
        self.ground = shared.ground
        self.family: Family = family
        self.own = self.ground.node.address(family)
        self.dataplane: Dataplane = open_dataplane(self.ground.node, mode)
        self._resources = resources
        resources.callback(self.dataplane.close)
        resources.callback(self.dataplane.cleanup)
        for pod in self.ground.pods:
            resources.enter_context(closing(Endpoint(pod, family)))
        # While a socket connects, the kernel forgets ICMP errors: the one that answers the second INIT is heard.
        self.ground.client.namespace.sysctl({"net/sctp/rto_min": "100", "net/sctp/rto_initial": "200"})

    def put(self, frontend: Frontend, masquerade: Masquerade, *pods: Host, scheduler: str = "rr") -> None:
        """Let one frontend be all that there is."""
        backends = tuple(
            sorted(Backend(pod.address(self.family), PORT, local=pod.hub is self.ground.node) for pod in pods)
        )
        answer = Answer("default/web", scheduler, Pool(backends), masquerade=masquerade)
        written = self.dataplane.adopt(Plan({frontend: answer}, SETTINGS))
        assert not written.refused

    def associate(self, origin: Host, frontend: Frontend) -> Association:
        address = self.own if frontend.address == NODE_PORT else frontend.address
        made = Association(origin, address, frontend.port, self.family)
        self._resources.callback(made.close)
        return made

    def met(self, origin: Host, frontend: Frontend) -> dict[str, str]:
        """Associate three times; return who answered, and whom each one saw."""
        return dict(self.associate(origin, frontend).ask() for _ in range(3))


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture
def site(shared: Shared, mode: Mode, family: Family) -> Iterator[Site]:
    with ExitStack() as resources:
        yield Site(shared, mode, family, resources)


def test_associations_come_about_from_everywhere(site: Site) -> None:
    ground, pods = site.ground, site.ground.pods
    frontend = vip(7, "sctp", site.family)
    site.put(frontend, "off-cluster", *pods)
    assert site.met(ground.client, frontend) == {pod.name: site.own for pod in pods}
    assert site.met(ground.node, frontend) == {pod.name: site.own for pod in pods}
    first = pods[0]
    assert site.met(first, frontend) == {pod.name: first.address(site.family) for pod in pods} | {first.name: site.own}
    port = node_port("sctp", site.family)
    site.put(port, "always", *pods)
    assert site.met(ground.client, port) == {pod.name: site.own for pod in pods}


def test_an_association_outlives_a_change_of_scheduler(site: Site) -> None:
    frontend, pods = vip(8, "sctp", site.family), site.ground.pods
    site.put(frontend, "off-cluster", *pods)
    held = [site.associate(site.ground.client, frontend) for _ in range(3)]
    before = [association.ask() for association in held]
    assert dict(before) == {pod.name: site.own for pod in pods}
    for scheduler in ("sh", "mh", "rr"):
        site.put(frontend, "off-cluster", *pods, scheduler=scheduler)
        assert [association.ask() for association in held] == before


def test_nobody_there_is_said_at_once(site: Site) -> None:
    frontend = vip(9, "sctp", site.family)
    site.put(frontend, "never")
    with pytest.raises(ConnectionRefusedError):
        site.associate(site.ground.client, frontend)
