"""Nodes, pods and clients, and the way between them.

Every host is a namespace. A pod is joined to its node, and a node or a client to one router, by a veth pair without
a network of its own: each side has one fixed neighbour, and each address is a host route. So there is no ARP, no
neighbour discovery and no duplicate address detection to wait for, and addresses need not fit into any network.

    client --- router --- node --- pod
"""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from pointsman.lab import namespaces
from pointsman.lab.carrier import wait_until_up
from pointsman.lab.namespaces import LabError, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

Role = Literal["router", "node", "pod", "client"]

_UP: Final = {4: "169.254.1.1", 6: "fe80::1"}
"""What a host calls the other side of its link: its gateway."""

_DOWN: Final = {4: "169.254.1.2", 6: "fe80::2"}
"""What the other side calls the host; a neighbour belongs to a device, so all links can have the same."""

_EVERYWHERE: Final = {4: "0.0.0.0/0", 6: "::/0"}
_ROUTER_ADDRESSES: Final = ("192.0.2.1", "2001:db8:ffff::1")
"""Of the documentation networks: the router only needs them to send ICMP errors from."""

_SETTINGS: Final = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv6/conf/default/addr_gen_mode": "1",  # none: no link-local addresses, no router solicitations
    "net/ipv6/conf/default/accept_dad": "0",
    # An ICMP error for every refused connection, however many a test makes.
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
}
_FORWARDING: Final = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class Host(msgspec.Struct, eq=False):
    """A node, a pod, a client, or the router.

    Attributes:
        name: as its maker calls it.
        role: what it is.
        namespace: where it lives.
        addresses: its own, canonical, without prefix length; the first of a family is the one it sends from.
        hub: the host at the other side of its link; None for the router.
        link: number of its link in the network.
    """

    name: str
    role: Role
    namespace: Namespace
    addresses: tuple[str, ...]
    hub: Host | None
    link: int

    def address(self, family: int = 4) -> str:
        """Return its first address of a family (4 or 6).

        Raises:
            LabError: it has none.
        """
        for address in self.addresses:
            if family_of(address) == family:
                return address
        raise LabError(f"{self.name} has no IPv{family} address")

    @property
    def port(self) -> str:
        """The name of its link's device at the hub."""
        return f"{self.link}-{self.name}"[:15]


