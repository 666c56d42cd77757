"""What kube-proxy leaves on a node, in any of its modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pointsman.dataplane.iptables.tools import Tools
from pointsman.dataplane.iptables.variant import VARIANTS
from pointsman.dataplane.leftovers import chains, virtual_servers
from pointsman.dataplane.leftovers.device import Device
from pointsman.dataplane.leftovers.found import Leftover
from pointsman.dataplane.leftovers.ipsets import Ipsets
from pointsman.dataplane.leftovers.nft_tables import delete_tables, find_tables, has_table
from pointsman.dataplane.netlink import NftSocket
from pointsman.dataplane.node_addresses import device_addresses
from pointsman.dataplane.protocol import DataplaneError
from pointsman.model.plan import FAMILIES, IPV4, IPV6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pointsman.dataplane.iptables.variant import Variant
    from pointsman.dataplane.ipvs.objects import ServerKey
    from pointsman.model.plan import Family

TABLE: Final = "kube-proxy"
"""Of its mode nftables, for each IP family."""

_COMMANDS: Final = {IPV4: "iptables", IPV6: "ip6tables"}
_OTHERS: Final = (
    "neither at an address of kube-ipvs0 nor at a node port that stands in kube-proxy's ipsets: somebody else's"
)
NO_TOOLS: Final = "nothing here can list them; install iptables (Debian: the package iptables), and run this again"
"""Why chains of iptables stay."""


class KubeProxy:
    """Finds and removes it, in the network namespace of the thread that makes it; used by one thread at a time."""

    def __init__(self) -> None:
        """Open the way to the kernel.

        Raises:
            DataplaneError: there is none; with the remedy.
        """
        try:
            self._wire, self._device = NftSocket(), Device()
        except OSError as error:
            raise DataplaneError(f"no netlink socket: {error}; the kernel needs nfnetlink and rtnetlink") from error
        self._ipsets = Ipsets()

    def find(self) -> list[Leftover]:
        """Look for everything; nothing is changed.

        Raises:
            DataplaneError: it can't be read.
        """
        try:
            return [*self._find_servers(), *self._find_rules()]
        except OSError as error:
            raise DataplaneError(f"what kube-proxy left can't be read: {error}; run this as root") from error

    def remove(self) -> list[Leftover]:
        """Remove it; what others need stays.

        Returns:
            What `find` would have found before, with what turned out to be needed by others.

        Raises:
            DataplaneError: the kernel refused. What was removed before that stays removed.
        """
        found = self.find()
        try:
            virtual_servers.delete(self._servers()[0])
            for tools, family in self._places():
                _remove_chains(tools, family)
            # Sets go behind the rules that look into them. They tell whose virtual servers are, so those go first.
            busy = self._ipsets.remove()
            self._device.remove()
            delete_tables(self._wire, TABLE)
        except OSError as error:
            raise DataplaneError(f"what kube-proxy left can't be removed: {error}; run this as root") from error
        return [*_but(found, busy), *busy]

    def close(self) -> None:
        """Close the sockets."""
        self._wire.close()
        self._device.close()

    def _find_servers(self) -> Iterator[Leftover]:
        theirs, others = self._servers()
        if theirs:
            yield Leftover("virtual servers", members=virtual_servers.named(theirs))
        if others:
            yield Leftover("virtual servers", members=virtual_servers.named(others), kept=_OTHERS)

    def _find_rules(self) -> Iterator[Leftover]:
        for tools, family in self._places():
            yield from _decide(tools, family).found
        for tools, family in self._unseen():
            yield Leftover("chains", place_of(tools.variant, family).format("…"), kept=NO_TOOLS)
        yield from self._ipsets.find()
        yield from self._device.find()
        yield from find_tables(self._wire, TABLE)

    def _servers(self) -> tuple[list[ServerKey], list[ServerKey]]:
        """Return kube-proxy's virtual servers, and those of others."""
        keys = virtual_servers.read_keys()
        if not keys:
            return [], []
        on_device = self._device.addresses()
        marks = virtual_servers.Marks(
            service_addresses=on_device,
            node_ports=self._ipsets.node_ports(self._ipsets.names()),
            node_addresses=frozenset(map(str, device_addresses())) - on_device,
            ours=virtual_servers.ours(self._wire),
        )
        return virtual_servers.split(keys, marks)

    def _places(self) -> list[tuple[Tools, Family]]:
        """Return where chains are to be looked for."""
        return [(tools, family) for tools, family in self._used() if tools.is_installed]

    def _unseen(self) -> list[tuple[Tools, Family]]:
        """Return where chains may be that nothing on this node can list."""
        return [
            (tools, family)
            for tools, family in self._used()
            if not tools.is_installed
            and (tools.variant == "legacy" or any(has_table(self._wire, family, name) for name in chains.NAMES))
        ]

    def _used(self) -> Iterator[tuple[Tools, Family]]:
        for variant in VARIANTS:
            tools = Tools(variant)
            yield from ((tools, family) for family in FAMILIES if tools.is_used(family))


def place_of(variant: Variant, family: Family) -> str:
    """Say where chains are; ``{}`` stands for the table."""
    return f"table {{}} of {_COMMANDS[family]}-{variant}"


def _decide(tools: Tools, family: Family) -> chains.Removal:
    return chains.removal(tools.save(family), place_of(tools.variant, family))


def _remove_chains(tools: Tools, family: Family) -> None:
    script = _decide(tools, family).script
    failure = tools.restore(family, script) if script else None
    if failure is not None:
        line = script.splitlines()[failure.line - 1] if failure.line else "kube-proxy's chains"
        raise DataplaneError(f"{_COMMANDS[family]}-{tools.variant}-restore refused {line!r}: {failure.text}")


def _but(found: list[Leftover], busy: list[Leftover]) -> list[Leftover]:
    """Take away the ipsets that stay."""
    staying = frozenset(name for each in busy for name in each.members)
    kept = [each if each.kind != "ipsets" else _fewer(each, staying) for each in found]
    return [each for each in kept if each.kind != "ipsets" or each.members]


def _fewer(sets: Leftover, staying: frozenset[str]) -> Leftover:
    return msgspec.structs.replace(sets, members=tuple(name for name in sets.members if name not in staying))
