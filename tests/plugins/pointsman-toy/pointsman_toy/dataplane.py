"""A dataplane that writes one rule for each frontend, as text, and all of them with each change. IPv4 only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import nftables

from pointsman.extending import (
    NODE_PORT,
    Backend,
    DataplaneError,
    Frontend,
    PlainDataplane,
    Plan,
    Support,
    Written,
    apply,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pointsman.extending import Answer, Delta

_TABLE: Final = "ip example-toy"
_RULE: Final = re.compile(r"ip daddr (\S+) (tcp|udp|sctp) dport (\d+) dnat .* map \{(.+)\}")
_BACKEND: Final = re.compile(r": ([\d.]+) \. (\d+)")


class Toy(PlainDataplane):
    """The mode `example.com/toy`."""

    mode = "example.com/toy"

    def __init__(self) -> None:
        self._nft = nftables.Nftables()
        self._plan = Plan({})

    def support(self) -> Support:
        """Say whether this node has what it takes, and how a backend can be chosen: the first one is the default."""
        try:
            self._run("list tables")
        except DataplaneError as error:
            return Support(available=False, reason=f"{error}; run as root, on a kernel with nf_tables")
        return Support(available=True, schedulers=("random",))

    def adopt(self, plan: Plan) -> Written:
        """Bring a whole plan in force, whatever the kernel holds."""
        refused = {_name(frontend): "it serves IPv4 addresses only" for frontend in plan.answers if not _can(frontend)}
        rules = [_rule(frontend, answer) for frontend, answer in sorted(plan.answers.items()) if _can(frontend)]
        before = self.read()
        self._run(
            f"""
            table {_TABLE} {{}}
            delete table {_TABLE}
            table {_TABLE} {{
                chain services {{
                    {"; ".join(filter(None, rules))}
                }}
                chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
                chain output {{ type nat hook output priority -100; jump services; }}
                chain postrouting {{ type nat hook postrouting priority srcnat; ct status dnat masquerade; }}
            }}
            """
        )
        self._plan = plan
        after = self.read()
        added, removed = after.items() - before.items(), before.items() - after.items()
        return Written(len(added), len(removed), refused)

    def apply(self, delta: Delta) -> Written:
        """Bring a change in force; `adopt` was called before."""
        return self.adopt(apply(self._plan, delta))

    def read(self) -> Mapping[Frontend, tuple[Backend, ...]]:
        """Read which backends get new connections, from the kernel."""
        if _TABLE not in self._run("list tables ip"):
            return {}
        found: dict[Frontend, tuple[Backend, ...]] = {}
        for address, protocol, port, backends in _RULE.findall(self._run(f"list chain {_TABLE} services")):
            slots = [(at, int(number)) for at, number in _BACKEND.findall(backends)]
            found[Frontend(4, address, protocol, int(port))] = tuple(
                Backend(at, number, slots.count((at, number))) for at, number in sorted(set(slots))
            )
        return found

    def cleanup(self) -> None:
        """Remove everything; harmless where nothing is."""
        self._run(f"table {_TABLE} {{}}; delete table {_TABLE}")

    def _run(self, commands: str) -> str:
        """Run commands as one transaction.

        Raises:
            DataplaneError: nothing of it is in force.
        """
        code, output, errors = self._nft.cmd(commands)
        if code:
            raise DataplaneError(f"nftables refused: {' '.join(errors.split())}")
        return str(output)


def _name(frontend: Frontend) -> str:
    return f"{frontend.address}:{frontend.port}/{frontend.protocol}"


def _can(frontend: Frontend) -> bool:
    return frontend.family == 4 and frontend.address != NODE_PORT


def _rule(frontend: Frontend, answer: Answer) -> str:
    """Write a rule: a slot is drawn at random, and each backend has as many of them as its weight says."""
    slots = [backend for backend in answer.pool.backends for _ in range(backend.weight)]
    if not slots:
        return ""
    numbered = ", ".join(f"{slot} : {backend.address} . {backend.port}" for slot, backend in enumerate(slots))
    where = f"ip daddr {frontend.address} {frontend.protocol} dport {frontend.port}"
    return f"{where} dnat ip to numgen random mod {len(slots)} map {{ {numbered} }}"