class Network:
    """Hosts and the links between them; a context manager that removes them all at its end.

    Hosts are declared first (`node`, `pod`, `client`), then brought up together by `build`; more can be declared and
    built later, also by other threads.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = prefix or namespaces.new_prefix()
        self.hosts: dict[str, Host] = {}
        self._declared: list[Host] = []
        self._lock = threading.RLock()
        self._routes: list[tuple[str, Host]] = []
        self._links = 0
        self.router = self._declare(
            "router", "router", _ROUTER_ADDRESSES if has_ipv6() else _ROUTER_ADDRESSES[:1], None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def node(self, name: str, *addresses: str) -> Host:
        """Declare a node: it forwards, and its default route leads to the router."""
        return self._declare("node", name, addresses, self.router)

    def pod(self, name: str, *addresses: str, node: Host) -> Host:
        """Declare a pod on a node: one address, or one of each family."""
        return self._declare("pod", name, addresses, node)

    def client(self, name: str, *addresses: str) -> Host:
        """Declare a client outside of the cluster, joined to the router."""
        return self._declare("client", name, addresses, self.router)

    def build(self) -> None:
        """Bring up what was declared since the last call.

        Raises:
            LabError: the kernel refuses a part of it; the message names it.
        """
        with self._lock:  # what another thread has begun to build is up when this returns
            new, self._declared = self._declared, []
            self._bring_up(new)

    def route(self, network: str, *, via: Host) -> None:
        """Let clients and other nodes reach a network (``10.96.0.0/16``) or an address through a node.

        The address need not be the node's own: this is how cluster IPs and external IPs reach a node.
        """
        parsed = ipaddress.ip_network(network, strict=False)
        self._batch(self.router, [f"route replace {parsed} via {_DOWN[parsed.version]} dev {via.port} onlink"])

    def add_address(self, host: Host, address: str) -> None:
        """Give a node or a client one more address of its own, with the way to it."""
        host.addresses += (canonical(address),)
        self._batch(host, [_address_command(host, host.addresses[-1])])
        for hub, commands in _way_to(host, host.addresses[-1]):
            self._batch(hub, commands)

    def remove(self, host: Host) -> None:
        """Remove a host without pods, as if its plug were pulled: nothing is said to its peers."""
        with self._lock:
            if any(other.hub is host for other in self.hosts.values()):
                raise LabError(f"{host.name} has pods; remove them first")
            if host.hub is not None:
                self._batch(host.hub, [f"link del {host.port}"])
            namespaces.remove([host.namespace.name])
            del self.hosts[host.name]

    def adopt(self, name: str, role: Role, addresses: tuple[str, ...], hub: str, link: int) -> Host:
        """Take over a host that another process has built; see `Host` for the arguments."""
        host = Host(name, role, Namespace(self.prefix + name), addresses, self.hosts.get(hub), link)
        with self._lock:
            self.hosts[name] = host
            self._links = max(self._links, link)
            self._declared = [other for other in self._declared if other.name != name]
        return host

    def close(self) -> None:
        """Remove every namespace of this network, and end the processes in them."""
        namespaces.sweep(self.prefix)
        self.hosts.clear()

    def _bring_up(self, new: list[Host]) -> None:
        namespaces.create(host.namespace.name for host in new)
        for host in new:
            host.namespace.sysctl(_SETTINGS | (_FORWARDING if host.role in {"router", "node"} else {}))
        namespaces.batch(_link_command(host) for host in new if host.hub)
        work: dict[str, list[str]] = {}
        for host in new:
            work.setdefault(host.name, []).extend(_leaf_commands(host))
            for hub, commands in _hub_commands(host):
                work.setdefault(hub.name, []).extend(commands)
        for name, commands in work.items():
            self._batch(self.hosts[name], commands)
        self._wait_for_links(new)

    def _wait_for_links(self, new: list[Host]) -> None:
        devices: dict[str, list[str]] = {}
        for host in new:
            if host.hub:
                devices.setdefault(host.name, []).append("eth0")
                devices.setdefault(host.hub.name, []).append(host.port)
        for name, added in devices.items():
            wait_until_up(self.hosts[name].namespace, added)

    def _declare(self, role: Role, name: str, addresses: tuple[str, ...], hub: Host | None) -> Host:
        own = tuple(canonical(address) for address in addresses)
        if not has_ipv6() and any(family_of(address) == 6 for address in own):  # noqa: PLR2004 - IP version 6
            raise LabError(f"{name} has an IPv6 address, and this kernel has no IPv6")
        with self._lock:
            if name in self.hosts:
                raise LabError(f"there is a host {name!r} already")
            self._links += 1
            host = Host(name, role, Namespace(self.prefix + name), own, hub, self._links)
            self.hosts[name] = host
            self._declared.append(host)
        return host

    def _batch(self, host: Host, commands: list[str]) -> None:
        with host.namespace.entered():
            namespaces.batch(commands)


def canonical(address: str) -> str:
    """Write an IP address in its canonical form.

    Raises:
        LabError: it is none.
    """
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise LabError(f"{address!r} is no IP address") from None


def family_of(address: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in address else 4


def has_ipv6() -> bool:
    """Tell whether this kernel has IPv6."""
    return Path("/proc/sys/net/ipv6").is_dir()


def families(host: Host) -> list[int]:
    """Return the IP versions a host has addresses of."""
    return sorted({family_of(address) for address in host.addresses})


def _mac(host: Host, side: int) -> str:
    return f"02:00:{host.link >> 8:02x}:{host.link & 255:02x}:00:{side:02x}"


def _link_command(host: Host) -> str:
    """Make both ends of a host's link, each in its namespace at once."""
    hub = host.hub or host
    return (
        f"link add eth0 address {_mac(host, 2)} netns {host.namespace.name} type veth "
        f"peer name {host.port} address {_mac(host, 1)} netns {hub.namespace.name}"
    )


def _address_command(host: Host, address: str) -> str:
    device = "eth0" if host.hub else "lo"
    return f"addr add {address}/{_bits(address)} dev {device}" + (" nodad" if ":" in address else "")


def _leaf_commands(host: Host) -> Iterator[str]:
    """Bring up a host's own side: loopback, addresses, gateway."""
    yield "link set lo up"
    if host.hub:
        yield "link set eth0 up"
    yield from (_address_command(host, address) for address in host.addresses)
    if host.hub:
        for family in families(host):
            yield f"neigh replace {_UP[family]} lladdr {_mac(host, 1)} dev eth0 nud permanent"
            yield f"route add {_EVERYWHERE[family]} via {_UP[family]} dev eth0 onlink"


def _hub_commands(host: Host) -> Iterator[tuple[Host, list[str]]]:
    """Bring up the hub's side of a link, and the way to the host from everywhere."""
    if host.hub is None:
        return
    both = [4, 6] if has_ipv6() else [4]
    neighbours = [
        f"neigh replace {_DOWN[family]} lladdr {_mac(host, 2)} dev {host.port} nud permanent" for family in both
    ]
    yield host.hub, [f"link set {host.port} up", *neighbours]
    for address in host.addresses:
        yield from _way_to(host, address)


def _way_to(host: Host, address: str) -> Iterator[tuple[Host, list[str]]]:
    """Route an address at every hub between the host and the router."""
    below = host
    while below.hub is not None:
        gateway = _DOWN[family_of(address)]
        yield below.hub, [f"route replace {address}/{_bits(address)} via {gateway} dev {below.port} onlink"]
        below = below.hub


def _bits(address: str) -> int:
    return 128 if ":" in address else 32
