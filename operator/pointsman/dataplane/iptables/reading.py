"""What rules do that are in the kernel: each frontend with the backends that get its new connections."""

from __future__ import annotations

import ipaddress
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

from pointsman.dataplane.iptables.names import EXTERNAL_SERVICES, FILTER, NAT, NODE_PORTS, SERVICES
from pointsman.model.plan import NODE_PORT, Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pointsman.dataplane.iptables.names import Table
    from pointsman.model.plan import Family, Transport

_LISTS: Final[tuple[tuple[Table, str], ...]] = (
    (NAT, SERVICES),
    (NAT, NODE_PORTS),
    (FILTER, SERVICES),
    (FILTER, EXTERNAL_SERVICES),
    (FILTER, NODE_PORTS),
)
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LINE: Final = re.compile(r"^-A \S+ (?:-s \S+ )?(?:-d (\S+) )?-p (\S+) .*--dport (\d+) .*-j (\S+)")
_JUMP: Final = re.compile(r"-j (KUBE-(?:SVC|SVL|EXT|FW)-\S+)")
_CHOICE: Final = re.compile(r"-m comment --comment (?:\S* )?(?:-m statistic .*--probability (\S+) )?-j (KUBE-SEP-\S+)")
_TRANSLATION: Final = re.compile(r"-j DNAT --to-destination (\S+):(\d+)$")
_LARGEST_WEIGHT: Final = 256


def backends(family: Family, held: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[Frontend, tuple[Backend, ...]]:
    """Follow the rules of each frontend to its backends.

    Args:
        family: address family of the rules.
        held: by table and chain, rules as ``iptables-save`` prints them.

    Returns:
        The backends, sorted; none for a frontend that is refused. Weights are the smallest that the probabilities fit.
    """
    reader = _Reader(held.get(NAT, {}))
    found: dict[Frontend, tuple[Backend, ...]] = {}
    for table, chain in _LISTS:
        for rule in held.get(table, {}).get(chain, ()):
            frontend, target = _frontend(family, rule)
            if frontend is None:
                continue
            to = reader.follow(target) if table == NAT else ()
            found[frontend] = to or found.get(frontend, ())
    return found


class _Reader:
    def __init__(self, chains: Mapping[str, tuple[str, ...]]) -> None:
        self._chains = chains
        self._known: dict[str, tuple[Backend, ...]] = {}

    def follow(self, chain: str) -> tuple[Backend, ...]:
        """Return the backends that a Service's chain leads to."""
        known = self._known.get(chain)
        if known is None:
            self._known[chain] = ()  # a chain never leads to itself; a broken rule set must not lead us in circles
            known = self._known[chain] = self._read(chain)
        return known

    def _read(self, chain: str) -> tuple[Backend, ...]:
        rules = self._chains.get(chain, ())
        if chain.startswith(("KUBE-EXT-", "KUBE-FW-")):
            found: dict[tuple[str, int], Backend] = {}
            for rule in rules:
                jump = _JUMP.search(rule)
                for backend in self.follow(jump[1]) if jump else ():
                    found.setdefault((backend.address, backend.port), backend)
            return tuple(sorted(found.values()))
        return tuple(sorted(self._choice(rules)))

    def _choice(self, rules: tuple[str, ...]) -> Iterator[Backend]:
        """Read how likely each endpoint is, and find weights for it."""
        shares: list[tuple[tuple[str, int], float]] = []
        rest = 1.0
        for rule in rules:
            choice = _CHOICE.search(_QUOTED.sub("", rule))
            to = self._translation(choice[2]) if choice else None
            if choice is None or to is None:
                continue
            part = rest * float(choice[1] or 1)
            shares.append((to, part))
            rest -= part
        if not shares or not shares[0][1]:
            return
        ratios = [Fraction(share / shares[0][1]).limit_denominator(_LARGEST_WEIGHT) for _, share in shares]
        unit = math.lcm(*(ratio.denominator for ratio in ratios))
        for (to, _), ratio in zip(shares, ratios, strict=True):
            yield Backend(*to, int(ratio * unit))

    def _translation(self, chain: str) -> tuple[str, int] | None:
        for rule in self._chains.get(chain, ()):
            if found := _TRANSLATION.search(rule):
                return str(ipaddress.ip_address(found[1].strip("[]"))), int(found[2])
        return None


def _frontend(family: Family, rule: str) -> tuple[Frontend | None, str]:
    found = _LINE.match(_QUOTED.sub("", rule))
    if found is None:
        return None, ""
    network, protocol, port, target = found.groups()
    address = str(ipaddress.ip_address(network.partition("/")[0])) if network else NODE_PORT
    return Frontend(family, address, cast("Transport", protocol), int(port)), target
